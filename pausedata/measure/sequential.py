"""Looking again and again without being fooled: intervals that hold whenever one looks.

The evidence against a mean of zero is the Bayes factor of a normal mean with unknown variance, its
effect size drawn from N(0, EFFECT²): under a mean of zero it is a martingale that begins at 1, so
that it ever passes 2 / (1 - confidence) with half of the stated error at most (Ville's inequality),
however often and whenever it is looked at. Lai, "On confidence sequences" (1976); Wang and Ramdas,
"Anytime-valid t-tests and confidence sequences for Gaussian means with unknown variance" (2024),
section 4. What it is given is Student's t, corrected for the skewness of the examples by Hall's
monotone transformation ("On the removal of skewness by transformation", 1992, section 2): without
it few examples that lose much, among many that gain a little, look like a gain.

Exact for normal values. For the others of `benchmarks/gate_error_rate.py` it holds from 100
examples on: hence `Rules.min_examples`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pausedata.measure.measured import Floats

# How large an effect the test is sharpest for, as a share of the standard deviation between
# examples. It decides only how soon the test ends: benchmarks/gate_error_rate.py.
EFFECT = 0.2
Interval = tuple[float, float]

_DOUBLINGS = 60  # of the distance at which an end of an interval is looked for
_HALVINGS = 60  # until it is known as well as a double can
_CONSTANT = 1e-12  # of the mean square: values that differ by no more are all the same


def signs(values: Floats, confidence: float) -> Any:
    """After each of ``values``: whether their mean is above zero (1), below (-1), or unsure (0).

    int8 [values]. It is ever wrong with a probability of at most 1 - ``confidence``, half of it for
    each side. Values that are all the same say nothing of how they vary: unsure.
    """
    count = np.arange(1.0, len(values) + 1)
    # Sums of what differs from the mean: less is lost to cancellation.
    middle = values.mean() if len(values) else 0.0
    away = values - middle
    mean = np.cumsum(away) / count
    square, cube = np.cumsum(away**2), np.cumsum(away**3)
    squares = square - count * mean**2
    cubes = cube - 3 * mean * square + 2 * count * mean**3
    t = _student(middle + mean, squares, cubes, count)
    return np.where(_log_evidence(t, count) >= _enough(confidence), np.sign(t), 0).astype(np.int8)


def interval(tops: Any, belows: Any, confidence: float) -> Interval | None:
    """Between which ratios of sums, ``tops`` over ``belows`` (each [examples]), the true one is.

    All ratios r for which `signs` of ``tops - r * belows`` is unsure after the last example. Valid
    at any time: of one's examples so far it may be asked as often as one likes. None where so few
    examples, or such, rule nothing out: fewer than 16 never do at 0.95.
    """
    x, w = np.asarray(tops, np.float64), np.asarray(belows, np.float64)
    count = len(x)
    if count < 2 or not w.sum():
        return None
    middle, mean_w = x.sum() / w.sum(), w.mean()
    # The third power of a difference, and the second, are sums of these: no look reads examples.
    a, b = x - middle * w, w - mean_w  # the first sums to zero
    if (a**2).sum() <= _CONSTANT**2 * (x**2).sum():  # but for what rounding leaves
        a = np.zeros(count)
    sums = [
        (a**i * b**j).sum() for i, j in ((2, 0), (1, 1), (0, 2), (3, 0), (2, 1), (1, 2), (0, 3))
    ]
    enough = _enough(confidence)

    def sign(away: float) -> float:
        """Of ``tops`` less ``middle + away`` times ``belows``."""
        aa, ab, bb, aaa, aab, abb, bbb = sums
        squares = aa - 2 * away * ab + away**2 * bb
        cubes = aaa - 3 * away * aab + 3 * away**2 * abb - away**3 * bbb
        n = np.float64(count)
        t = _student(np.float64(-away * mean_w), np.float64(squares), np.float64(cubes), n)
        return float(np.sign(t)) if _log_evidence(t, n) >= enough else 0.0

    spread = math.sqrt(sums[0] / count) / abs(mean_w) / math.sqrt(count)
    step = spread or max(abs(middle), 1.0) * 1e-9
    ends = [_end(sign, side * step) for side in (-1, 1)]
    if ends[0] is None or ends[1] is None:
        return None
    return float(middle + ends[0]), float(middle + ends[1])


def _end(sign: Any, step: float) -> float | None:
    """How far from the middle, in the direction of ``step``, the last ratio not ruled out is."""
    beyond = -math.copysign(1.0, step)
    for doubling in range(_DOUBLINGS):
        far = step * 2.0**doubling
        if sign(far) == beyond:
            break
    else:
        return None
    near = 0.0 if doubling == 0 else far / 2
    for _ in range(_HALVINGS):
        between = (near + far) / 2
        if sign(between) == beyond:
            far = between
        else:
            near = between
    return near


def _enough(confidence: float) -> float:
    """The logarithm of the evidence that rules a mean out."""
    return math.log(2 / (1 - confidence))


def _student(mean: Any, squares: Any, cubes: Any, count: Any) -> Any:
    """Student's t of values with this mean and these sums of central powers, without its skew."""
    varies = squares > _CONSTANT * count * mean**2
    deviation = np.sqrt(np.where(varies, squares, 1.0) / np.maximum(count - 1, 1))
    root = np.sqrt(count)
    t, skew = mean / deviation * root, cubes / count / deviation**3
    hall = t + skew * t**2 / (3 * root) + skew**2 * t**3 / (27 * count) + skew / (6 * root)
    return np.where(varies & (count > 1), hall, 0.0)


def _log_evidence(t: Any, count: Any) -> Any:
    """The logarithm of the Bayes factor against a mean of zero, of Student's t."""
    u = t**2 / np.maximum(count - 1, 1)
    grown = 1 + count * EFFECT**2
    return count / 2 * (np.log1p(u) - np.log1p(u / grown)) - np.log(grown) / 2
