"""Runs: scorings of all examples by one model. What `build` and `score` do for each of them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from pausedata import scorers
from pausedata.core.errors import DataError, UsageError, listing, nearest
from pausedata.core.progress import Progress, Silent
from pausedata.models.ref import ModelRef
from pausedata.pipeline.recipe import Model, Scoring
from pausedata.pipeline.resolve import Resolved, Tokenizers, find_model, recorded_pins
from pausedata.pipeline.steps import same_ids
from pausedata.pipeline.steps import score as score_step
from pausedata.pipeline.steps.carry import CarriedScores
from pausedata.pipeline.steps.cross_check import CrossCheck
from pausedata.pipeline.work import Work
from pausedata.scorers import Job, Scorer, memory
from pausedata.scorers.address import check_address
from pausedata.store.dataset import Table, Version, read_version
from pausedata.store.opening import version_folder, version_numbers
from pausedata.store.staging import Pins

# Backends whose scores are no better than the engine behind them.
CROSS_CHECKED = ("vllm", "server")
DTYPES: tuple[str, ...] = get_args(Model.model_fields["dtype"].annotation)


@dataclass(frozen=True)
class RunSpec:
    """One run: which model scores, and how; ``why`` its backend is what `auto` stands for."""

    name: str
    model: ModelRef
    dtype: str
    backend: str
    scoring: Scoring
    why: str | None = None

    @property
    def table(self) -> str:
        """The table's name."""
        return f"scores/{self.name}"

    @property
    def label(self) -> str:
        """The model and how it is run, in a few words."""
        return f"{self.model.name}, {self.dtype}, {self.backend}"

    def inputs(self, tokens: Table) -> dict[str, Any]:
        """All that decides the run's scores of ``tokens``."""
        return score_step.inputs(
            self.name, self.model, self.dtype, self.backend, self.scoring, tokens.entry.content
        )

    def cross_check(self, longest: int) -> CrossCheck | None:
        """How the scores are checked; None where transformers itself gives them."""
        if self.backend not in CROSS_CHECKED:
            return None
        return CrossCheck(
            self.model,
            self.dtype,
            self.backend,
            self.scoring.cross_check,
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
class Asked:
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


def of_recipe(resolved: Resolved) -> list[RunSpec]:
    """The runs that a recipe names, the main one first."""
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
        )
        for name, model in resolved.recipe.scoring_runs().items()
    ]


def of_command(
    root: Path, version: Version, name: str, asked: Asked, *, pin: bool = True
) -> tuple[RunSpec, Tokenizers]:
    """The run that a command asks for, and the tokenizers to check it with.

    Without ``pin`` what is found is not kept for the next time: nothing is written.
    """
    recipe = version.manifest.recipe
    pins = Pins(root, recorded_pins(version), keep=pin)
    facts = version.table(f"scores/{name}").entry.provenance if name in version.runs else {}
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
    return RunSpec(name, ref, dtype, backend, scoring, why), tokenizers


def check_dtype(dtype: str) -> None:
    """UsageError unless a model can be run in ``dtype``."""
    if dtype not in DTYPES:
        raise UsageError(f"--dtype: no '{dtype}'.{nearest(dtype, DTYPES)} There: {listing(DTYPES)}")


def _model_id(name: str, asked: Asked, recorded: dict[str, Any], own: bool) -> str:
    if asked.model is not None:
        return asked.model
    if "revision" in recorded and "id" in recorded:  # on the Hub
        return recorded["id"]
    known = f", which is recorded as '{recorded['id']}'" if own and "id" in recorded else ""
    raise UsageError(
        f"run '{name}': give its model with --model{known}: of a folder or a file a dataset "
        "records no path."
    )


def _revision(asked: Asked, recorded: dict[str, Any]) -> str | None:
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


def make(spec: RunSpec, tokenizers: Tokenizers, work: Work) -> None:
    """Score ``spec`` unless it is there, made from the same inputs."""
    tokens = work.tables["tokens"]
    wanted = spec.inputs(tokens)
    if work.has(spec.table, wanted):
        work.keep(spec.table)
        return
    _refuse_later(work, spec.table, wanted)
    facts = {
        "model": spec.model.identity(),
        "tokenizer": check_tokenizer(
            f"run '{spec.name}'", spec.model, tokenizers, work.tables, work.progress
        ),
    }
    longest = score_step.check_context(tokens, spec.model)

    def load(logs: Path) -> Scorer:  # called where a score is missing
        if spec.why and not any(table.startswith("scores/") for table in work.made):  # once
            work.progress.say(f"scoring.backend auto: {spec.backend} ({spec.why})")
        spec.check_memory(longest)
        work.progress.say(f"loading {spec.model.name} ({spec.dtype}, {spec.backend})")
        return spec.load(logs, longest, work.progress)

    carried = find_carried(work.root, work.base, spec.name, wanted)
    sound = work.damaged_table(spec.table, wanted)
    table = score_step.score(
        *(work.staging, spec.name, wanted, tokens, load, carried, work.progress, facts, sound),
        spec.cross_check(longest),
    )
    work.put(table)
    rules = tokens.entry.provenance["inputs"].get("scoring", {})
    for warning in score_step.edge_warnings(table, rules.get("append_eos", False)):
        work.progress.warn(warning)


def _refuse_later(work: Work, name: str, wanted: dict[str, Any]) -> None:
    """UsageError where a later release made ``name`` from more than this one knows.

    Scoring it again as this release would is dear, and would lose what that one added.
    """
    if name not in work.tables:
        return
    unknown = set(work.tables[name].entry.provenance.get("inputs", {})) - set(wanted)
    if unknown:
        raise UsageError(
            f"{work.root}: {name} was made by a later release of pausedata, from what this one "
            f"does not know ({', '.join(sorted(unknown))}). Upgrade: pip install -U pausedata; or "
            "score under another name."
        )


def find_carried(
    root: Path, base: Version | None, run: str, wanted: dict[str, Any]
) -> CarriedScores | None:
    """The scores of ``run`` in the newest version that has it, where only the tokens differ.

    Newest up to ``base``, which lacks a run that a build over a corpus that grew had to leave out.
    """
    if base is None:
        return None
    for number in reversed(version_numbers(root)):
        if number > base.number:
            continue
        try:
            folder = version_folder(root, number)
            version = base if number == base.number else read_version(root, folder)
        except DataError:  # a version that is damaged gives nothing
            continue
        if run in version.runs:
            scores = version.table(f"scores/{run}")
            before = scores.entry.provenance["inputs"]
            # Of the base version they can be the very same only where they are damaged.
            damaged = version is base and before == wanted
            if not damaged and before | {"tokens": None} == wanted | {"tokens": None}:
                return CarriedScores(version.table("tokens"), scores)
            return None
    return None


def carry_whole(run: str, work: Work) -> None:
    """Keep a run that the recipe does not name, if every example there is now was scored in it."""
    name, base = f"scores/{run}", work.base
    assert base is not None
    scores, tokens = base.table(name), work.tables["tokens"]
    facts = scores.entry.provenance
    carried = CarriedScores(base.table("tokens"), scores)
    missing, _ = score_step.count_missing(tokens, carried)
    if missing:
        work.drop(
            name,
            f"{missing} examples are new, and the recipe names no model for this run. Score them "
            f"with: {_command(work.root, run, facts)}",
        )
        return

    def load(logs: Path) -> Scorer:
        raise DataError(f"{name}: no model is known for this run.")

    wanted = facts["inputs"] | {"tokens": tokens.entry.content}
    known = {key: facts[key] for key in ("model", "tokenizer") if key in facts}
    table = score_step.score(work.staging, run, wanted, tokens, load, carried, work.progress, known)
    work.put(table)


def _command(root: Path, run: str, facts: dict[str, Any]) -> str:
    """The command that scores a run again, as far as a dataset knows its model."""
    inputs = facts["inputs"]
    model = inputs["model"]
    words = ["pausedata", "score", str(root), "--run", run]
    if "revision" in model:
        words += ["--model", model["id"], "--revision", str(model["revision"])]
    else:
        words += ["--model", f"PATH-OF-{facts.get('model', {}).get('id', 'MODEL')}"]
    words += ["--dtype", inputs["dtype"], "--backend", inputs["backend"]]
    if inputs["backend"] == "server":
        words += ["--url", "ADDRESS-OF-THE-SERVER"]
    return shlex.join(words)
