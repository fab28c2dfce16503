"""Pauses for a share of a whole split: hard examples get more of them, easy ones none."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from pausedata.core.quantiles import largest_within, upper_halves
from pausedata.strategies.base import Batch, Batches, Choosing, Float, Placed, Strategy
from pausedata.strategies.choose import choose


class Budget(Choosing):
    """Before the least likely tokens of a split, as many as make B pauses for each 100 tokens."""

    per_100: float = Field(
        gt=0,
        allow_inf_nan=False,
        description="B: pauses for each 100 response tokens of the split, at most; not above 100 "
        "times `tokens`",
    )

    @model_validator(mode="after")
    def _not_above_all(self) -> Budget:
        most = 100 * max(self.tokens, 1)
        if self.per_100 > most:
            raise ValueError(
                f"per_100 is {self.per_100:g}, but with tokens: {self.tokens} there are no more "
                f"than {most} pauses for 100 tokens: lower per_100 or raise tokens"
            )
        return self


def fit(batches: Batches, parameters: Budget) -> dict[str, Any]:
    """The log-probability up to which a token of the split gets pauses, from all of its batches.

    The numbers are read twice, and the memory that this takes does not grow with them.
    """
    response_tokens = 0

    def candidates() -> Iterator[Float]:
        nonlocal response_tokens
        response_tokens = 0
        for batch in batches():
            response_tokens += int(batch.offsets[-1])
            yield _candidates(batch, parameters)

    upper = upper_halves(candidates())
    places = 0
    if parameters.tokens:
        # Of the decimal that was written: 0.3 of 1000 tokens is 3, whatever 0.3 is in binary.
        share = Fraction(str(parameters.per_100)) / (100 * parameters.tokens)
        places = int(share * response_tokens)
    threshold, taken = largest_within(candidates(), upper, places) if places else (None, 0)
    return {
        "threshold": threshold,
        "response_tokens": response_tokens,
        "candidates": int(upper.sum()),
        "places": taken,
    }


def _candidates(batch: Batch, parameters: Budget) -> Float:
    """Log-probabilities of the tokens that would get pauses if there were enough for all."""
    assert batch.logprob is not None
    everywhere = parameters.model_copy(update={"tokens": 1})
    placed = choose(batch, everywhere, key=batch.logprob)
    return batch.logprob[batch.offsets[placed.example] + placed.positions]


def place(batch: Batch, parameters: Budget) -> Placed:
    """The candidates up to the threshold that ``fit`` found.

    They are what the choice takes of the tokens up to the threshold. For it is greedy: it takes
    tokens from the least likely on, leaves out what is too near to one that it took before, and
    stops after ``max_positions``. So whether it takes a token depends on less likely ones alone,
    and leaving out all above a threshold changes nothing among those below.
    """
    assert batch.logprob is not None
    threshold = batch.fitted["threshold"]
    among = np.zeros(len(batch.logprob), np.bool_)
    if threshold is not None:
        among = batch.logprob <= np.float32(threshold)
    return choose(batch, parameters, key=batch.logprob, among=among)


STRATEGY = Strategy(
    "budget",
    Budget,
    place,
    frozenset({"logprob"}),
    fit,
    source="pausedata",
    formula="One threshold t for each split. Candidates are the tokens that would get pauses if "
    "there were enough for all: every eligible one, less what `min_gap` and `max_positions` leave "
    "out, the least likely first. With N response tokens in the split, "
    "K = ⌊`per_100` · N / (100 · `tokens`)⌋ places may be had, and t is the largest "
    "log-probability of a candidate such that at most K candidates have l(k) ≤ t. Those get "
    "pauses. Where several are equal at the boundary, none of these does: a split never gets more "
    "than its budget.",
    worked=({"per_100": 20},),
)
