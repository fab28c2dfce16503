"""Quantiles of more numbers than fit in memory: exactly in two passes, or nearly in one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

Portions = Iterable[NDArray[np.float32]]


def quantiles(portions: Callable[[], Portions], asked: list[float]) -> list[float | None]:
    """For each q of ``asked`` the smallest value that at least a share q of all does not exceed.

    ``portions`` gives the numbers, none of them NaN, in portions, the same ones each time: it is
    called twice, for the upper and the lower halves of the numbers' bits. That takes a megabyte for
    each of ``asked``, however many numbers there are. None where there are none.
    """
    upper = upper_halves(portions())
    total = int(upper.sum())
    if not total:
        return [None for _ in asked]
    ranks = [max(1, math.ceil(q * total)) for q in asked]
    ends = np.cumsum(upper)
    halves = [int(np.searchsorted(ends, rank)) for rank in ranks]
    lower = {half: np.zeros(1 << 16, np.int64) for half in halves}
    for values in portions():
        bits = _ordered(values)
        for half, counts in lower.items():
            counts += np.bincount(bits[bits >> 16 == half] & 0xFFFF, minlength=1 << 16)
    found: list[float | None] = []
    for rank, half in zip(ranks, halves, strict=True):
        rest = rank - int(ends[half] - upper[half])
        found.append(_value(half << 16 | int(np.searchsorted(np.cumsum(lower[half]), rest))))
    return found


def upper_halves(portions: Portions) -> NDArray[np.int64]:
    """How many of the numbers, none of them NaN, have each upper half of bits: [65,536]."""
    counts = np.zeros(1 << 16, np.int64)
    for values in portions:
        counts += np.bincount(_ordered(values) >> 16, minlength=1 << 16)
    return counts


def largest_within(
    portions: Portions, upper: NDArray[np.int64], most: int
) -> tuple[float | None, int]:
    """The largest of the numbers that at most ``most`` of them do not exceed, and how many do not.

    Of equal numbers all count, or none does. ``upper`` is ``upper_halves`` of the same portions.
    (None, 0) where even the smallest number is too many.
    """
    ends = np.cumsum(upper)
    # The half in which they become too many; past the last one where they never do.
    half = int(np.searchsorted(ends, most, side="right"))
    lower = np.zeros(1 << 16, np.int64)
    last = -1  # the largest one of the halves before
    for values in portions:
        bits = _ordered(values)
        lower += np.bincount(bits[bits >> 16 == half] & 0xFFFF, minlength=1 << 16)
        last = max(last, int(bits[bits >> 16 < half].max(initial=-1)))
    before = int(ends[half - 1]) if half else 0
    counts = before + np.cumsum(lower)
    within = np.flatnonzero((lower > 0) & (counts <= most))
    if len(within):
        last, before = half << 16 | int(within[-1]), int(counts[within[-1]])
    return (None, 0) if last < 0 else (_value(last), before)


class Cells:
    """Quantiles of numbers that are seen once, at most ``WITHIN`` times their size beside the true
    ones; the least and the largest number are exact.

    Floats are counted in cells, 2,048 between a power of two and the next. There are at most a
    million of them (8 MB); for log-probabilities, from 0 to -100, 280,000.
    """

    WITHIN = 2.0**-12  # half a cell's width, as a share of the numbers in it
    _BITS = 12  # of a float that its cell does not tell

    def __init__(self) -> None:
        self._first = 0  # the cell that the first count is of
        self._counts: NDArray[np.int64] = np.zeros(0, np.int64)
        self._least, self._most = math.inf, -math.inf

    def add(self, values: NDArray[np.float32]) -> None:
        """Count ``values``, all of them finite."""
        if not len(values):
            return
        cells = _ordered(values) >> self._BITS
        first = int(cells.min())
        self._add(
            first, np.bincount(cells - first), float(values.min()) + 0.0, float(values.max()) + 0.0
        )

    def merge(self, other: Cells) -> None:
        """Count what ``other`` has counted, too."""
        if len(other._counts):
            self._add(other._first, other._counts, other._least, other._most)

    def quantiles(self, asked: list[float]) -> list[float | None]:
        """For each q of ``asked`` about the smallest value that at least a share q of all does not
        exceed; None where there are none.
        """
        ends = np.cumsum(self._counts)
        total = int(ends[-1]) if len(ends) else 0
        found: list[float | None] = []
        for q in asked:
            rank = max(1, math.ceil(q * total))
            if not total:
                found.append(None)
            elif rank in (1, total):
                found.append(self._least if rank == 1 else self._most)
            else:
                cell = self._first + int(np.searchsorted(ends, rank))
                middle = _value(cell << self._BITS | 1 << (self._BITS - 1))
                found.append(min(max(middle, self._least), self._most))
        return found

    def _add(self, first: int, counts: NDArray[np.int64], least: float, most: float) -> None:
        begin = min(first, self._first) if len(self._counts) else first
        end = max(first + len(counts), self._first + len(self._counts))
        if (begin, end) != (self._first, self._first + len(self._counts)):
            grown = np.zeros(end - begin, np.int64)
            grown[self._first - begin :][: len(self._counts)] = self._counts
            self._first, self._counts = begin, grown
        self._counts[first - begin :][: len(counts)] += counts
        self._least, self._most = min(self._least, least), max(self._most, most)


def _ordered(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """The floats' bits as integers from 0 that stand in the floats' order."""
    # Adding 0.0 makes -0.0 into 0.0, which is the same number.
    bits = (values.astype(np.float32, copy=False) + np.float32(0)).view(np.uint32).astype(np.int64)
    return np.where(bits >> 31, 0xFFFFFFFF - bits, bits + (1 << 31))


def _value(ordered: int) -> float:
    """The float whose ordered bits these are."""
    bits = ordered - (1 << 31) if ordered >> 31 else 0xFFFFFFFF - ordered
    return float(np.uint32(bits).view(np.float32))
