"""How sure a difference of two shares is, of the same examples: right with pauses and without."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np

from pausedata.measure.sequential import Interval
from pausedata.measure.trainings import student_quantile

_HALVINGS = 60


def paired_interval(
    with_pauses: Any, without: Any, confidence: float, units: Any = None
) -> Interval:
    """Between which differences of the two shares of right answers the true one is.

    0 or 1 for each example, [examples], at least one. The score interval of Tango ("Equivalence
    test and confidence interval for the difference in proportions for the paired-sample design",
    Statistics in Medicine 17, 1998): all differences that a score test does not reject. It does not
    collapse where no example tells the two apart: of 0 of 6 against 0 of 6 it is ±0.39. It is of
    one look, at the end. ``units`` [examples] says which examples are drawn together: then they
    count for as many as they are worth (Rao and Scott, Biometrics 48, 1992), by Student's t of as
    many as there are units.
    """
    own, other = (np.asarray(right, np.float64) for right in (with_pauses, without))
    count = len(own)
    quantile = NormalDist().inv_cdf((1 + confidence) / 2)
    worth: float = count
    if units is not None:
        worth = count / _design_effect(own - other, units)
        freedom = max(len(set(units)) - 1, 1)
        quantile = student_quantile((1 + confidence) / 2, freedom)
    share = worth / count
    gained, lost = float((own > other).sum()) * share, float((own < other).sum()) * share
    found = (gained - lost) / worth
    return (
        _end(gained, lost, worth, quantile, found, -1.0),
        _end(gained, lost, worth, quantile, found, 1.0),
    )


def _design_effect(differences: Any, units: Any) -> float:
    """How many times as much the mean varies as of examples that are drawn one by one; 1 at least.

    Where all differ alike nothing tells: then a cluster counts as one.
    """
    _, unit = np.unique(units, return_inverse=True)
    clusters, count = int(unit.max()) + 1, len(differences)
    away = differences - differences.mean()
    alone = float((away**2).sum()) / max(count - 1, 1) * count
    if clusters < 2 or not alone:
        return count / clusters
    sums = np.bincount(unit, away, minlength=clusters)
    together = float((sums**2).sum()) * clusters / (clusters - 1)
    return max(together / alone, 1.0)


def _end(
    gained: float, lost: float, count: float, quantile: float, found: float, far: float
) -> float:
    """The difference farthest from ``found``, towards ``far``, that the score test lets stand."""
    near = found
    if abs(_score(gained, lost, count, far)) < quantile:
        return far
    for _ in range(_HALVINGS):
        middle = (near + far) / 2
        if abs(_score(gained, lost, count, middle)) < quantile:
            near = middle
        else:
            far = middle
    return near


def _score(gained: float, lost: float, count: float, difference: float) -> float:
    """Tango's statistic: standard errors by which what was found is off from ``difference``."""
    away = gained - lost - count * difference
    # The share of examples that only the second has right, most likely under this difference.
    a = 2 * count
    b = -gained - lost + (2 * count - gained + lost) * difference
    c = -lost * difference * (1 - difference)
    share = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = count * (2 * share + difference * (1 - difference))
    if variance <= 0:
        return math.copysign(math.inf, away) if away else 0.0
    return away / math.sqrt(variance)
