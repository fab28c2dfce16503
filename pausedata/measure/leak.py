"""What the places of pauses tell of the tokens behind them, at most.

A placement that reads the answer talks: a pause right before each unlikely token says that an
unlikely token follows, and its absence that none does. A model that was trained with such pauses
listens, and reads the answer better than without them, also where nothing was there to think about.
How much an ideal listener can win is bounded by what it cannot foresee of the places: with P(k)
saying which pauses stand before token k, and x the tokens, the directed information

    Σ I(x(k); P(0 … k) | x(0 … k-1))  ≤  Σ H(P(k) | P(0 … k-1), x(0 … k-1))

(Massey, "Causality, feedback and directed information" (1990), and the conservation law of Massey
and Massey (2005): the right side is the left one where the places are made from the tokens alone.)
No pause that could be foreseen tells anything, and none does where the places are known before the
token. What bets on the places with nothing but what is known before each token pays at least the
right side: its loss is the bound. Several such gamblers are tried, and the best one's loss counts.

They know of the tokens no more than the last one. What the run that placed knows besides, such as
its entropies, the models that are measured may not: to them, a place that it foretells tells it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pausedata.measure.examples import ExamplePair
from pausedata.measure.measured import Floats

Ints = NDArray[np.int64]

_PRIOR = 0.5  # Krichevsky and Trofimov's: half an outcome of each kind has been seen
_POSITIONS, _PLACES = 512, 16  # that a gambler tells apart, at most


def leaks(pairs: Sequence[ExamplePair]) -> Floats:
    """Nats that the places of each of ``pairs`` can tell of its tokens, at most: [examples].

    0 where all have the same places. Each is bet on by what those of other clusters have, so that
    few of them, or places that no gambler finds a rule for, give a large bound.
    """
    pauses = [_before_tokens(pair) for pair in pairs]
    if not pauses or _all_alike(pauses):
        return np.zeros(len(pairs))
    lengths = np.array([len(each) for each in pauses])
    example = np.repeat(np.arange(len(pairs)), lengths)
    unit = _units(pairs)
    counts = np.concatenate(pauses)
    placed = (counts > 0).astype(np.int64)
    losses = [
        _losses(example, unit, context, placed, 2)
        for context in _contexts(pairs, example, placed, lengths)
    ]
    best = min(losses, key=lambda loss: float(loss.sum()))
    # How many pauses a place has is told by it, too.
    kinds, kind = np.unique(counts[placed > 0], return_inverse=True)
    if len(kinds) > 1:
        at = example[placed > 0]
        best = best + _losses(at, unit, np.zeros_like(kind), kind, len(kinds))
    return best


def length_leaks(pairs: Sequence[ExamplePair]) -> Floats:
    """As `leaks`, where the places are drawn evenly among a response's: [examples].

    Given the length they have nothing to do with the tokens, so that they can tell it alone. A
    listener who knows how long responses are learns ln p(places | length) - ln p(places).
    """
    if not pairs:
        return np.zeros(0)
    pauses, unit = [_before_tokens(pair) for pair in pairs], _units(pairs)
    lengths = np.array([len(each) for each in pauses])
    placed = np.array([int((each > 0).sum()) for each in pauses])
    last = np.array([int(np.flatnonzero(each).max(initial=-1)) for each in pauses])
    likely = -_log_choose(lengths, placed)  # of one of the ways to choose so many of so many
    found = np.zeros(len(pairs))
    for k in range(len(pairs)):
        others = unit != unit[k]
        could = others & (lengths > last[k]) & (placed == placed[k])
        if could.any():
            top = likely[could].max()
            mean = top + np.log(np.exp(likely[could] - top).sum() / others.sum())
            found[k] = likely[k] - mean
        else:  # no other response is so long: it is told by its places
            found[k] = np.log(max(int(others.sum()), 1))
    return found


def _log_choose(n: Ints, k: Ints) -> Floats:
    """ln of n over k, each [examples]."""
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n.max(initial=0) + 1)))])
    return factorials[n] - factorials[k] - factorials[n - k]


def _units(pairs: Sequence[ExamplePair]) -> Ints:
    """Which are drawn together, as numbers: the examples of a cluster. [examples]"""
    names = [str(k) if pair.cluster is None else pair.cluster for k, pair in enumerate(pairs)]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def _before_tokens(pair: ExamplePair) -> Ints:
    """How many pauses stand right before each real token: [response tokens]."""
    real = np.flatnonzero(~pair.is_pause)
    return np.diff(np.concatenate([[-1], real])) - 1


def _all_alike(pauses: list[Ints]) -> bool:
    """Whether all have the same pauses at the same positions, from the beginning."""
    places = {(tuple(np.flatnonzero(each)), tuple(each[each > 0])) for each in pauses}
    return len(places) == 1


def _contexts(
    pairs: Sequence[ExamplePair], example: Ints, placed: Ints, lengths: Ints
) -> Iterator[Ints]:
    """What each gambler goes by, as one number a token: all of it is known before the token."""
    starts = np.cumsum(lengths) - lengths
    position = np.arange(len(example)) - starts[example]
    so_far = np.cumsum(placed) - placed
    so_far -= so_far[starts][example] if len(so_far) else 0
    places = np.minimum(so_far, _PLACES - 1)
    yield places
    yield np.minimum(position, _POSITIONS - 1) * _PLACES + places
    ids = np.concatenate([np.asarray(pair.without.response_ids, np.int64) for pair in pairs])
    before = np.where(position > 0, np.roll(ids, 1), -1)
    yield before


def _losses(example: Ints, unit: Ints, context: Ints, outcome: Ints, kinds: int) -> Floats:
    """What betting on ``outcome``, of so many kinds, by ``context`` loses: nats, [examples].

    Each example is bet on by the shares of outcomes in all others, but for those of its ``unit``.
    """
    _, context = np.unique(context, return_inverse=True)
    cells = (int(context.max()) + 1) * kinds
    cell = context * kinds + outcome
    whole = np.bincount(cell, minlength=cells)
    # A unit's own outcomes in each context, and in each context with each outcome.
    own, own_all = _own(unit[example] * cells + cell), _own(unit[example] * cells + context)
    seen = whole[cell] - own + _PRIOR
    every = np.bincount(context)[context] - own_all + _PRIOR * kinds
    losses: Floats = np.bincount(example, -np.log(seen / every), minlength=len(unit)).astype(float)
    return losses


def _own(key: Ints) -> Ints:
    """How often each key is there: [tokens]."""
    _, which, count = np.unique(key, return_inverse=True, return_counts=True)
    return count[which]
