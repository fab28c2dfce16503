"""Where a response becomes harder all at once."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from pausedata.strategies.base import Batch, Bool, Choosing, Int, Placed, Strategy
from pausedata.strategies.choose import choose

# Surprisals are counted in whole numbers of this part of a nat, far below what scores are exact to.
UNIT = 2**16
MOST = 2**10  # nats: so that sums of squares over the widest window fit into 64 bits


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
    among = spikes(batch, parameters.window, parameters.z)
    return choose(batch, parameters, key=batch.logprob, among=among)


def spikes(batch: Batch, window: int, z: float) -> Bool:
    """Which tokens stand out from the ``window`` tokens before them in their response: [tokens].

    Surprisals are whole numbers of a unit, and sums over a window differences of sums from the
    start: exact, whatever the window, and in no order that could change them. Sums of squares may
    wrap around; what is taken from them fits.
    """
    assert batch.logprob is not None
    units = np.rint(np.clip(-batch.logprob.astype(np.float64), 0, MOST) * UNIT).astype(np.int64)
    count = np.minimum(batch.position, window)
    here = np.arange(len(units))
    total = _since(units, here, count)
    n = np.maximum(count, 1)
    mean, rest = np.divmod(total, n)  # the mean rounded down keeps the squares small
    squares = _since(units * units, here, count) - mean * (2 * total - n * mean)
    # Both sides times n: n · (s - m), and n · d from n² d² = n · squares - rest².
    above = (units * n - total).astype(np.float64)
    spread = n.astype(np.float64) * squares.astype(np.float64) - np.square(rest.astype(np.float64))
    with np.errstate(over="ignore"):  # of a z so large that nothing is above it
        return (count >= 2) & (above > z * np.sqrt(spread))


def _since(values: Int, here: Int, count: Int) -> Int:
    """The sum of the ``count`` values before each: [tokens]."""
    sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(values)])
    return sums[here] - sums[here - count]


STRATEGY = Strategy(
    "surprisal_spike",
    SurprisalSpike,
    place,
    frozenset({"logprob"}),
    formula="With s(k) = -log p(token k | prompt, tokens 0 … k-1), and m and d the mean and the "
    "(population) standard deviation of s over the tokens max(0, k - window) … k-1 of the "
    "response: every eligible k with at least two such tokens and s(k) > m + z · d. Surprisals are "
    "rounded to 2^-16 nats, and those above 1,024 nats count as that. With `max_positions` the "
    "least likely of them; of equal ones, the earlier.",
    worked=({"window": 4, "z": 1.0}, {"window": 4, "z": 1.0, "max_positions": 1}),
)
