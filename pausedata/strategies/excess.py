"""Pauses where a run does worst in comparison with another."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from pausedata.core.names import NAME_PATTERN
from pausedata.strategies.base import Batch, Placed, Ranked, Strategy
from pausedata.strategies.choose import choose


class Excess(Ranked):
    """Before the M response tokens whose loss most exceeds that of another run."""

    reference: str = Field(
        pattern=NAME_PATTERN,
        description="the other run: its loss is subtracted",
    )

    @property
    def other_run(self) -> str:
        """The run whose log-probabilities are the reference."""
        return self.reference


def place(batch: Batch, parameters: Excess) -> Placed:
    """The M largest differences of each response; ties go to the earlier token."""
    assert batch.logprob is not None and batch.reference is not None
    # In double precision two stored log-probabilities of like size differ by exactly their
    # difference; in any case it is rounded once, and so the same everywhere.
    below = batch.logprob.astype(np.float64) - batch.reference.astype(np.float64)
    return choose(batch, parameters, key=below, most=parameters.most(batch))


STRATEGY = Strategy(
    "excess",
    Excess,
    place,
    frozenset({"logprob"}),
    source='Lin et al., "Rho-1: Not All Tokens Are What You Need" (NeurIPS 2024), section 2.2: '
    "the excess loss",
    formula="With l(k) the log-probability of token k in the placement's run and r(k) in "
    "`reference`: the M eligible k with the largest r(k) - l(k), the run's loss in excess of the "
    "reference's. Of equal ones, the earlier. Differences are taken in float64.",
    worked=({"reference": "reference", "positions": 2},),
)
