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
    upper = np.zeros(1 << 16, np.int64)
    for values in portions():
        upper += np.bincount(_ordered(values) >> 16, minlength=1 << 16)
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


def _ordered(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """The floats' bits as integers from 0 that stand in the floats' order."""
    # Adding 0.0 makes -0.0 into 0.0, which is the same number.
    bits = (values.astype(np.float32, copy=False) + np.float32(0)).view(np.uint32).astype(np.int64)
    return np.where(bits >> 31, 0xFFFFFFFF - bits, bits + (1 << 31))


def _value(ordered: int) -> float:
    """The float whose ordered bits these are."""
    bits = ordered - (1 << 31) if ordered >> 31 else 0xFFFFFFFF - ordered
    return float(np.uint32(bits).view(np.float32))
