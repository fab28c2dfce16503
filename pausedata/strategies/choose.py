"""The choice that strategies share: the best tokens of each response, apart from each other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from pausedata.strategies.base import Batch, Bool, Choosing, Int, Placed

Key = np.ndarray[Any, Any]  # of any number type

# Responses are sorted in tables of rows of similar length: each of these, half as much again as the
# one before, is the longest that a table takes.
_WIDTHS = [1]
while _WIDTHS[-1] < 1 << 40:
    _WIDTHS.append(max(_WIDTHS[-1] + 1, _WIDTHS[-1] * 3 // 2))
_TABLE = 1 << 18  # numbers in such a table, about: so that it fits a processor's cache
_ROUNDS = 16  # after which the rest of a greedy choice is made token by token


def choose(
    batch: Batch,
    parameters: Choosing,
    *,
    key: Key,
    among: Bool | None = None,
    most: Int | None = None,
) -> Placed:
    """Pauses before eligible tokens: of each response the ``most`` with the smallest ``key``.

    ``key``: [tokens], of any number type, without NaN; of equal ones the earlier token comes first.
    ``among``: [tokens], leaves others out. ``most``: [examples]; None: all. The options common to
    all strategies are applied: ``eligible``, then ``min_gap`` (the best first, and none nearer to
    it than that, then the best of the rest …), then ``max_positions``.
    """
    allowed = batch.eligible(parameters)
    if among is not None:
        allowed = allowed & among
    limit = _limit(batch, parameters, most)
    tokens = np.flatnonzero(chosen(batch, allowed, key, limit, parameters.min_gap))
    example = np.repeat(np.arange(len(batch.lengths)), _counts(tokens, batch.offsets))
    return with_counts(example, tokens - batch.offsets[example], parameters.tokens)


def chosen(
    batch: Batch, allowed: Bool, key: Key, most: Int | None, min_gap: int | None = None
) -> Bool:
    """Which of the ``allowed`` tokens are taken: [tokens]. See ``choose``."""
    longest = int(batch.lengths.max(initial=0))
    gap = min(min_gap or 1, max(longest, 1))
    if most is None and gap == 1:
        return allowed
    most = batch.lengths if most is None else np.minimum(most, batch.lengths)
    if gap == 1 and allowed.all():
        return _best(key, batch.lengths, most)
    tokens = np.flatnonzero(allowed)
    key = key[tokens]
    lengths = _counts(tokens, batch.offsets)
    if gap > 1:
        # Each token taken keeps at most 2 (gap - 1) others off: the `most` that are taken first are
        # among so many of the best.
        kept = _best(key, lengths, most * (2 * gap - 1))
        tokens, key = tokens[kept], key[kept]
        lengths = _counts(tokens, batch.offsets)
        kept = _apart(key, tokens, lengths, gap, int(most.max(initial=0)))
        tokens, key = tokens[kept], key[kept]
        lengths = _counts(tokens, batch.offsets)
    taken = np.zeros(len(allowed), np.bool_)
    taken[tokens[_best(key, lengths, most)]] = True
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
    longest = int(batch.lengths.max(initial=0))
    cap = np.full(len(batch.lengths), min(parameters.max_positions, longest))
    return cap if most is None else np.minimum(most, cap)


def _counts(tokens: Int, offsets: Int) -> Int:
    """How many of ``tokens``, ascending, each example has: [examples]."""
    return np.diff(np.searchsorted(tokens, offsets))


def _best(key: Key, lengths: Int, most: Int) -> Bool:
    """The ``most`` smallest keys of each example, ties to the earlier: [tokens].

    The examples, of ``lengths`` tokens each, stand one after another.
    """
    most = np.minimum(most, lengths)
    last = _last_taken(key, lengths, most)
    taken = key <= np.repeat(last, lengths)
    tokens = np.flatnonzero(taken)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    found = _counts(tokens, offsets)
    if np.array_equal(found, most):
        return taken
    # In some examples there are more tokens with the last key than there is room for.
    example = np.repeat(np.arange(len(lengths)), found)
    in_question = (found > most)[example] & (key[tokens] == last[example])
    tied, example = tokens[in_question], example[in_question]
    ties = np.bincount(example, minlength=len(lengths))
    nth = np.arange(len(tied)) - (np.cumsum(ties) - ties)[example]
    taken[tied[nth >= (most - found + ties)[example]]] = False
    return taken


def _last_taken(key: Key, lengths: Int, most: Int) -> Key:
    """The ``most``-th smallest key of each example: [examples].

    Where all are taken it is the largest number there is, where none is the smallest.
    """
    lowest, highest = _ends(key.dtype)
    # Written into an array of the key's own type: both ends of uint64 as Python integers have no
    # type in common that could hold them, and numpy 2.5 refuses to choose one.
    last = np.full(len(lengths), lowest, key.dtype)
    last[most >= lengths] = highest
    examples = np.flatnonzero((most > 0) & (most < lengths))
    if not len(examples):
        return last
    widths = np.searchsorted(_WIDTHS, lengths[examples])
    order = np.argsort(widths, kind="stable")
    starts = np.cumsum(lengths) - lengths
    # A row may reach beyond its example, and beyond the last: what is there is overwritten.
    padded = np.concatenate([key, np.zeros(_WIDTHS[int(widths.max())], key.dtype)])
    for alike in np.split(examples[order], np.flatnonzero(np.diff(widths[order])) + 1):
        shortest, width = int(lengths[alike].min()), int(lengths[alike].max())
        windows = sliding_window_view(padded, width)
        rows = max(1, _TABLE // width)
        for part in (alike[k : k + rows] for k in range(0, len(alike), rows)):
            table = windows[starts[part]]
            rest = table[:, shortest:]
            rest[np.arange(shortest, width) >= lengths[part, None]] = highest
            nth = most[part] - 1
            if (nth == nth[0]).all():
                table.partition(int(nth[0]), axis=1)
            else:
                table.sort(axis=1)
            last[part] = table[np.arange(len(part)), nth]
    return last


def _ends(dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """The smallest and the largest number of a type."""
    if dtype.kind == "f":
        return -np.inf, np.inf
    return np.iinfo(dtype).min, np.iinfo(dtype).max


def _apart(key: Key, tokens: Int, lengths: Int, gap: int, rounds: int) -> Bool:
    """The greedy choice: the best, then the best that is ``gap`` away from all taken …: [tokens].

    ``tokens`` are indices into the batch, ascending, of examples of ``lengths`` such tokens. At
    least the first ``rounds`` of each example's choice are among what is found; what else is among
    it the choice would take later.

    A token that is the best within the gap on both sides is taken by the greedy choice whenever its
    turn comes: nothing that could keep it off comes before. So all of these are taken at once, what
    is too near to them leaves, and so on. Each round takes the best that is left in each example.
    """
    taken = np.zeros(len(key), np.bool_)
    if not len(key):
        return taken
    # Where each stands, with examples apart, and no more room between than counts.
    steps = np.diff(tokens, prepend=tokens[0])
    steps[(np.cumsum(lengths) - lengths)[lengths > 0]] = gap
    left = np.arange(len(key))
    for _ in range(min(rounds, _ROUNDS)):
        place = np.cumsum(np.minimum(steps, gap))
        best = _is_best(place, key[left], gap)
        taken[left[best]] = True
        before = np.maximum.accumulate(np.where(best, place, 0))
        after = np.minimum.accumulate(np.where(best, place, place[-1] + gap)[::-1])[::-1]
        free = (place - before >= gap) & (after - place >= gap)
        left, steps = left[free], np.diff(place[free], prepend=0)
        if not len(left):
            return taken
    unnoticed = key[left] == _ends(key.dtype)[1]
    if rounds > _ROUNDS or unnoticed.any():
        taken[left[_one_by_one(np.cumsum(np.minimum(steps, gap)), key[left], gap)]] = True
    return taken


def _is_best(place: Int, key: Key, gap: int) -> Bool:
    """Whether no better token stands less than ``gap`` places away: [tokens].

    ``place`` ascends, from at least ``gap``. Of equal ones the earlier is better. One with the
    largest key that there can be goes unnoticed: it looks like the room around.
    """
    least = np.full(int(place[-1]) + gap, _ends(key.dtype)[1], key.dtype)
    least[place] = key
    # Of each place and those that follow, `gap` - 1 in all: by doubling.
    reach = 1
    while reach < gap - 1:
        further = min(reach, gap - 1 - reach)
        least = np.minimum(least[: len(least) - further], least[further:])
        reach += further
    return (key < least[place - gap + 1]) & (key <= least[place + 1])


def _one_by_one(place: Int, key: Key, gap: int) -> Bool:
    """The greedy choice where better and worse stand in long rows, as stairs do: [tokens].

    The best token of every stretch that no gap parts, then the next of each, and so on.
    """
    stretch = np.cumsum(np.diff(place, prepend=place[0]) >= gap)
    order = np.lexsort((key, stretch))
    place = place[order]
    sizes = np.bincount(stretch)
    longest_first = np.argsort(-sizes, kind="stable")
    first = (np.cumsum(sizes) - sizes)[longest_first]
    having = len(sizes) - np.cumsum(np.bincount(sizes))  # stretches with more than n tokens, by n
    taken = np.zeros(len(place), np.bool_)
    free = np.ones(int(place.max()) + gap, np.bool_)
    around = np.arange(1 - gap, gap)
    for nth in range(int(sizes.max())):
        token = first[: having[nth]] + nth
        at = place[token]
        allowed = free[at]
        taken[order[token[allowed]]] = True
        free[at[allowed, None] + around] = False
    return taken
