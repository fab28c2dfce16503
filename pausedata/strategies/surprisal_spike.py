"""Where a response becomes harder all at once."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from pausedata.strategies.base import Batch, Bool, Choosing, Float, Int, Placed, Strategy
from pausedata.strategies.choose import choose
from pausedata.strategies.portable import Double

_BLOCK = 8192  # tokens at a time: the arrays in between stay in the processor's cache


class SurprisalSpike(Choosing):
    """Where surprisal exceeds the running mean by some standard deviations."""

    window: int = Field(
        default=16, ge=2, le=1024, description="tokens before a token that it is compared with"
    )
    z: float = Field(
        default=2.0,
        ge=0,
        allow_inf_nan=False,
        description="standard deviations above their mean that make a spike",
    )


def place(batch: Batch, parameters: SurprisalSpike) -> Placed:
    """Before every spike; with ``max_positions``, before the least likely of these tokens."""
    assert batch.logprob is not None
    among = spikes(batch.logprob, batch.position, parameters.window, parameters.z)
    return choose(batch, parameters, key=batch.logprob, among=among)


def spikes(logprob: Float, position: Int, window: int, z: float) -> Bool:
    """Which tokens stand out from the ``window`` tokens before them in their response: [tokens].

    Both arrays are [tokens], example after example. The sums are taken from the nearest token to
    the farthest, so that they are the same to the bit wherever an example stands.
    """
    surprisal = -logprob.astype(np.float64)
    found = np.zeros(len(surprisal), np.bool_)
    for first in range(0, len(surprisal), _BLOCK):
        last = min(first + _BLOCK, len(surprisal))
        lead = max(0, first - window)
        found[first:last] = _spikes(surprisal[lead:last], position[first:last], window, z)
    return found


def _spikes(surprisal: Double, position: Int, window: int, z: float) -> Bool:
    """The same for the tokens at ``position``; ``surprisal`` may begin some tokens before them."""
    tokens = len(position)
    here = len(surprisal) - tokens  # where they begin in it
    widest = min(window, int(position.max(initial=0)))
    count = np.minimum(position, window)
    divisor = np.maximum(count, 1).astype(np.float64)

    def before(distance: int) -> tuple[slice, Double, Double]:
        """Tokens with one so far before them in the block, those, and 1 where they are of one
        response, else 0.
        """
        skipped = max(0, distance - here)
        part = slice(skipped, tokens)
        there = surprisal[here + skipped - distance : len(surprisal) - distance]
        return part, there, (position[part] >= distance).astype(np.float64)

    mean = np.zeros(tokens)
    for distance in range(1, widest + 1):
        part, there, same = before(distance)
        mean[part] += there * same
    mean /= divisor
    squares = np.zeros(tokens)
    for distance in range(1, widest + 1):
        part, there, same = before(distance)
        deviation = there - mean[part]
        deviation *= deviation
        squares[part] += deviation * same
    limit = mean + z * np.sqrt(squares / divisor)
    return (count >= 2) & (surprisal[here:] > limit)


STRATEGY = Strategy(
    "surprisal_spike",
    SurprisalSpike,
    place,
    frozenset({"logprob"}),
    formula="With s(k) = -log p(token k | prompt, tokens 0 … k-1), and m and d the mean and the "
    "(population) standard deviation of s over the tokens max(0, k - window) … k-1 of the "
    "response: every eligible k with at least two such tokens and s(k) > m + z · d. With "
    "`max_positions` the least likely of them; of equal ones, the earlier.",
    worked=({"window": 4, "z": 1.0}, {"window": 4, "z": 1.0, "max_positions": 1}),
)
