"""``combine`` against sets of positions, in plain Python."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from pausedata import strategies
from pausedata.strategies import Batch, Placed

Places = list[dict[int, int]]  # of each example {position: count}


def slow(of: list[Places], how: str, example: int) -> dict[int, int]:
    """The definition: in any, with the most pauses; in all, with the fewest; in the first alone."""
    each = [places[example] for places in of]
    every = [[p[k] for p in each if k in p] for k in range(99)]
    if how == "union":
        return {k: max(counts) for k, counts in enumerate(every) if counts}
    if how == "intersection":
        return {k: min(counts) for k, counts in enumerate(every) if len(counts) == len(each)}
    return {k: n for k, n in each[0].items() if not any(k in p for p in each[1:])}


def as_placed(places: Places) -> Placed:
    flat = [(k, p, n) for k, each in enumerate(places) for p, n in sorted(each.items())]
    return Placed(*np.array(flat, np.int64).reshape(-1, 3).T)


@pytest.mark.parametrize("how", ["union", "intersection", "difference"])
@pytest.mark.parametrize("tokens", [None, 0, 2])
def test_it_is_that_of_sets_on_1000_examples(how: str, tokens: int | None) -> None:
    rng = random.Random(how)
    lengths = [rng.randint(0, 12) for _ in range(1000)]
    names: dict[str, Places] = {
        name: [{p: rng.randint(1, 5) for p in range(n + 1) if rng.random() < 0.4} for n in lengths]
        for name in "abc"
    }
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    batch = Batch(
        [f"row-{k}" for k in range(1000)],
        offsets,
        np.ones(offsets[-1], np.bool_),
        placed={name: as_placed(places) for name, places in names.items()},
    )
    values: dict[str, Any] = {"of": ["a", "b", "c"], "how": how}
    values |= {} if tokens is None else {"tokens": tokens}
    strategy, parameters = strategies.of("combine", values, "test")
    placed, _ = strategies.place(strategy, batch, parameters)
    found: Places = [{} for _ in lengths]
    for k, p, n in zip(placed.example, placed.positions, placed.counts, strict=True):
        found[k][int(p)] = int(n)
    expected = [slow(list(names.values()), how, k) for k in range(1000)]
    if tokens is not None:
        expected = [dict.fromkeys(e, tokens) if tokens else {} for e in expected]
    assert found == expected
