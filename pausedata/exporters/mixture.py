"""Several placements in one export, mixed by weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
import pyarrow as pa

from pausedata.strategies.random import stream_keys


def draw(ids: Sequence[str], weights: Mapping[str, float], seed: int) -> np.ndarray:
    """Which of ``weights`` each example gets, by its id and the seed: [examples].

    The order of examples and of weights does not matter, nor do the other examples. Weights are
    exact: they are read as decimals.
    """
    names = sorted(weights)
    exact = [Fraction(str(weights[name])) for name in names]
    total, before, limits = sum(exact), Fraction(0), list[int]()
    for weight in exact:
        before += weight
        limits.append(int(before / total * 2**64))
    keys = stream_keys(ids, seed)
    # The last limit is 2^64, which no 64-bit number holds.
    drawn = np.searchsorted(np.array(limits[:-1], np.uint64), keys, side="right")
    given = list(weights)
    return np.array([given.index(name) for name in names])[drawn]


def mixed(placements: Sequence[pa.Table], chosen: np.ndarray) -> pa.Table:
    """For each example its row in the placement that was ``chosen`` for it."""
    rows = placements[0].num_rows
    return pa.concat_tables(placements).take(pa.array(chosen * rows + np.arange(rows)))
