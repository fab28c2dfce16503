"""Pauses where the model is least sure of what comes next."""

from __future__ import annotations

import numpy as np

from pausedata.strategies.base import Batch, Placed, Ranked, Strategy
from pausedata.strategies.choose import choose


class HighestEntropy(Ranked):
    """Before the M response tokens predicted with the highest entropy."""


def place(batch: Batch, parameters: HighestEntropy) -> Placed:
    """The M largest entropies of each response; ties go to the earlier token."""
    assert batch.entropy is not None
    return choose(batch, parameters, key=np.negative(batch.entropy), most=parameters.most(batch))


STRATEGY = Strategy(
    "highest_entropy",
    HighestEntropy,
    place,
    frozenset({"entropy"}),
    source="pausedata. That the few tokens predicted with high entropy are where a chain of "
    'thought forks: Wang et al. 2025, "Beyond the 80/20 Rule: High-Entropy Minority Tokens Drive '
    'Effective Reinforcement Learning for LLM Reasoning"',
    formula="With H(k) = -Σ p(v) log p(v) over the vocabulary, of the distribution that predicts "
    "token k: the M eligible k with the largest H(k). Of equal ones, the earlier. Unlike a "
    "log-probability it depends on what could have come there, not on what did.",
    worked=({"positions": 2},),
)
