"""Scores counted in fixed room: what each threshold would spend, and what it would cover."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pausedata.measure.calibrate.bounds import bounds

Double = NDArray[np.float64]

PROBABILITIES: Double = np.arange(10_001) / 10_000  # the thresholds among which one is chosen
ENTROPIES: Double = np.arange(20_001) / 1000  # nats
_SURPRISALS: Double = np.arange(10_001) / 100  # nats
_GROUP = 0.1  # nats of entropy that tokens are told apart by, at the finest
_GROUPS = 200
_ENOUGH = 50  # first choices in a group of tokens of like entropy, at the least


@dataclass(frozen=True)
class Spent:
    """Of a threshold: pauses and the surprisal that stands after them, as shares of all."""

    pauses_per_token: float
    at_least: float  # pauses for each token, whatever is not stored
    at_most: float
    surprisal: float

    def times(self, tokens: int) -> Spent:
        """The same with so many pauses at each place."""
        return Spent(
            tokens * self.pauses_per_token,
            tokens * self.at_least,
            tokens * self.at_most,
            self.surprisal,
        )


class Counts:
    """What adds up over tokens. Some 15 MB, however many there are."""

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        cells = len(PROBABILITIES) + 1
        self.tokens = 0
        self.surprisal = 0.0  # nats, in all
        self.with_entropy = True
        # Of first choices, whose probability is the highest: by entropy and probability.
        self._first: NDArray[np.int64] = np.zeros((_GROUPS, cells), np.int64)
        self._first_lost: Double = np.zeros(cells)  # surprisal
        # Of all others: by entropy alone, and by the two bounds.
        self._other: NDArray[np.int64] = np.zeros(_GROUPS, np.int64)
        self._other_lost: Double = np.zeros(_GROUPS)
        self._least: NDArray[np.int64] = np.zeros(cells, np.int64)
        self._most: NDArray[np.int64] = np.zeros(cells, np.int64)
        self._entropy: NDArray[np.int64] = np.zeros(len(ENTROPIES) + 1, np.int64)
        self._entropy_lost: Double = np.zeros(len(ENTROPIES) + 1)
        self._lost: NDArray[np.int64] = np.zeros(len(_SURPRISALS), np.int64)
        self._lost_sum: Double = np.zeros(len(_SURPRISALS))

    def add(
        self,
        logprob: NDArray[np.float32],
        rank: NDArray[np.int32],
        entropy: NDArray[np.float32] | None,
    ) -> None:
        """Count tokens: [tokens] each; nats. ``entropy`` is None where it was not stored."""
        self.__dict__.pop("_shares", None)
        if not len(logprob):
            return
        lost = -logprob.astype(np.float64)
        self.tokens += len(lost)
        self.surprisal += float(lost.sum())
        by_lost = np.minimum((lost * 100).astype(np.int64), len(_SURPRISALS) - 1)
        _add(self._lost, self._lost_sum, by_lost, lost)
        group: NDArray[np.int64] = np.zeros(len(lost), np.int64)
        if entropy is None:
            self.with_entropy = False
        else:
            group = np.clip((entropy / _GROUP).astype(np.int64), 0, _GROUPS - 1)
            # Cell k: above the thresholds before k, and at or below k and those behind it.
            above = np.searchsorted(ENTROPIES, entropy, side="left")
            _add(self._entropy, self._entropy_lost, above, lost)
        first = rank == 1
        own = _cell(np.exp(logprob[first].astype(np.float64)))
        cells = len(PROBABILITIES) + 1
        both = np.bincount(group[first] * cells + own, minlength=_GROUPS * cells)
        self._first += both.reshape(_GROUPS, cells)
        self._first_lost += np.bincount(own, lost[first], minlength=cells)
        rest = ~first
        _add(self._other, self._other_lost, group[rest], lost[rest])
        least, most = bounds(
            logprob[rest],
            rank[rest],
            entropy[rest] if entropy is not None else None,
            self._vocabulary,
        )
        self._least += np.bincount(_cell(least), minlength=cells)
        self._most += np.bincount(_cell(most), minlength=cells)

    def by_probability(self) -> tuple[Double, Double, Double, Double]:
        """For each of `PROBABILITIES`: pauses, at least, at most, and surprisal, in all.

        First choices are counted. Of the others, each group of like entropy is shared out as its
        first choices are, weighted by (1 - p) / p: a prediction whose highest probability is p is a
        first choice p times in (p + 1 - p), if the model knows how sure it may be, so that the
        others of its kind are (1 - p) / p as many. The bounds hold what comes out.
        """
        known = np.cumsum(self._first.sum(axis=0))[:-1].astype(np.float64)
        least = known + np.cumsum(self._most)[:-1]
        most = known + np.cumsum(self._least)[:-1]
        pauses = np.clip(known + self._other @ self._shares, least, most)
        lost = np.cumsum(self._first_lost)[:-1] + self._other_lost @ self._shares
        return pauses, least, most, lost

    def by_entropy(self) -> tuple[Double, Double]:
        """For each of `ENTROPIES`: pauses and surprisal, in all, where the entropy is above it."""
        pauses = self.tokens - np.cumsum(self._entropy)[:-1].astype(np.float64)
        return pauses, self.surprisal - np.cumsum(self._entropy_lost)[:-1]

    def limit(self, pauses: float) -> float:
        """The most surprisal that so many pauses can stand before: that of the worst tokens."""
        ends = np.concatenate([[0], np.cumsum(self._lost[::-1])])
        sums = np.concatenate([[0.0], np.cumsum(self._lost_sum[::-1])])
        return float(np.interp(pauses, ends, sums))

    def spent(self, threshold: float) -> Spent:
        """What a threshold of `PROBABILITIES` would spend on these tokens."""
        at = int(np.searchsorted(PROBABILITIES, threshold))
        pauses, least, most, lost = (values[at] for values in self.by_probability())
        return self._spent(pauses, least, most, lost)

    def spent_by_entropy(self, threshold: float) -> Spent:
        """What a threshold of `ENTROPIES` would: counted, nothing of it is estimated."""
        at = int(np.searchsorted(ENTROPIES, threshold))
        pauses, lost = (values[at] for values in self.by_entropy())
        return self._spent(pauses, pauses, pauses, lost)

    def threshold(self, pauses: float) -> float:
        """The highest threshold of `PROBABILITIES` that spends at most so many pauses."""
        within = np.flatnonzero(self.by_probability()[0] <= pauses * (1 + 1e-12))
        return float(PROBABILITIES[within[-1]])

    def entropy_threshold(self, pauses: float) -> float:
        """The lowest threshold of `ENTROPIES` that spends at most so many pauses."""
        within = np.flatnonzero(self.by_entropy()[0] <= pauses * (1 + 1e-12))
        return float(ENTROPIES[within[0] if len(within) else -1])

    def _spent(self, pauses: float, least: float, most: float, lost: float) -> Spent:
        tokens, surprisal = max(self.tokens, 1), self.surprisal or 1.0
        parts = pauses / tokens, least / tokens, most / tokens, lost / surprisal
        return Spent(*(float(part) for part in parts))

    @cached_property
    def _shares(self) -> Double:
        """For each group and threshold the share of its other tokens under it: [groups, …]."""
        centres = np.clip(np.append(0, PROBABILITIES) - 0.5e-4, 0.5e-4, 1 - 0.5e-4)
        weight = (1 - centres) / centres
        shares = np.zeros((_GROUPS, len(PROBABILITIES)))
        for groups in self._alike():
            weighed = np.cumsum(self._first[groups].sum(axis=0) * weight)
            if weighed[-1]:
                shares[groups] = weighed[:-1] / weighed[-1]
            else:  # not one first choice: halfway between what the bounds allow
                ends = np.cumsum(self._least)[:-1] + np.cumsum(self._most)[:-1]
                shares[groups] = ends / max(2 * int(self._other.sum()), 1)
        return shares

    def _alike(self) -> list[slice]:
        """Neighbouring groups put together until each has first choices enough."""
        found: list[slice] = []
        begin = have = 0
        for group, count in enumerate(self._first.sum(axis=1)):
            have += int(count)
            if have >= _ENOUGH:
                found.append(slice(begin, group + 1))
                begin, have = group + 1, 0
        if begin < _GROUPS:  # what is left over goes to the last one
            begin = found.pop().start if found else 0
            found.append(slice(begin, _GROUPS))
        return found


def _cell(probability: Double) -> NDArray[np.int64]:
    """Cell k: under the thresholds from k on, and not under those before it."""
    # A probability that stands at a threshold, but for the last bits of its logarithm, is at it.
    return np.searchsorted(PROBABILITIES, np.minimum(probability + 1e-9, 1), side="right")


def _add(counts: NDArray, sums: Double, cell: NDArray[np.int64], values: Double) -> None:
    counts += np.bincount(cell, minlength=len(counts))
    sums += np.bincount(cell, values, minlength=len(sums))
