"""Runs: scorings of all examples by one model. Which model, how, and how they are made."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from pausedata import scorers, warmup
from pausedata.core.errors import DataError
from pausedata.core.progress import Progress, Silent
from pausedata.models.ref import ModelRef
from pausedata.pipeline import warming
from pausedata.pipeline.planner import Target
from pausedata.pipeline.recipe import Scoring
from pausedata.pipeline.resolve import Resolved, Tokenizers
from pausedata.pipeline.steps import same_ids
from pausedata.pipeline.steps import score as score_step
from pausedata.pipeline.steps.cross_check import CrossCheck
from pausedata.pipeline.steps.reuse import ReusableScores
from pausedata.pipeline.steps.score import CheckedPass, Lengths
from pausedata.pipeline.stored_runs import find_reusable, scored_from, warn_of_lost
from pausedata.pipeline.transaction import Transaction
from pausedata.pipeline.warming import Share
from pausedata.scorers import Job, Scorer, memory
from pausedata.store.dataset import Table, Version
from pausedata.warmup import Warmed, Warmup

# Backends whose scores are no better than the engine behind them.
CROSS_CHECKED = ("vllm", "server")


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
    tokens: Table | None = None  # that there will be, where that is known

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
                *(self.warmup, wanted, self.before),
                damaged=self.is_damaged,
                is_there=lambda: self._pinned is not None,
                goes_on=lambda: self._can_go_on,
            )
        }

    @cached_property
    def _pinned(self) -> Warmed | None:
        """The models that were warmed up for the scores that are there, if they are here."""
        return self.find_warmed(self.before["warmup"]["of"])

    @cached_property
    def _can_go_on(self) -> bool:
        """Whether they may score ``tokens``; which reads all of these: found out once."""
        return warming.can_go_on(self._pinned, self.tokens)

    def find_warmed(self, of: str) -> Warmed | None:
        """The models that were warmed up on tokens of the content hash ``of``, if they are here."""
        assert self.warmup is not None
        return warming.find(self.model, self.warmup, self.dtype, of)

    def found_damaged(self, tables: Container[str]) -> RunSpec:
        """The run, when it is known which tables have files that no version has whole."""
        return replace(self, is_damaged=self.table in tables)

    def with_model(self, model: ModelRef, *, is_first: bool) -> RunSpec:
        """The run as another model scores it, as it is; the first says why its backend is that."""
        return replace(self, model=model, warmup=None, why=self.why if is_first else None)

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


def of_recipe(
    resolved: Resolved,
    base: Version | None,
    damaged: Container[str] = (),
    tokens: Table | None = None,
) -> list[RunSpec]:
    """The runs that a recipe names, the main one first; ``damaged`` are tables of ``base``.

    ``tokens`` are those that there will be, where they are known and not what they were.
    """
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
            scored_from(base, name),
            f"scores/{name}" in damaged,
            tokens,
        )
        for name, model in resolved.recipe.scoring_runs().items()
    ]


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
        warn_of_lost(spec.table, reuse, tx)
    passes = [
        _pass(spec.with_model(share.model, is_first=k == 0), share, len(shares), tx, lengths)
        for k, share in enumerate(shares)
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
    if before is not None:
        made_by = warming.hashes(before)
        left = score_step.left(tx.root, spec.name, wanted, tokens, lengths, reuse, sound, made_by)
        if not left.tokens:
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
    warming.keep(warmed)
    return warmed
