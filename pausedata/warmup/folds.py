"""Which fold a prompt is in, and which rows a fold's model trains on: pure functions of texts.

Everything hangs on one hash of the normalised prompt, so exact and near duplicates share a fold,
the order of rows changes nothing, and a corpus that grows keeps its folds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

HELD_OUT_ROWS = 64  # of each fold at most, on which its model's loss is measured
FEWEST_ROWS = 16  # with fewer to train on, a model is not warmed


def normalise(text: str) -> str:
    """NFKC, casefolded, words and numbers alone, single spaces between them.

    A text without any word or number stays itself, but for NFKC, case and white space.
    """
    raise NotImplementedError


def fold_of(prompt: str, folds: int, seed: int) -> int:
    """The fold, 0 … ``folds`` - 1, of the rows that have this prompt (as it was rendered)."""
    raise NotImplementedError


@dataclass(frozen=True)
class Sample:
    """The ids of rows for one fold's model: those it trains on, and those its loss is measured on.

    Both are in an order that the texts and the seed alone decide.
    """

    train: list[str]
    held_out: list[str]


def samples(
    prompts: Iterable[tuple[str, str]], *, rows: int, folds: int, seed: int
) -> list[Sample]:
    """A sample for each fold, of the ids and prompts of the split that may be trained on.

    Fold f's model trains on at most ``rows`` rows of the other folds and is measured on at most
    `HELD_OUT_ROWS` of its own, chosen by ascending hash; of rows with the same normalised prompt
    the one with the smallest id. ``prompts`` is read once, and no more is kept of it than needed.
    """
    raise NotImplementedError
