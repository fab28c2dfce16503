"""DIT: pauses before the least likely response tokens."""

from __future__ import annotations

from pydantic import Field

from pausedata.strategies.base import MOST_PAUSES, Batch, Parameters, Placed, Strategy, smallest


class LowestLogprob(Parameters):
    """Before the M least likely response tokens (Kim, Kim, Thorne 2025, section 3)."""

    positions: int = Field(ge=0, description="M: how many tokens of each response get pauses")
    tokens: int = Field(default=1, ge=0, le=MOST_PAUSES, description="pauses before each of them")


def place(batch: Batch, parameters: LowestLogprob) -> Placed:
    """The M smallest log-probabilities of each response; ties go to the earlier token."""
    assert batch.logprob is not None
    return smallest(batch, batch.logprob, parameters.positions, parameters.tokens)


STRATEGY = Strategy("lowest_logprob", LowestLogprob, place, frozenset({"logprob"}))
