"""The choice that strategies share: the best of each response, apart from each other."""

from __future__ import annotations

from typing import Any

import numpy as np

from pausedata.strategies.base import Batch, Bool, Choosing, Int, Placed


def choose(
    batch: Batch,
    parameters: Choosing,
    *,
    key: np.ndarray[Any, Any] | None = None,
    among: Bool | None = None,
    most: Int | None = None,
) -> Placed:
    """Pauses before eligible tokens: of each response the ``most`` with the smallest ``key``.

    ``key``: [tokens], of any number type; of equal ones the earlier token comes first. Without a
    key tokens come in the order of the text. ``among``: [tokens], leaves others out. ``most``:
    [examples]; None: all. The options common to all strategies are applied: ``eligible``, then
    ``min_gap`` (the best first, and none nearer to it than that), then ``max_positions``.
    """
    allowed = batch.eligible(parameters)
    if among is not None:
        allowed = allowed & among
    limit = _limit(batch, parameters, most)
    tokens = np.flatnonzero(chosen(batch, allowed, key, limit, parameters.min_gap))
    return with_counts(batch.example[tokens], batch.position[tokens], parameters.tokens)


def chosen(
    batch: Batch,
    allowed: Bool,
    key: np.ndarray[Any, Any] | None,
    most: Int | None,
    min_gap: int | None,
) -> Bool:
    """Which of the ``allowed`` tokens are taken: [tokens]. See ``choose``."""
    if min_gap is not None and min_gap > 1:
        raise NotImplementedError
    tokens = np.flatnonzero(allowed)
    if most is None:
        return allowed
    example = batch.example[tokens]
    # Sorted by example, then key; the sort is stable, so that equal keys keep their order.
    order = np.lexsort((np.zeros(len(tokens)) if key is None else key[tokens], example))
    first = np.searchsorted(example[order], np.arange(len(batch.lengths)))
    place_in_example = np.arange(len(order)) - first[example[order]]
    taken = np.zeros_like(allowed)
    taken[tokens[order[place_in_example < most[example[order]]]]] = True
    return taken


def with_counts(example: Int, position: Int, tokens: int) -> Placed:
    """``tokens`` pauses at each place; nothing at all where that is 0."""
    if tokens == 0:
        example, position = example[:0], position[:0]
    return Placed(example, position, np.full(len(example), tokens, np.int64))


def _limit(batch: Batch, parameters: Choosing, most: Int | None) -> Int | None:
    """The smaller of ``most`` and ``max_positions``."""
    if parameters.max_positions is None:
        return most
    cap = np.full(len(batch.lengths), parameters.max_positions)
    return cap if most is None else np.minimum(most, cap)
