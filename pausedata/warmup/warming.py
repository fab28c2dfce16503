"""The models that score a corpus after a warm-up, made now or found in the cache."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pausedata.core.progress import Progress
from pausedata.models.ref import ModelRef
from pausedata.scorers import Example
from pausedata.warmup import folds as folding
from pausedata.warmup.settings import Warmup


class Corpus(Protocol):
    """The rows that a warm-up may train on: those of the source's first split alone."""

    @property
    def content(self) -> str:
        """The content hash of the table that the rows come from (the one that pins the warm-up)."""
        ...

    def prompts(self) -> Iterable[tuple[str, str]]:
        """Id and prompt, as it was rendered, of each row, in any order; asked for once."""
        ...

    def examples(self, ids: Sequence[str]) -> list[Example]:
        """The token ids of some rows, in the order of ``ids``; of prompt, response and its end."""
        ...


@dataclass(frozen=True)
class Warmed:
    """Which model scores which row.

    ``models`` has one for each fold: an adapter (kind ``adapter``) on the model, or a whole one
    (``folder``), in the cache or where it was kept; with ``outcome`` 'base' it is the model itself
    for every fold, and ``reason`` says why, in a clause. ``record`` is for the manifest: JSON-able,
    without paths, the same whether models were made now or found.
    """

    outcome: Literal["warmed", "base"]
    models: tuple[ModelRef, ...]
    settings: Warmup
    record: dict[str, Any]
    reason: str | None = None

    def fold_of(self, prompt: str) -> int:
        """The index in ``models`` of the one that scores the rows with this prompt, of any split.

        A row of a split that is not trained on goes by the same rule, so that one which repeats a
        trained prompt is scored by a model that has not seen it.
        """
        return folding.fold_of(prompt, self.settings.folds, self.settings.seed)

    def folders(self) -> list[tuple[ModelRef, list[int]]]:
        """Each distinct model, with the folds that it scores: one alone where the base scores."""
        raise NotImplementedError


def warm(
    model: ModelRef,
    settings: Warmup,
    corpus: Corpus,
    *,
    dtype: str = "float32",
    device: str = "auto",
    kept: Path | None = None,
    progress: Progress | None = None,
) -> Warmed:
    """Every fold's model, trained now unless it is in the cache or in the folder ``kept``.

    ``model`` is pinned (a Hub model has its commit). Each fold is a progress step of its own,
    in tokens, and is kept as soon as it is done. Too few rows, or a loss on held-out rows that did
    not fall, give the outcome 'base', which ``progress`` hears as a warning. UsageError for a model
    that cannot be trained here (quantised, no PEFT, no linear layers, no memory, no cache);
    DataError for a loss that is not finite.
    """
    raise NotImplementedError


def found(
    model: ModelRef, settings: Warmup, content: str, *, dtype: str = "float32",
    kept: Path | None = None,
) -> Warmed | None:  # fmt: skip
    """What `warm` would find without training for a corpus of that content hash, else None.

    Loads no torch. With ``content`` of an earlier version of a corpus that grew since, it gives
    the models that scored that one.
    """
    raise NotImplementedError


def keep(warmed: Warmed, folder: Path) -> list[Path]:
    """Copy each fold's model to ``folder``/fold-1, fold-2 …; what is there already stays.

    Nothing to copy where the base scores. UsageError where something else is in the way.
    """
    raise NotImplementedError
