"""Pauses at the start of the sentences that the model finds hardest."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from pausedata.strategies.base import MOST_TOKENS, Batch, Choosing, Placed, Strategy
from pausedata.strategies.choose import choose
from pausedata.strategies.sentences import sentences

# Log-probabilities are added up as whole numbers of this part of a nat, so that the order in which
# they are added changes nothing.
_UNIT = 2**24
_LEAST = -(2.0**10)  # nats: so that the sum over a shard fits into 64 bits


class HardestSentence(Choosing):
    """At the start of the M sentences with the lowest mean log-probability."""

    positions: int = Field(
        ge=0, le=MOST_TOKENS, description="M: how many sentences of each response get pauses"
    )


def place(batch: Batch, parameters: HardestSentence) -> Placed:
    """The M smallest means of each response; ties go to the earlier sentence."""
    assert batch.text is not None and batch.logprob is not None
    found = sentences(batch.text)
    tokens = batch.offsets[found.example] + batch.text.before(found.example, found.start)
    # Sentences that begin in one token share it: all but the last of them have no other.
    starts = np.zeros(len(batch.logprob), np.bool_)
    starts[tokens] = True
    first = np.flatnonzero(starts)
    last = np.minimum(np.append(first[1:], len(starts)), batch.offsets[batch.example[first] + 1])
    logprob = np.maximum(batch.logprob.astype(np.float64), _LEAST)
    units = np.rint(logprob * _UNIT).astype(np.int64)
    total = np.concatenate([[0], np.cumsum(units)])
    mean = np.zeros(len(starts))
    mean[first] = (total[last] - total[first]) / (last - first)
    most = np.full(len(batch.lengths), parameters.positions)
    return choose(batch, parameters, key=mean, among=starts, most=most)


STRATEGY = Strategy(
    "hardest_sentence",
    HardestSentence,
    place,
    frozenset({"text", "logprob"}),
    formula="Sentences as in the strategy `sentence`. A sentence's tokens run from the one that "
    "contains its first character to the next sentence's, those of the last to the end, EOS with "
    "it. The M sentences with the smallest mean log-probability, each added up in whole 2^-24 "
    "nats, those of a token below -1,024 nats as that. Of equal ones, the earlier. Sentences that "
    "begin in one token have that token's place and the tokens of all of them.",
    worked=({"positions": 1}, {"positions": 2}),
)
