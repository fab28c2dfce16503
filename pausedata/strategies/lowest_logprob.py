"""DIT: pauses before the least likely response tokens."""

from __future__ import annotations

from pausedata.strategies.base import Batch, Placed, Ranked, Strategy
from pausedata.strategies.choose import choose


class LowestLogprob(Ranked):
    """Before the M least likely response tokens (Kim, Kim, Thorne 2025, section 3)."""


def place(batch: Batch, parameters: LowestLogprob) -> Placed:
    """The M smallest log-probabilities of each response; ties go to the earlier token."""
    assert batch.logprob is not None
    return choose(batch, parameters, key=batch.logprob, most=parameters.most(batch))


STRATEGY = Strategy(
    "lowest_logprob",
    LowestLogprob,
    place,
    frozenset({"logprob"}),
    source='Kim, Kim, Thorne, "Learning to Insert [PAUSE] Tokens for Better Reasoning" (Findings '
    "of ACL 2025), section 3: DIT",
    formula="With l(k) = log p(token k | prompt, tokens 0 … k-1): the M eligible k with the "
    "smallest l(k). Of equal ones, the earlier.",
    worked=({"positions": 2}, {"positions": 2, "tokens": 2}, {"fraction": 0.5, "min_gap": 2}),
)
