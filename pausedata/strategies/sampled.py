"""Positions drawn at random, the unlikely tokens more often."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from pausedata.strategies.base import Batch, Float, Placed, Ranked, Strategy
from pausedata.strategies.choose import choose
from pausedata.strategies.portable import Double, log
from pausedata.strategies.random import random_numbers, stream_keys

_LEAST_SURPRISAL = 2.0**-24  # of a token whose log-probability was rounded to 0: it can be drawn
_BELOW_ONE = 1 - 2.0**-53


class Sampled(Ranked):
    """Before M tokens drawn without replacement with weight surprisal^(1/temperature)."""

    temperature: float = Field(
        default=1.0,
        ge=1e-6,
        le=1e6,
        description="near 0 the least likely tokens are taken, with a large one any are as likely",
    )
    seed: int = Field(  # pyright: ignore[reportIncompatibleVariableOverride]: it is frozen
        default=0, description="with epoch and the example's id, decides the draw"
    )
    epoch: int = Field(default=0, ge=0, description="each epoch has a draw of its own")


def place(batch: Batch, parameters: Sampled) -> Placed:
    """The M largest of log(weight) plus Gumbel noise: a draw without replacement."""
    assert batch.logprob is not None
    keys = stream_keys(batch.ids, parameters.seed, parameters.epoch)
    waiting = log(exponential(random_numbers(keys[batch.example], batch.position)))
    waiting -= log(surprisal(batch.logprob)) / parameters.temperature
    return choose(batch, parameters, key=waiting, most=parameters.most(batch))


def surprisal(logprob: Float) -> Double:
    """What a log-probability is short of 0, in nats and never quite nothing: [tokens]."""
    return np.maximum(-logprob.astype(np.float64), _LEAST_SURPRISAL)


def exponential(numbers: np.ndarray[Any, np.dtype[np.uint64]]) -> Double:
    """Random 64-bit numbers as exponentially distributed ones: [tokens], above 0.

    The largest of all would round to a uniform number of 1, whose logarithm has none.
    """
    uniform = ((numbers >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return -log(np.minimum(uniform, _BELOW_ONE))


STRATEGY = Strategy(
    "sampled",
    Sampled,
    place,
    frozenset({"logprob"}),
    source='the Gumbel top-k trick: Kool, van Hoof, Welling, "Stochastic Beams and Where to Find '
    'Them" (ICML 2019), section 2.3; after Vieira 2014 and Yellott 1977',
    formula="With s(k) = max(-log p(token k | prompt, tokens 0 … k-1), 2^-24), x(k) the 64-bit "
    "number of `random` (its key from SHA-256 of decimal seed, NUL, decimal epoch, NUL, id) and "
    "u(k) = (floor(x(k) / 2^11) + 0.5) / 2^53, at most 1 - 2^-53: the M eligible k with the "
    "largest log(s(k)) / temperature - log(-log(u(k))). Of equal ones, the earlier. That draws M "
    "tokens one after the other, without replacement, each with a chance that is proportional to "
    "s(k)^(1/temperature).",
    worked=({"positions": 2}, {"positions": 2, "epoch": 1}, {"positions": 2, "temperature": 0.1}),
)
