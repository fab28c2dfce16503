"""The interval of a difference of two shares of right answers, of the same examples."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from pausedata.measure.paired import paired_interval


def of_counts(gained: int, lost: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Of ``count`` examples, so many that the first alone has right, and so many the second."""
    own, other = np.zeros(count), np.zeros(count)
    own[:gained], other[gained : gained + lost] = 1, 1
    return paired_interval(own, other, confidence)


def closed_form(b: int, c: int, n: int, confidence: float) -> tuple[float, float]:
    """Tango's interval as roots of a quartic: Yang, Sun, Hardin, Statistics in Medicine 2013."""
    g = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    d, s = b - c, b + c
    coefficients = [
        n**2 * (n / g + 1) ** 2,
        -n * d * (n / g + 1) * (4 * n / g + 1),
        2 * n * d**2 * (3 * n / g + 2) / g - n**2 * (s / g + 1),
        n * d * (2 * s / g + 1) - d**3 * (4 * n / g + 1) / g,
        d**2 * (d**2 / g - s) / g,
    ]
    roots = np.roots(coefficients)
    real = roots[np.abs(roots.imag) < 1e-6].real
    return float(real.min()), float(real.max())


def test_the_interval_of_a_published_example() -> None:
    """Bentur et al. 2009 as in Fagerland, Lydersen, Laake 2014, Table VI: 1 against 7 of 21."""
    assert of_counts(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize(
    ("gained", "lost", "count"),
    [(12, 2, 50), (0, 0, 6), (1, 0, 14), (3, 3, 20), (40, 20, 160), (0, 5, 9), (200, 180, 1319)],
)
def test_the_interval_is_tangos(gained: int, lost: int, count: int, confidence: float) -> None:
    found = of_counts(gained, lost, count, confidence)
    assert found == pytest.approx(closed_form(gained, lost, count, confidence), abs=1e-6)
    other = of_counts(lost, gained, count, confidence)
    assert found == pytest.approx((-other[1], -other[0]), abs=1e-9)


def test_none_of_six_against_none_of_six_is_not_certainty() -> None:
    """Of no difference in n examples the ends are z² / (n + z²)."""
    z2 = 1.959964**2
    assert of_counts(0, 0, 6) == pytest.approx((-z2 / (6 + z2), z2 / (6 + z2)), abs=1e-6)
    assert of_counts(0, 0, 1) == pytest.approx((-z2 / (1 + z2), z2 / (1 + z2)), abs=1e-6)
    assert of_counts(8, 0, 8)[1] == 1


@pytest.mark.parametrize(("gains", "losses"), [(0.02, 0.02), (0.1, 0.1), (0.3, 0.1), (0.5, 0.4)])
def test_it_holds_the_true_difference_as_often_as_it_says(gains: float, losses: float) -> None:
    """Of twenty examples, summed over all that can come out."""
    n, covered, total = 20, 0.0, 0.0
    for b in range(n + 1):
        for c in range(n + 1 - b):
            ways = math.comb(n, b) * math.comb(n - b, c)
            chance = ways * gains**b * losses**c * (1 - gains - losses) ** (n - b - c)
            low, high = of_counts(b, c, n)
            covered += chance * (low <= gains - losses <= high)
            total += chance
    assert total == pytest.approx(1)
    assert covered > 0.93


def test_examples_of_a_cluster_count_for_what_they_are_worth() -> None:
    own, other = np.array([1, 0, 0, 1, 1, 0, 1, 1]), np.array([0, 1, 0, 0, 1, 0, 1, 0])
    five = [np.repeat(each, 5) for each in (own, other)]
    units = np.repeat(np.arange(8), 5)
    # Five of each that are all the same are worth one, but for the n - 1 of the two variances.
    # Of eight units by Student's t: 2.3646 deviations, as many as the normal has at 0.98196.
    worth = paired_interval(*five, 0.95, units)
    alone = paired_interval(own, other, 0.98196)
    assert worth == pytest.approx(alone, abs=0.03)
    naive = paired_interval(*five, 0.95)
    assert naive[1] - naive[0] < 0.6 * (worth[1] - worth[0])
    # Where nothing varies a cluster is one example.
    nothing = np.zeros(40)
    assert paired_interval(nothing, nothing, 0.95, units) == pytest.approx(
        of_counts(0, 0, 8, 0.98196), abs=1e-4
    )
    # Clusters of one change nothing.
    assert paired_interval(own, other, 0.95, np.arange(8)) == pytest.approx(alone, abs=1e-4)
