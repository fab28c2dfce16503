"""Pauses before every token that is unlikely enough."""

from __future__ import annotations

from decimal import Context, Decimal

import numpy as np
from pydantic import Field, model_validator

from pausedata.strategies.base import MOST_TOKENS, Batch, Choosing, Placed, Strategy
from pausedata.strategies.choose import choose

PROBABILITY = 0.5  # where no limit is given: as in the paper's reference code


class Threshold(Choosing):
    """Before response tokens under a limit of log-probability, probability or rank."""

    logprob: float | None = Field(
        default=None,
        le=0,
        allow_inf_nan=False,
        description="before tokens whose log-probability, in nats, is lower than this",
    )
    probability: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="before tokens less probable than this; 0.5 where no limit is given",
    )
    rank: int | None = Field(
        default=None, ge=1, description="before tokens of a worse rank than this; 1 is the best"
    )
    positions: int | None = Field(
        default=None,
        ge=0,
        le=MOST_TOKENS,
        description="how many tokens of a response get pauses, at most: the least likely, or "
        "those of the worst rank; null: all under the limit",
    )

    @model_validator(mode="after")
    def _one_limit(self) -> Threshold:
        if sum(limit is not None for limit in (self.logprob, self.probability, self.rank)) > 1:
            raise ValueError("give one of logprob, probability and rank, not several")
        return self

    @property
    def reads(self) -> frozenset[str]:
        """``rank`` where that is the limit, else ``logprob``."""
        return super().reads | {"logprob" if self.rank is None else "rank"}

    @property
    def lowest(self) -> float:
        """The log-probability, in nats, from which on a token gets no pause."""
        if self.logprob is not None:
            return self.logprob
        # Of the decimal that was written, and rounded alike everywhere: a C library's log is not.
        written = Decimal(str(PROBABILITY if self.probability is None else self.probability))
        return float(written.ln(Context(prec=40)))


def place(batch: Batch, parameters: Threshold) -> Placed:
    """The tokens under the limit; where they are too many, the worst, ties to the earlier."""
    most = None
    if parameters.positions is not None:
        longest = int(batch.lengths.max(initial=0))
        most = np.full(len(batch.lengths), min(parameters.positions, longest))
    if parameters.rank is not None:
        assert batch.rank is not None
        key = -batch.rank.astype(np.int64)
        return choose(batch, parameters, key=key, among=key < -parameters.rank, most=most)
    assert batch.logprob is not None
    # The limit as it would be stored: else a token at -0.1 would be below a limit of -0.1.
    limit = np.float32(max(parameters.lowest, float(np.finfo(np.float32).min)))
    among = batch.logprob < limit
    return choose(batch, parameters, key=batch.logprob, among=among, most=most)


STRATEGY = Strategy(
    "threshold",
    Threshold,
    place,
    source="after the DIT reference code, which at inference lets a pause come wherever even the "
    "likeliest next token has a probability below a limit (0.5 in its script). Here the text is "
    "given, and its next token is the one that counts",
    formula="With l(k) = log p(token k | prompt, tokens 0 … k-1), all eligible k with "
    "l(k) < `logprob`, or l(k) < ln(`probability`), or rank(k) > `rank`; strictly, so that a "
    "token at the limit, rounded to float32 as scores are, gets none. `positions` keeps of each "
    "response those with the smallest l(k), or the largest rank(k). Of equal ones, the earlier.",
    worked=({}, {"logprob": -1.0}, {"rank": 1, "positions": 1}),
)
