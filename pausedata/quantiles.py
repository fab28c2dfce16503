"""Quantiles of more numbers than fit in memory, exactly."""

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


def _ordered(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """The floats' bits as integers from 0 that stand in the floats' order."""
    # Adding 0.0 makes -0.0 into 0.0, which is the same number.
    bits = (values.astype(np.float32, copy=False) + np.float32(0)).view(np.uint32).astype(np.int64)
    return np.where(bits >> 31, 0xFFFFFFFF - bits, bits + (1 << 31))


def _value(ordered: int) -> float:
    """The float whose ordered bits these are."""
    bits = ordered - (1 << 31) if ordered >> 31 else 0xFFFFFFFF - ordered
    return float(np.uint32(bits).view(np.float32))
