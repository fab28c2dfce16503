"""What another training, by another seed, could have made of the same comparison.

An interval over examples is of the two models that were measured. Models that differ by their seed
alone differ, too, and with enough examples any difference between two models is sure: only several
trainings tell a gain by pauses from one by luck.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def margin(trained: Floats, baselines: Floats, confidence: float) -> float | None:
    """How far the mean of ``trained`` less that of ``baselines`` can be off by the seeds alone.

    Figures of each training, [models] and [baselines]. The two-sample t interval's half width, with
    one variance for both kinds. None where there is one training of each: nothing tells.
    """
    groups = [trained, baselines]
    freedom = sum(len(group) - 1 for group in groups)
    if freedom < 1:
        return None
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
    deviation = math.sqrt(squares / freedom * sum(1 / len(group) for group in groups))
    return student_quantile((1 + confidence) / 2, freedom) * deviation


def paired_margin(gains: Floats, confidence: float) -> float | None:
    """How far the mean of ``gains`` [models], of each over itself, can be off by the seeds alone.

    The t interval's half width; None of one.
    """
    freedom = len(gains) - 1
    if freedom < 1:
        return None
    deviation = float(gains.std(ddof=1)) / math.sqrt(len(gains))
    return student_quantile((1 + confidence) / 2, freedom) * deviation


def student_quantile(share: float, freedom: int) -> float:
    """What Student's t with so many degrees of freedom is below with probability ``share``."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _below(middle, freedom) < share else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


_NODES: Any = np.polynomial.legendre.leggauss(64)


def _below(angle: float, freedom: int) -> float:
    """The probability of a t below √freedom · tan(angle): the density is cos^(freedom-1)."""
    nodes, weights = _NODES
    area = float((np.cos(angle / 2 * (nodes + 1)) ** (freedom - 1) * weights).sum()) * angle / 2
    half = math.sqrt(math.pi) * math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom + 1) / 2))
    return 0.5 + area / half
