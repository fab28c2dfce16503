"""``measure``: from a dataset and a trained model to figures, a verdict and its record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pausedata.core import stopping
from pausedata.core.errors import DataError, UsageError
from pausedata.core.progress import Progress, Silent
from pausedata.measure import trained_on
from pausedata.measure.examples import ExamplePair, choose
from pausedata.measure.figures import RESAMPLES, figures
from pausedata.measure.generate import (
    Answering,
    Generating,
    Record,
    Writer,
    scorer,
    summary,
    way_of,
    write_pairs,
)
from pausedata.measure.judge import Watch, judge
from pausedata.measure.likelihood import measure_pairs
from pausedata.measure.measured import Measured
from pausedata.measure.result import Generated, MeasuredPart, Measurement
from pausedata.models.ref import ModelRef
from pausedata.models.shape import context_length
from pausedata.pipeline import runs
from pausedata.pipeline.commands import existing
from pausedata.pipeline.recipe import Model, Scoring
from pausedata.pipeline.resolve import Tokenizers, find_model, recorded_pins
from pausedata.pipeline.rules import Rules
from pausedata.pipeline.runs import RunSpec
from pausedata.pipeline.transaction import Outcome, Transaction
from pausedata.scorers import Scorer
from pausedata.store.shards import read_shard, shard_name
from pausedata.store.staging import Pins, Stage, when_free
from pausedata.store.tables import schema_of

PART = 32  # examples that are kept together: what a kill can cost


@dataclass(frozen=True)
class MeasureOptions:
    """What a command asks for; models are Hub ids, folders or .gguf files."""

    model: str
    placement: str
    baseline: str | None = None
    dtype: str = "float32"
    device: str = "auto"
    split: str | None = None
    allow_trained: bool = False  # measure what an export was written of to train on
    group_by: str | None = None
    examples: int | None = None  # at most so many
    seed: int = 0
    resamples: int = RESAMPLES
    rules: Rules | None = None
    to_the_end: bool = False  # go on where help is ruled out
    record: str | None = None  # the gate's name, where it is recorded
    generating: Generating | None = None  # answers, too


def measure(
    root: Path, asked: MeasureOptions, *, command: str = "measure", progress: Progress | None = None
) -> tuple[Measurement, Outcome | None]:
    """Measure ``asked.placement`` with ``asked.model``, and judge it where there are rules.

    With ``asked.record`` what was found is committed, as the table ``gates/NAME`` of a new version,
    which replaces one of that name. What is measured is kept after every few examples: started
    again after a stop, it goes on. UsageError for models that cannot be compared, and whatever
    else is wrong with ``asked``.
    """
    progress = progress or Silent()

    def make() -> tuple[Measurement, Outcome | None]:
        return _Measuring(root, asked, progress).run(command)

    return when_free(make, progress)


class _Measuring:
    """One measurement: what it reads, and how far it is."""

    def __init__(self, root: Path, asked: MeasureOptions, progress: Progress) -> None:
        self.asked, self.progress = asked, progress
        self.version = existing(root)
        self.root = root
        pins = Pins(root, recorded_pins(self.version), keep=False)
        self.tokenizers = Tokenizers(self.version.manifest.pause.token, pins)
        self.version.table(f"placements/{asked.placement}")
        self.model = _find(asked.model, pins, "--model")
        self.baseline = _find(asked.baseline, pins, "--baseline") if asked.baseline else None
        self._check_models()
        self.trained_on = trained_on.check(
            *(self.version, asked.placement, asked.split, asked.seed),
            allowed=asked.allow_trained,
            progress=progress,
        )
        self.chosen = choose(
            self.version,
            asked.placement,
            split=asked.split,
            seed=asked.seed,
            most=asked.examples,
            group_by=asked.group_by,
            texts=asked.generating is not None,
            progress=progress,
        )
        if self.chosen.where.seed is not None:
            progress.say(
                f"the dataset has one split: a fifth of it is measured, {self.chosen.there} "
                "examples. They are held out only if the model was not trained on them."
            )

    def run(self, command: str) -> tuple[Measurement, Outcome | None]:
        with Transaction(self.root, self.version, self.progress) as work:
            stage = work.staging.stage("measure", self._inputs())
            pairs, overlong = self._pairs_that_fit()
            # What answers need comes first: it costs nothing, and may be missing.
            answering = self._answering(pairs)
            watches = self._watches(pairs)
            measured = self._measure(stage, pairs, watches)
            result = self._result(measured, overlong, watches, stopped=len(measured) < len(pairs))
            stages = [stage]
            if answering is not None:
                wanted = self._inputs() | answering.how.as_json()
                stages.append(work.staging.stage("generate", wanted))
                records = self._generate(stages[-1], pairs[: len(measured)], answering)
                result = replace(result, generated=self._generated(records, answering.how))
            outcome = self._record(work, result, measured, command)
            for finished in stages:
                work.staging.drop(finished)
            return result, outcome

    def _check_models(self) -> None:
        """UsageError unless both give the stored ids, and the trained one has the pause."""
        pause = self.version.manifest.pause
        for option, model in (("--model", self.model), ("--baseline", self.baseline)):
            if model is None:
                continue
            todo = f"Only models with the tokenizer of {self.version.manifest.name} are compared."
            runs.check_tokenizer(
                *(option, model, self.tokenizers, self.version.tables, self.progress, todo)
            )
        found, is_new = self.tokenizers.load(self.model).pause_id(pause.token)
        if is_new:
            raise UsageError(
                f"--model: {self.model.name} has no token {pause.token}, so that it was not "
                "trained with pauses. `pausedata prepare-model` adds the token, before training."
            )
        if found != pause.id:
            raise UsageError(
                f"--model: {self.model.name} has {pause.token} as id {found}, the dataset as id "
                f"{pause.id}: it was trained on exports of another dataset."
            )

    def _inputs(self) -> dict[str, Any]:
        """All that decides what is measured of an example."""
        asked, tables = self.asked, self.version.manifest.tables
        return {
            "placement": asked.placement,
            "content": tables[f"placements/{asked.placement}"].content,
            "tokens": tables["tokens"].content,
            "model": self.model.identity(),
            "baseline": self.baseline.identity() if self.baseline else None,
            "dtype": asked.dtype,
            "device": asked.device,
            "split": self.chosen.where.split,
            "fifth": self.chosen.where.seed is not None,
            "seed": asked.seed,
            "group_by": asked.group_by,
        }

    def _pairs_that_fit(self) -> tuple[list[ExamplePair], int]:
        """The examples that the models take, and how many are longer."""
        models = [self.model, *([self.baseline] if self.baseline else [])]
        limits = [limit for model in models if (limit := context_length(model)) is not None]
        pairs = self.chosen.pairs
        fitting = [pair for pair in pairs if not limits or len(pair) <= min(limits)]
        overlong = len(pairs) - len(fitting)
        if overlong:
            self.progress.warn(
                f"{overlong} of {len(pairs)} examples are left out: with their pauses they are "
                f"longer than the {min(limits)} tokens that the model takes."
            )
        if not fitting:
            raise DataError("no example is left to measure: all are longer than the model takes.")
        return fitting, overlong

    def _watches(self, pairs: list[ExamplePair]) -> dict[str | None, Watch]:
        """Who says when help is ruled out: for the whole (None), and for each group."""
        rules = self.asked.rules
        if rules is None:
            return {}
        groups = {pair.group for pair in pairs} if rules.per_group else set[str | None]()
        return {name: Watch(rules) for name in (None, *sorted(g for g in groups if g is not None))}

    def _measure(
        self, stage: Stage, pairs: list[ExamplePair], watches: Mapping[str | None, Watch]
    ) -> Measured:
        """Part by part, until all are measured or nothing is left to decide."""
        # Groups too small to be judged do not keep the measurement going.
        sizes = {name: sum(pair.group == name for pair in pairs) for name in watches if name}
        deciding = [w for n, w in watches.items() if not n or sizes[n] >= w.rules.min_examples]
        parts: list[Measured] = []
        kept = {start: _kept(stage, start, pairs) for start in range(0, len(pairs), PART)}
        title = f"measuring {self.asked.placement}"
        with (
            self._scorers(pairs, needed=None in kept.values()) as scorers,
            stopping.graceful_shutdown(),
            self.progress.step(title, len(pairs), "examples") as advance,
        ):
            for start, part in kept.items():
                some = pairs[start : start + PART]
                if part is None:
                    part = measure_pairs(some, start, *scorers)
                    stage.write(_part_path(start), part.table())
                parts.append(part)
                for name, watch in watches.items():
                    watch.add(part if name is None else part.of_group(name))
                advance(len(some))
                stopping.raise_if_stopped()
                ended = deciding and all(watch.ruled_out is not None for watch in deciding)
                if ended and not self.asked.to_the_end and start + PART < len(pairs):
                    self.progress.say(
                        f"help is ruled out after {start + PART} of {len(pairs)} examples: "
                        "the others are not measured (--to-the-end goes on)"
                    )
                    break
        return Measured.joined(parts)

    @contextmanager
    def _scorers(self, pairs: list[ExamplePair], *, needed: bool) -> Iterator[list[Scorer]]:
        """The trained model and what it is compared with, if they are ``needed`` at all."""
        loaded: list[Scorer] = []
        longest = max(map(len, pairs))
        try:
            for model in (self.model, self.baseline) if needed else ():
                if model is None:
                    continue
                spec = self._spec(model)
                spec.check_memory(longest)
                self.progress.say(f"loading {spec.label}")
                loaded.append(spec.load(self.root / "staging", longest, self.progress))
            both = [loaded[0], loaded[-1]] if loaded else []
            if both:  # the first pass of a model is slower than any other, and is nobody's cost
                measure_pairs(pairs[:1], 0, *both)
            yield both
        finally:
            for scorer in loaded:
                scorer.close()

    def _answering(self, pairs: list[ExamplePair]) -> Answering | None:
        """What answers to ``pairs`` need; None where none were asked for."""
        how = self.asked.generating
        if how is None:
            return None
        placed = self.version.table(f"placements/{self.asked.placement}").entry
        way = way_of(placed.provenance["inputs"], how)
        return Answering(how, way, scorer(how.task, pairs))

    def _generate(
        self, stage: Stage, pairs: list[ExamplePair], answering: Answering
    ) -> list[Record]:
        """Answers to ``pairs``, batch by batch; those that an earlier try wrote are kept."""
        how, size = answering.how, answering.how.batch
        batches = {k: pairs[k : k + size] for k in range(0, len(pairs), size)}
        kept = {start: _written(stage, start, some) for start, some in batches.items()}
        trained = baseline = None
        if None in kept.values():
            trained = self._writer(self.model, how)
            baseline = self._writer(self.baseline, how) if self.baseline else trained
        found: list[Record] = []
        title = f"generating answers, {how.task}"
        with (
            stopping.graceful_shutdown(),
            self.progress.step(title, len(pairs), "examples") as advance,
        ):
            for number, (start, some) in enumerate(batches.items()):
                records = kept[start]
                if records is None:
                    assert trained is not None and baseline is not None
                    records = write_pairs(some, number, trained, baseline, answering)
                    stage.note(_answers_name(start), {"answers": records})
                found += records
                advance(len(some))
                stopping.raise_if_stopped()
        return found

    def _writer(self, model: ModelRef, asked: Generating) -> Writer:
        pause = self.version.manifest.pause.token
        return Writer(model, pause, asked, dtype=self.asked.dtype, device=self.asked.device)

    def _generated(self, records: list[Record], asked: Generating) -> Generated:
        settings = self._interval_settings
        groups = sorted({r["group"] for r in records if r["group"] is not None})
        return Generated(
            asked,
            summary(records, **settings),
            {g: summary([r for r in records if r["group"] == g], **settings) for g in groups},
            records,
        )

    @property
    def _interval_settings(self) -> dict[str, Any]:
        asked = self.asked
        confidence = asked.rules.confidence if asked.rules else 0.95
        return {"confidence": confidence, "seed": asked.seed, "resamples": asked.resamples}

    def _spec(self, model: ModelRef) -> RunSpec:
        scoring = Scoring(device=self.asked.device)
        return RunSpec("measure", model, self.asked.dtype, "transformers", scoring)

    def _result(
        self,
        measured: Measured,
        overlong: int,
        watches: Mapping[str | None, Watch],
        *,
        stopped: bool,
    ) -> Measurement:
        asked, rules = self.asked, self.asked.rules
        settings = self._interval_settings

        def part(name: str | None) -> MeasuredPart:
            own = measured if name is None else measured.of_group(name)
            told = figures(own, **settings)
            if rules is None or name not in watches:
                return MeasuredPart(told)
            ruled_out = watches[name].ruled_out
            return MeasuredPart(told, judge(told, rules, ruled_out), ruled_out)

        if rules and rules.per_group and asked.group_by is None:
            self.progress.warn(
                "the gate asks for a verdict per group, and no groups are named: --group-by COLUMN"
            )
        return Measurement(
            dataset=self.version.manifest.name,
            version=self.version.number,
            placement=asked.placement,
            model=self.model.identity(),
            baseline=self.baseline.identity() if self.baseline else None,
            held_out=self.chosen.where,
            examples_there=self.chosen.there,
            overlong=overlong,
            seed=asked.seed,
            confidence=settings["confidence"],
            group_by=asked.group_by,
            rules=rules,
            whole=part(None),
            groups={name: part(name) for name in measured.groups()},
            stopped_early=stopped,
            trained_on=self.trained_on,
        )

    def _record(
        self, work: Transaction, result: Measurement, measured: Measured, command: str
    ) -> Outcome | None:
        """Commit what was found as a table of a new version; None where that was not asked for."""
        asked = self.asked
        if asked.record is None:
            return None
        name = f"gates/{asked.record}"
        generating = asked.generating.as_json() if asked.generating else None
        wanted = self._inputs() | {
            **({"generating": generating} if generating else {}),
            "rules": asked.rules.model_dump() if asked.rules else None,
            "examples": asked.examples,
            "resamples": asked.resamples,
        }
        stage = work.staging.stage(name, wanted)
        split = self.chosen.where.split
        path = f"{name}/{shard_name(split, 0, 1)}"
        stage.write(path, measured.table())
        facts = {
            "inputs": wanted,
            "made_from": ["tokens", f"placements/{asked.placement}"],
            "result": result.as_json(),
        }
        work.put(stage.table(name, schema_of(name), [(split, path)], facts))
        return work.commit(command)


def _find(id: str, pins: Pins, option: str) -> ModelRef:
    return find_model(Model(id=id), Path(), pins, where=option)[0]


def _part_path(start: int) -> str:
    return f"part-{start // PART:05d}-of-00000.parquet"


def _kept(stage: Stage, start: int, pairs: list[ExamplePair]) -> Measured | None:
    """The part at ``start``, if an earlier try measured it."""
    pairs = pairs[start : start + PART]
    path = _part_path(start)
    if stage.finished(path) is None:
        return None
    part = Measured.of_table(read_shard(stage.folder / path))
    return part if part.id.tolist() == [pair.id for pair in pairs] else None


def _answers_name(start: int) -> str:
    return f"answers-{start:06d}"


def _written(stage: Stage, start: int, pairs: list[ExamplePair]) -> list[Record] | None:
    """The answers to ``pairs``, which begin at ``start``, if an earlier try wrote them."""
    records = (stage.record(_answers_name(start)) or {}).get("answers", [])
    same = [record["id"] for record in records] == [pair.id for pair in pairs]
    return records if same else None
