"""``measure``: from a dataset and a trained model to figures, a verdict and its record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pausedata.core import stopping
from pausedata.core.errors import DataError, UsageError
from pausedata.core.progress import Progress, Silent
from pausedata.measure import trained_on
from pausedata.measure.answers import READING
from pausedata.measure.deciding import Deciding, units_of
from pausedata.measure.declared import leaks_of
from pausedata.measure.examples import ExamplePair, choose
from pausedata.measure.figures import figures
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
from pausedata.measure.judge import judge
from pausedata.measure.likelihood import Readers, measure_pairs
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
    """What a command asks for; models are Hub ids, folders or .gguf files.

    ``models`` were trained alike but for their seed, and so were ``baselines``; without any, each
    model is its own. ``same_as``: models that differ from the baselines by their seed alone.
    """

    models: Sequence[str]
    placement: str
    baselines: Sequence[str] = ()
    same_as: Sequence[str] = ()
    dtype: str = "float32"
    device: str = "auto"
    split: str | None = None
    allow_trained: bool = False  # measure what an export was written of to train on
    group_by: str | None = None
    examples: int | None = None  # at most so many
    seed: int = 0
    cluster: str | None = None  # a column: its examples are like one another
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
        self.models = [_find(model, pins, "--model") for model in asked.models]
        self.baselines = [_find(model, pins, "--baseline") for model in asked.baselines]
        self.same_as = [_find(model, pins, "--same-as") for model in asked.same_as]
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
            cluster=asked.cluster,
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
            measured = self._measure(stage, pairs)
            generated = None
            stages = [stage]
            if answering is not None:
                wanted = self._inputs() | answering.how.as_json() | {"reading": READING}
                stages.append(work.staging.stage("generate", wanted))
                records = self._generate(stages[-1], pairs[: len(measured)], answering)
                generated = self._generated(records, pairs, answering.how)
            result = self._result(measured, pairs, overlong, generated)
            outcome = self._record(work, result, measured, command)
            for finished in stages:
                work.staging.drop(finished)
            return result, outcome

    def _check_models(self) -> None:
        """UsageError unless both give the stored ids, and the trained one has the pause."""
        pause = self.version.manifest.pause
        told = {"--model": self.models, "--baseline": self.baselines, "--same-as": self.same_as}
        for options in (["--model"], ["--baseline", "--same-as"]):
            seen: set[str] = set()
            for option in options:
                for model in told[option]:
                    weights = str(model.identity().get("weights_sha256") or model.identity())
                    if weights in seen:
                        raise UsageError(
                            f"{option}: {model.name} has the weights of another that is given: it "
                            "tells nothing of what the seed does. Give one of another seed."
                        )
                    seen.add(weights)
        for option, model in ((option, model) for option, some in told.items() for model in some):
            todo = f"Only models with the tokenizer of {self.version.manifest.name} are compared."
            runs.check_tokenizer(
                *(option, model, self.tokenizers, self.version.tables, self.progress, todo)
            )
        for model in self.models:
            found, is_new = self.tokenizers.load(model).pause_id(pause.token)
            if is_new:
                raise UsageError(
                    f"--model: {model.name} has no token {pause.token}, so that it was not trained "
                    "with pauses. `pausedata prepare-model` adds the token, before training."
                )
            if found != pause.id:
                raise UsageError(
                    f"--model: {model.name} has {pause.token} as id {found}, the dataset as id "
                    f"{pause.id}: it was trained on exports of another dataset."
                )

    def _inputs(self) -> dict[str, Any]:
        """All that decides what is measured of an example."""
        asked, tables = self.asked, self.version.manifest.tables
        return {
            "placement": asked.placement,
            "content": tables[f"placements/{asked.placement}"].content,
            "tokens": tables["tokens"].content,
            "models": [model.identity() for model in self.models],
            "baselines": [model.identity() for model in self.baselines],
            "same_as": [model.identity() for model in self.same_as],
            "dtype": asked.dtype,
            "device": asked.device,
            "split": self.chosen.where.split,
            "fifth": self.chosen.where.seed is not None,
            "seed": asked.seed,
            "group_by": asked.group_by,
            "cluster": asked.cluster,
        }

    def _pairs_that_fit(self) -> tuple[list[ExamplePair], int]:
        """The examples that the models take, and how many are longer."""
        models = [*self.models, *self.baselines, *self.same_as]
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

    def _measure(self, stage: Stage, pairs: list[ExamplePair]) -> Measured:
        """Part by part, until all are measured or nothing is left to decide."""
        parts: list[Measured] = []
        kept = {start: _kept(stage, start, pairs) for start in range(0, len(pairs), PART)}
        asked = self.asked
        deciding = Deciding(pairs, asked.rules) if asked.rules else None
        title = f"measuring {self.asked.placement}"
        with (
            self._readers(pairs, needed=None in kept.values()) as readers,
            stopping.graceful_shutdown(),
            self.progress.step(title, len(pairs), "examples") as advance,
        ):
            for start, part in kept.items():
                some = pairs[start : start + PART]
                if part is None:
                    assert readers is not None
                    part = measure_pairs(some, start, readers)
                    stage.write(_part_path(start), part.part())
                parts = [Measured.joined([*parts, part])]
                advance(len(some))
                stopping.raise_if_stopped()
                done = start + len(some)
                if deciding is None or asked.to_the_end or done == len(pairs):
                    continue
                if deciding.is_over(parts[0]):
                    self.progress.say(
                        f"help is ruled out after {done} of {len(pairs)} examples: the others are "
                        "not measured (--to-the-end goes on)"
                    )
                    break
        return parts[0]

    @contextmanager
    def _readers(self, pairs: list[ExamplePair], *, needed: bool) -> Iterator[Readers | None]:
        """The models, if they are ``needed`` at all."""
        loaded: list[Scorer] = []
        longest = max(map(len, pairs))
        try:
            for model in (*self.models, *self.baselines, *self.same_as) if needed else ():
                spec = self._spec(model)
                spec.check_memory(longest)
                self.progress.say(f"loading {spec.label}")
                loaded.append(spec.load(self.root / "staging", longest, self.progress))
            readers = None
            if loaded:
                trained, rest = loaded[: len(self.models)], loaded[len(self.models) :]
                plain = rest[: len(self.baselines)] or trained
                readers = Readers(trained, plain, rest[len(self.baselines) :])
                # The first pass of a model is slower than any other, and is nobody's cost.
                measure_pairs(pairs[:1], 0, readers)
            yield readers
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
            trained = self._writer(self.models[0], how)
            baseline = self._writer(self.baselines[0], how) if self.baselines else trained
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

    def _generated(
        self, records: list[Record], pairs: list[ExamplePair], asked: Generating
    ) -> Generated:
        units = units_of(pairs[: len(records)])
        names = np.array([record["group"] for record in records], dtype=object)

        def part(mine: Any) -> dict[str, Any]:
            of = None if units is None else units[mine]
            chosen = [record for record, own in zip(records, mine, strict=True) if own]
            return summary(chosen, confidence=self._confidence, units=of)

        groups = sorted({name for name in names if name is not None})
        whole = part(np.ones(len(records), np.bool_))
        return Generated(asked, whole, {name: part(names == name) for name in groups}, records)

    @property
    def _confidence(self) -> float:
        return self.asked.rules.confidence if self.asked.rules else 0.95

    def _spec(self, model: ModelRef) -> RunSpec:
        scoring = Scoring(device=self.asked.device)
        return RunSpec("measure", model, self.asked.dtype, "transformers", scoring)

    def _result(
        self,
        measured: Measured,
        pairs: list[ExamplePair],
        overlong: int,
        generated: Generated | None,
    ) -> Measurement:
        asked, rules = self.asked, self.asked.rules
        confidence = self._confidence
        leak, units = (
            leaks_of(self.version, asked.placement, pairs)[: len(measured)],
            units_of(pairs[: len(measured)]),
        )

        deciding = Deciding(pairs, rules) if rules else None

        def part(name: str | None) -> MeasuredPart:
            mine: Any = slice(None)
            answers = generated.whole if generated else None
            if name is not None:
                mine = np.asarray(measured.group_name == name, dtype=bool)
                answers = generated.groups.get(name) if generated else None
            told = figures(
                measured.take(mine),
                leak=leak[mine],
                units=None if units is None else units[mine],
                paired=not self.baselines,
                confidence=confidence,
            )
            if rules is None or deciding is None or (name is not None and not rules.per_group):
                return MeasuredPart(told)
            ended = deciding.ruled_out(measured, name)
            return MeasuredPart(told, judge(told, rules, ended, answers), ended)

        if rules and rules.per_group and asked.group_by is None:
            self.progress.warn(
                "the gate asks for a verdict per group, and no groups are named: --group-by COLUMN"
            )
        return Measurement(
            dataset=self.version.manifest.name,
            version=self.version.number,
            placement=asked.placement,
            models=[model.identity() for model in self.models],
            baselines=[model.identity() for model in self.baselines],
            same_as=[model.identity() for model in self.same_as],
            held_out=self.chosen.where,
            examples_there=self.chosen.there,
            overlong=overlong,
            seed=asked.seed,
            confidence=confidence,
            group_by=asked.group_by,
            cluster=asked.cluster,
            rules=rules,
            whole=part(None),
            groups={name: part(name) for name in measured.groups()},
            stopped_early=len(measured) < len(pairs),
            generated=generated,
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
    part = Measured.of_part(read_shard(stage.folder / path))
    return part if part.id.tolist() == [pair.id for pair in pairs] else None


def _answers_name(start: int) -> str:
    return f"answers-{start:06d}"


def _written(stage: Stage, start: int, pairs: list[ExamplePair]) -> list[Record] | None:
    """The answers to ``pairs``, which begin at ``start``, if an earlier try wrote them."""
    records = (stage.record(_answers_name(start)) or {}).get("answers", [])
    same = [record["id"] for record in records] == [pair.id for pair in pairs]
    return records if same else None
