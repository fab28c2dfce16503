"""Which fold a prompt is in, and which rows a fold's model trains on: pure functions of texts.

Everything hangs on one hash of the normalised prompt, so exact and near duplicates share a fold,
the order of rows changes nothing, and a corpus that grows keeps its folds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pausedata.core.same_text import salted_hash

HELD_OUT_ROWS = 64  # of each fold at most, on which its model's loss is measured
FEWEST_ROWS = 16  # with fewer to train on, a model is not warmed


def fold_of(prompt: str, folds: int, seed: int) -> int:
    """The fold, 0 … ``folds`` - 1, of the rows that have this prompt (as it was rendered)."""
    return _Key.of(prompt, folds, seed).fold


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
    trained = [_Smallest(rows) for _ in range(folds)]
    held_out = [_Smallest(HELD_OUT_ROWS) for _ in range(folds)]
    for id, prompt in prompts:
        key = _Key.of(prompt, folds, seed)
        held_out[key.fold].add(key.held_out_order, id)
        for fold in range(folds):
            if fold != key.fold:
                trained[fold].add(key.train_order, id)
    return [Sample(t.ids(), h.ids()) for t, h in zip(trained, held_out, strict=True)]


@dataclass(frozen=True)
class _Key:
    """What the hash of a prompt decides: three parts of it that know nothing of each other."""

    fold: int
    train_order: bytes
    held_out_order: bytes

    @classmethod
    def of(cls, prompt: str, folds: int, seed: int) -> _Key:
        digest = salted_hash(str(seed), prompt)
        return cls(int.from_bytes(digest[:8], "big") % folds, digest[8:20], digest[20:])


class _Smallest:
    """Of the ids that are added, those of the smallest keys; of one key the smallest id."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._ids: dict[bytes, str] = {}

    def add(self, key: bytes, id: str) -> None:
        """Keep it, at least until so many others are smaller."""
        known = self._ids.get(key)
        if known is None or id < known:
            self._ids[key] = id
        if len(self._ids) >= 4 * self._count:  # not at each: sorting them takes its time
            self._ids = dict(self._sorted())

    def ids(self) -> list[str]:
        """By ascending key."""
        return [id for _, id in self._sorted()]

    def _sorted(self) -> list[tuple[bytes, str]]:
        return sorted(self._ids.items())[: self._count]
