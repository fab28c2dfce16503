"""Runs: scorings of all examples by one model. Which model, how, and what is there already."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from pausedata import scorers, warmup
from pausedata.core.errors import DataError, UsageError, listing, nearest
from pausedata.core.progress import Progress, Silent
from pausedata.models.ref import ModelRef
from pausedata.pipeline import warming
from pausedata.pipeline.planner import StoredRun, Superseded, Target, but_tokens, recorded
from pausedata.pipeline.recipe import Model, Scoring, check_warmup
from pausedata.pipeline.resolve import Resolved, Tokenizers, find_model, recorded_pins
from pausedata.pipeline.steps import same_ids
from pausedata.pipeline.steps import score as score_step
from pausedata.pipeline.steps.cross_check import CrossCheck
from pausedata.pipeline.steps.reuse import ReusableScores
from pausedata.pipeline.steps.score import CheckedPass, Lengths, cut
from pausedata.pipeline.transaction import Transaction
from pausedata.pipeline.warming import Share
from pausedata.scorers import Job, Scorer, memory
from pausedata.scorers.address import check_address
from pausedata.store.dataset import Table, Version, read_version
from pausedata.store.opening import version_folder, version_numbers
from pausedata.store.repair import find_damage
from pausedata.store.staging import Pins
from pausedata.warmup import Warmed, Warmup

# Backends whose scores are no better than the engine behind them.
CROSS_CHECKED = ("vllm", "server")
DTYPES: tuple[str, ...] = get_args(Model.model_fields["dtype"].annotation)


@dataclass(frozen=True)
class RunSpec:
    """One run: which model scores, and how; ``why`` its backend is what `auto` stands for.

    With a ``warmup`` the model is fine-tuned first; ``before`` is what the run that is there was
    made from, and ``is_damaged`` whether some of its scores are to be made again.
    """

    name: str
    model: ModelRef
    dtype: str
    backend: str
    scoring: Scoring
    why: str | None = None
    warmup: Warmup | None = None
    before: Mapping[str, Any] = field(default_factory=dict)
    is_damaged: bool = False

    @property
    def table(self) -> str:
        """The table's name."""
        return f"scores/{self.name}"

    @property
    def label(self) -> str:
        """The model and how it is run, in a few words."""
        warmed = ", warmed up" if self.warmup else ""
        return f"{self.model.name}, {self.dtype}, {self.backend}{warmed}"

    def inputs(self, tokens: str) -> dict[str, Any]:
        """All that decides the run's scores of ``tokens``, a content hash."""
        wanted = score_step.inputs(
            self.name, self.model, self.dtype, self.backend, self.scoring, tokens
        )
        if self.warmup is None:
            return wanted
        return wanted | {
            "warmup": warming.pinned(
                *(self.warmup, wanted, self.before, self.find_warmed), damaged=self.is_damaged
            )
        }

    def find_warmed(self, of: str) -> Warmed | None:
        """The models that were warmed up on tokens of the content hash ``of``, if they are here."""
        assert self.warmup is not None
        return warming.find(self.model, self.warmup, self.dtype, of)

    def found_damaged(self, tables: Container[str]) -> RunSpec:
        """The run, when it is known which tables have files that no version has whole."""
        return replace(self, is_damaged=self.table in tables)

    def with_model(self, model: ModelRef) -> RunSpec:
        """The run as another model scores it, as it is."""
        return replace(self, model=model, warmup=None)

    def target(self, tokenizers: Tokenizers) -> Target:
        """The run as what is to be made."""
        return Target(
            self.table,
            ("tokens",),
            inputs=lambda contents: self.inputs(contents["tokens"]),
            make=partial(_make, self, tokenizers),
            asked=True,
            label=f"with {self.label}",
            shown=("tokens", "model"),
        )

    def cross_check(self, longest: int, models: int = 1) -> CrossCheck | None:
        """How scores are checked, of one of ``models`` that share the run.

        None where transformers itself gives them.
        """
        if self.backend not in CROSS_CHECKED:
            return None
        return CrossCheck(
            self.model,
            self.dtype,
            self.backend,
            math.ceil(self.scoring.cross_check / models),
            lambda: self.try_out(longest),
        )

    def try_out(self, longest: int) -> None:
        """Raise what would come of loading, as far as it can be had in a moment.

        A server is asked; of another backend settings, devices and memory are looked at.
        """
        self.check_memory(longest)
        if self.backend == "server":
            self.load(Path(), longest, Silent()).close()

    def load(self, logs: Path, longest: int, progress: Progress) -> Scorer:
        """The model, loaded to score examples of at most ``longest`` tokens.

        What an engine says goes to a file in ``logs``.
        """
        listeners: dict[str, Any] = {"logs": logs, "say": progress.say, "warn": progress.warn}
        return scorers.load_scorer(self.backend, self.model, **self._settings(longest), **listeners)

    def job(self, longest: int) -> Job:
        """What a scorer of examples of at most ``longest`` tokens would be made for."""
        return Job(self.model, **self._settings(longest))

    def check_memory(self, longest: int) -> None:
        """UsageError where the model's weights take more memory than there is."""
        memory.check(self.backend, self.job(longest))

    def _settings(self, longest: int) -> dict[str, Any]:
        return {
            "dtype": self.dtype,
            "device": self.scoring.device,
            "batch_tokens": self.scoring.batch_tokens,
            "engine": self.scoring.engine,
            "engines": self.scoring.engines,
            "url": self.scoring.url,
            "longest": longest,
        }


@dataclass(frozen=True)
class ScoreRequest:
    """What a command says of a run; None: as in the run that is there, else as in the recipe.

    ``model`` may be a path, relative to the current folder; ``url`` is a server's, for backend
    ``server``, and is nowhere recorded.
    """

    model: str | None = None
    revision: str | None = None
    dtype: str | None = None
    backend: str | None = None
    device: str | None = None
    batch_tokens: int | None = None
    url: str | None = None
    cross_check: int | None = None
    engines: int | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)
    warmup: bool | Warmup | None = None
    only_warm: bool = False


def of_recipe(
    resolved: Resolved, base: Version | None, damaged: Container[str] = ()
) -> list[RunSpec]:
    """The runs that a recipe names, the main one first; ``damaged`` are tables of ``base``."""
    scoring = resolved.recipe.scoring
    if scoring is None:
        return []
    return [
        RunSpec(
            name,
            resolved.runs[name],
            model.dtype,
            str(resolved.backend),
            scoring,
            resolved.backend_why,
            warming.settings_of(resolved.recipe.warmup_of(name)),
            _before(base, name),
            f"scores/{name}" in damaged,
        )
        for name, model in resolved.recipe.scoring_runs().items()
    ]


def _before(base: Version | None, run: str) -> dict[str, Any]:
    """What the scores of a run that is there were made from."""
    scores = _stored_scores(base, run) if base is not None else None
    return recorded(scores.entry) if scores is not None else {}


def of_command(
    root: Path,
    version: Version,
    name: str,
    asked: ScoreRequest,
    *,
    pin: bool = True,
) -> tuple[RunSpec, Tokenizers]:
    """The run that a command asks for, and the tokenizers to check it with.

    Without ``pin`` what is found is not kept for the next time: nothing is written.
    """
    recipe = version.manifest.recipe
    pins = Pins(root, recorded_pins(version), keep=pin)
    there = _stored_scores(version, name)
    facts = there.entry.provenance if there is not None else {}
    before = facts.get("inputs", {})
    recorded = recipe.get("runs", {}).get(name, recipe).get("model", {})
    if "model" in before:
        recorded = {"dtype": before["dtype"]} | facts.get("model", before["model"])
    settings = recipe.get("scoring") or {}
    scoring = Scoring(**{k: v for k, v in settings.items() if k in Scoring.model_fields})
    own = before.get("backend", scoring.backend)
    keys = ("device", "batch_tokens", "url", "cross_check", "engines")
    changed = {key: getattr(asked, key) for key in keys}
    scoring = scoring.model_copy(update={k: v for k, v in changed.items() if v is not None})
    backend, why = asked.backend or own, None
    scorers.check_backend(backend, "--backend")
    if backend == "auto":
        backend, why = scorers.choose_backend(scoring.device)
    where = "--url" if asked.url is not None else "--url (no dataset records it)"
    check_address(backend, asked.url, where)
    engine: dict[str, Any] = {}
    if backend == own:
        # A run records what decides its scores; how an engine is to run is the recipe's to say.
        engine = score_step.running(scoring.engine) | before.get("engine", scoring.engine)
    if asked.engine and backend != "vllm":
        raise UsageError(f"--engine is for vLLM, backend '{backend}' takes no such settings.")
    scoring = scoring.model_copy(update={"engine": engine | dict(asked.engine)})
    dtype = asked.dtype or recorded.get("dtype", "float32")
    check_dtype(dtype)
    model = Model(
        id=_model_id(name, asked, recorded, bool(before)), revision=_revision(asked, recorded)
    )
    ref, _ = find_model(model, Path(), pins, where="--model")
    tokenizers = Tokenizers(version.manifest.pause.token, pins)
    warmup = _warmup_of(name, asked, before, recipe)
    if not asked.only_warm:
        check_warmup(backend, warmup is not None, "--warmup")
    return RunSpec(name, ref, dtype, backend, scoring, why, warmup, before), tokenizers


def _warmup_of(
    name: str, asked: ScoreRequest, before: Mapping[str, Any], recipe: Mapping[str, Any]
) -> Warmup | None:
    """The warm-up asked for; else that of the run that is there, or that the recipe names.

    A run that neither has is mostly of a checkpoint, which has learnt the format.
    """
    if asked.warmup is not None:
        return warming.settings_of(asked.warmup)
    if before:
        return warming.recorded_settings(before)
    scoring = recipe.get("scoring") or {}
    if name != scoring.get("run") and name not in recipe.get("runs", {}):
        return None
    said = recipe.get("runs", {}).get(name, {}).get("warmup", scoring.get("warmup", False))
    return warming.settings_of(Warmup(**said) if isinstance(said, dict) else said)


def check_dtype(dtype: str) -> None:
    """UsageError unless a model can be run in ``dtype``."""
    if dtype not in DTYPES:
        raise UsageError(f"--dtype: no '{dtype}'.{nearest(dtype, DTYPES)} There: {listing(DTYPES)}")


def _model_id(name: str, asked: ScoreRequest, recorded: dict[str, Any], own: bool) -> str:
    if asked.model is not None:
        return asked.model
    if "revision" in recorded and "id" in recorded:  # on the Hub
        return recorded["id"]
    known = f", which is recorded as '{recorded['id']}'" if own and "id" in recorded else ""
    raise UsageError(
        f"run '{name}': give its model with --model{known}: of a folder or a file a dataset "
        "records no path."
    )


def _revision(asked: ScoreRequest, recorded: dict[str, Any]) -> str | None:
    """The revision asked for; else that of the run that is there, if it is of the same model."""
    if asked.revision is not None or asked.model not in (None, recorded.get("id")):
        return asked.revision
    return recorded.get("revision")


def check_tokenizer(
    who: str,
    model: ModelRef,
    tokenizers: Tokenizers,
    tables: Mapping[str, Table],
    progress: Progress,
    todo: str = "Score it in a dataset of its own.",
) -> dict[str, str]:
    """How the model's tokenizer was found to give the ids that are stored.

    By the tokenizer's hash, else by encoding every stored row again: UsageError where an id
    differs, which begins with ``who`` and ends with ``todo``.
    """
    theirs = tokenizers.hash(model)
    if theirs == tables["tokens"].entry.provenance["inputs"].get("tokenizer"):
        return {"hash": theirs, "checked": "hash"}
    tokenizer = tokenizers.load(model)
    same_ids.check_every_row(f"{who}: {model.name}", todo, tokenizer, tables, progress)
    progress.say(
        f"{model.name}: its tokenizer is not the one that made the tokens, but gives the same "
        "ids for every stored example"
    )
    return {"hash": theirs, "checked": "every row"}


def _make(spec: RunSpec, tokenizers: Tokenizers, tx: Transaction, wanted: dict[str, Any]) -> Table:
    """Score ``spec``, or the rest of it."""
    tokens = tx.tables["tokens"]
    facts = {
        "model": spec.model.identity(),
        "tokenizer": check_tokenizer(
            f"run '{spec.name}'", spec.model, tokenizers, tx.tables, tx.progress
        ),
    }
    lengths = Lengths.of(tokens)
    lengths.check_context(spec.model)

    reuse = find_reusable(tx.root, tx.base, spec.name, wanted, tokens)
    sound = tx.damaged_table(spec.table, wanted)
    shares, made_by = [Share(spec.model, None)], list[str]()
    if spec.warmup is not None:
        scored = sound.entry if sound is not None else reuse
        before = scored.provenance.get("warmup") if scored is not None else None
        shares, record = _warmed(spec, wanted, tx, lengths, reuse, sound, before)
        facts["warmup"], made_by = record, warming.hashes(record)
        if before and made_by != warming.hashes(before):
            tx.progress.warn(
                f"run '{spec.name}': the models that were warmed up for its scores are gone from "
                "the cache, and come out otherwise now: all is scored anew"
            )
            reuse = sound = None
    if reuse is not None:
        _warn_of_lost(spec.table, reuse, tx)
    passes = [
        _pass(spec.with_model(share.model), share, len(shares), tx, lengths) for share in shares
    ]
    return score_step.score(
        *(tx.staging, spec.name, wanted, tokens, passes, reuse, tx.progress, facts),
        sound=sound,
        lengths=lengths,
        made_by=made_by,
    )


def _warmed(
    spec: RunSpec,
    wanted: dict[str, Any],
    tx: Transaction,
    lengths: Lengths,
    reuse: ReusableScores | None,
    sound: Table | None,
    before: dict[str, Any] | None,
) -> tuple[list[Share], dict[str, Any] | None]:
    """The models that score, after their warm-up, and what is recorded of it.

    Where no score is missing none is warmed up: what is recorded is that of ``before``.
    """
    tokens, texts = tx.tables["tokens"], tx.tables["examples"]
    made_by = warming.hashes(before)
    left = score_step.left(tx.root, spec.name, wanted, tokens, lengths, reuse, sound, made_by)
    if before is not None and not left.tokens:
        return [Share(spec.model, None)], before
    warmed = warm_up(spec, wanted["warmup"]["of"], tx.tables, tx.progress)
    return warming.Folds(warmed, tokens, texts).shares(), warmed.record


def _pass(
    spec: RunSpec, share: Share, models: int, tx: Transaction, lengths: Lengths
) -> CheckedPass:
    """Scoring the rows of ``share``, whose model, one of so many, ``spec`` has."""

    def load(logs: Path) -> Scorer:  # called where a score is missing
        if spec.why and not any(table.startswith("scores/") for table in tx.made):  # once
            tx.progress.say(f"scoring.backend auto: {spec.backend} ({spec.why})")
        spec.check_memory(lengths.longest)
        tx.progress.say(f"loading {spec.model.name} ({spec.dtype}, {spec.backend})")
        return spec.load(logs, lengths.longest, tx.progress)

    return CheckedPass(load, share.mask, spec.cross_check(lengths.longest, models))


def warm_up(spec: RunSpec, of: str, tables: Mapping[str, Table], progress: Progress) -> Warmed:
    """The run's models, warmed up now unless they are in the cache, on tokens of the hash ``of``.

    DataError where those tokens are not the ones that are there, and so cannot be trained on.
    """
    assert spec.warmup is not None
    corpus = warming.FirstSplit(tables["tokens"], tables["examples"])
    if corpus.content == of:
        warmed = warmup.warm(
            *(spec.model, spec.warmup, corpus),
            dtype=spec.dtype,
            device=spec.scoring.device,
            kept=warming.kept_at(spec.warmup),
            progress=progress,
        )
    elif (found := spec.find_warmed(of)) is not None:
        warmed = found
    else:
        raise DataError(
            f"run '{spec.name}': the models that were warmed up for its scores are gone from the "
            "cache, and so are the rows that they were trained on. Give --replace to score anew."
        )
    if (folder := warming.kept_at(spec.warmup)) is not None:
        warmup.keep(warmed, folder)
    return warmed


def find_reusable(
    root: Path, base: Version | None, run: str, wanted: dict[str, Any], tokens: Table
) -> ReusableScores | None:
    """What of the scores of ``tokens`` there is in versions up to ``base``, the newest first.

    A version has the run, or what was kept of it (``kept/RUN``). Only scores are taken that were
    made as ``wanted`` says, of whatever tokens. Older versions are looked at as long as examples
    are missing; none is where the base version has the run itself, whole or damaged.
    """
    found, seen = None, set[tuple[str, str]]()
    for version in _versions(root, base):
        scores = _stored_scores(version, run)
        if scores is None:
            continue
        before = recorded(scores.entry)
        stored = version.table("tokens")
        # Of the base version they can be the very same only where they are damaged.
        damaged = version is base and before == wanted and cut(stored) == cut(tokens)
        if damaged or but_tokens(before) != but_tokens(wanted):
            break
        contents = (stored.entry.content, scores.entry.content)
        if contents in seen or (version is not base and scores.absent):
            continue
        seen.add(contents)
        if found is not None and next(found.missing(tokens), None) is None:
            break
        if version is not base:  # what is damaged there, a build puts right before it comes here
            version, _ = find_damage(version, ["tokens", scores.name])
        both = version.table("tokens"), version.table(scores.name)
        if found is None:
            found = ReusableScores(*both)
        else:
            found.add(*both)
    return found


def _versions(root: Path, base: Version | None) -> Iterator[Version]:
    """``base`` and the versions before it, the newest first, but for those that are damaged."""
    if base is None:
        return
    for number in reversed(version_numbers(root)):
        if number == base.number:
            yield base
        elif number < base.number:
            with suppress(DataError):
                yield read_version(root, version_folder(root, number))


def _stored_scores(version: Version, run: str) -> Table | None:
    """The table that has the run's scores, of all examples or of some."""
    names = [name for name in (f"scores/{run}", f"kept/{run}") if name in version.manifest.tables]
    return version.table(names[0]) if names else None


def stored(
    root: Path, base: Version, asked: Iterable[Target], tokens: Table | None
) -> list[Target]:
    """The runs that are there and not ``asked`` for; and what is kept of any.

    ``tokens`` are those that there will be, where they are known and not what they were.
    """
    named, runs, kept = {target.name: target for target in asked}, list[Target](), list[Target]()
    for run in dict.fromkeys([*base.runs, *base.manifest.names("kept")]):
        name = f"kept/{run}"
        if (target := named.get(f"scores/{run}")) is not None:
            kept.append(Superseded(name, ("tokens",), target.inputs))
            continue
        scores = _stored_scores(base, run)
        assert scores is not None
        facts: dict[str, Any] = {"again": _command(root, run, scores.entry.provenance)}
        reuse = None
        if tokens is not None:
            wanted = recorded(scores.entry) | {"tokens": tokens.entry.content}
            reuse, rows = find_reusable(root, base, run, wanted, tokens), tokens.entry.rows
            assert reuse is not None  # the base version's at least: its tokens are others
            have = rows - sum(1 for _ in reuse.missing(tokens))
            facts |= {"have": have, "rows": rows, "lost": reuse.lost(tokens)}
        reads = ("tokens",)
        runs.append(StoredRun(f"scores/{run}", reads, None, partial(_carry, run, reuse), **facts))
        kept.append(StoredRun(name, reads, None, partial(_keep, run, reuse), **facts))
    return [*runs, *kept]


def kept_runs(base: Version) -> dict[str, str]:
    """What to say of each run that is there as ``kept/RUN`` alone, by the table that it lacks."""
    rows = base.table("tokens").entry.rows
    found: dict[str, str] = {}
    for run in base.manifest.names("kept"):
        entry = base.table(f"kept/{run}").entry
        found[f"scores/{run}"] = (
            f"Of run '{run}' the scores of {entry.rows:,} of {rows:,} examples are kept: "
            f"`{_command(base.root, run, entry.provenance)}` scores the rest."
        )
    return found


def _carry(run: str, reuse: ReusableScores | None, tx: Transaction, _: Any) -> Table:
    """A run of which every example that there is now was scored: no model is needed."""
    assert reuse is not None
    tokens, facts = tx.tables["tokens"], reuse.provenance

    def load(logs: Path) -> Scorer:
        raise DataError(f"scores/{run}: no model is known for this run.")

    wanted = but_tokens(facts["inputs"]) | {"tokens": tokens.entry.content}
    known = {key: facts[key] for key in ("model", "tokenizer", "warmup") if key in facts}
    return score_step.score(
        *(tx.staging, run, wanted, tokens, [CheckedPass(load)], reuse, tx.progress, known)
    )


def _keep(run: str, reuse: ReusableScores | None, tx: Transaction, _: Any) -> Table:
    """What there is of a run of which some examples were never scored."""
    assert reuse is not None
    tokens, before = tx.tables["tokens"], reuse.provenance["inputs"]
    wanted = before | {"tokens": tokens.entry.content, "scores": reuse.content}
    _warn_of_lost(f"kept/{run}", reuse, tx)
    return score_step.keep(tx.staging, run, wanted, tokens, reuse)


def _warn_of_lost(table: str, reuse: ReusableScores, tx: Transaction) -> None:
    """Say that scores which were paid for are lost, where they are."""
    if lost := reuse.lost(tx.tables["tokens"]):
        tx.progress.warn(f"{table}: the scores of unchanged examples are carried over{lost}")


def _command(root: Path, run: str, facts: dict[str, Any]) -> str:
    """The command that scores a run again, as far as a dataset knows its model."""
    inputs = facts.get("inputs", {})
    model, own = inputs.get("model"), facts.get("model")
    words = ["pausedata", "score", str(root), "--run", run]
    if isinstance(model, dict) and "revision" in model:
        words += ["--model", model["id"], "--revision", str(model["revision"])]
    else:  # of a folder or a file a dataset records no path
        words += ["--model", f"PATH-OF-{own.get('id') if isinstance(own, dict) else 'MODEL'}"]
    for key in ("dtype", "backend"):
        words += [f"--{key}", inputs[key]] if key in inputs else []
    for key, value in inputs.get("engine", {}).items():
        words += ["--engine", f"{key}={json.dumps(value)}"]
    if inputs.get("backend") == "server":
        words += ["--url", "ADDRESS-OF-THE-SERVER"]
    return shlex.join(words)
