"""The choice of what places pauses by the text alone: places come in its order."""

from __future__ import annotations

import numpy as np

from pausedata.strategies.base import Batch, Bool, Choosing, Int, Placed
from pausedata.strategies.choose import with_counts


def choose_places(
    batch: Batch, parameters: Choosing, example: Int, position: Int, *, after: bool
) -> Placed:
    """Pauses at these places, given ascending by example and position, in the order of the text.

    A place may be given twice. One behind the last token (``position`` is the response's length)
    is taken where the strategy places ``after`` something: it is before no token, so that
    ``eligible`` has no say in it. The common options are applied: ``eligible``, then ``min_gap``
    (from left to right, the next place at least that far after the last that was taken), then
    ``max_positions`` (the first ones).
    """
    taken = _allowed(batch, parameters, example, position, after)
    taken[1:] &= (example[1:] != example[:-1]) | (position[1:] != position[:-1])
    example, position = example[taken], position[taken]
    if parameters.min_gap is not None:
        taken = _apart(example, position, parameters.min_gap)
        example, position = example[taken], position[taken]
    if parameters.max_positions is not None:
        first = np.searchsorted(example, np.arange(len(batch.lengths)))
        taken = np.arange(len(example)) - first[example] < parameters.max_positions
        example, position = example[taken], position[taken]
    return with_counts(example, position, parameters.tokens)


def _allowed(batch: Batch, parameters: Choosing, example: Int, position: Int, after: bool) -> Bool:
    """Which places may have a pause."""
    allowed = np.full(len(example), after)
    within = position < batch.lengths[example]
    tokens = batch.offsets[example[within]] + position[within]
    allowed[within] = batch.eligible(parameters)[tokens]
    return allowed


def _apart(example: Int, position: Int, gap: int) -> Bool:
    """Which places are taken from left to right, each at least ``gap`` after the one before.

    The place that would be taken next is known of each. From the first one on, those that are
    reached are followed in jumps of 1, 2, 4 … of these steps.
    """
    places = len(example)
    furthest = int(position.max(initial=0))
    gap = min(gap, furthest + 1)
    # Examples stand so far apart that the next after the last of one is the first of another.
    key = example * (furthest + gap + 1) + position
    following = np.append(np.searchsorted(key, key + gap), places)  # the last: there is none
    reached = np.zeros(places + 1, np.bool_)
    reached[0] = True
    while (following < places).any():
        reached[following[reached]] = True
        following = following[following]
    return reached[:-1]
