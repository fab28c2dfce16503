"""A strategy of another package: pauses where the log-probability drops most."""

import numpy as np
from pydantic import Field

from pausedata.strategies import Batch, Placed, Ranked, Strategy, choose


class SteepestDrop(Ranked):
    """Before the M tokens that are the most less likely than the token before them."""

    least: float = Field(default=0.5, ge=0, description="a drop below this, in nats, is none")


def place(batch: Batch, parameters: SteepestDrop) -> Placed:
    """The largest differences to the token before; of equal ones, the earlier."""
    assert batch.logprob is not None  # since the strategy needs it
    drop = np.zeros(len(batch.logprob))  # [tokens], nats
    drop[1:] = batch.logprob[:-1].astype(np.float64) - batch.logprob[1:]
    return choose(
        batch,
        parameters,
        key=-drop,  # the smallest key comes first
        among=(batch.position > 0) & (drop >= parameters.least),
        most=parameters.most(batch),
    )


STRATEGY = Strategy(
    "steepest_drop",
    SteepestDrop,
    place,
    needs=frozenset({"logprob"}),
    source="none: it shows how a strategy is added",
    formula="The M eligible k > 0 with the largest l(k-1) - l(k), of those that are at least "
    "`least`; of equal ones, the earlier.",
    worked=({"positions": 2},),
)
