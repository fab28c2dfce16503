"""Looking again and again without being fooled: a test that may be read after every example."""

from __future__ import annotations

import math

# How large an effect the test is sharpest for, as a share of the standard deviation between
# examples. For normal values it decides only how soon the test ends; a smaller one also bears more
# skewed ones (benchmarks/gate_error_rate.py: at 0.25 an exponential goes beyond the stated error).
EFFECT = 0.15


class RunningTest:
    """Whether the mean of what is added is below zero, told with a stated error at any time.

    The evidence is the Bayes factor of a normal mean with unknown variance, its effect size drawn
    from N(0, EFFECT²), against a mean of zero: under a mean of zero it is a martingale that begins
    at 1, so that it ever passes 1 / alpha with a probability of at most alpha (Ville's
    inequality), however often and whenever it is looked at. Lai, "On confidence sequences" (1976);
    Wang and Ramdas, "Anytime-valid t-tests and confidence sequences for Gaussian means with
    unknown variance" (2024), section 4. Exact for normal values; for others as good as the t-test,
    hence `Rules.min_examples`.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean = 0.0
        self._squares = 0.0  # summed squares of the differences from the mean

    def add(self, value: float) -> None:
        """Take in one example (Welford's sums, which lose nothing to cancellation)."""
        self.count += 1
        before = value - self._mean
        self._mean += before / self.count
        self._squares += before * (value - self._mean)

    @property
    def log_evidence(self) -> float:
        """The logarithm of the Bayes factor against a mean of zero; 0 before two examples."""
        n = self.count
        if n < 2 or self._mean == 0:
            return 0.0
        if self._squares == 0:
            return math.inf
        grown = 1 + n * EFFECT**2
        # t² / (n - 1), of Student's t with n - 1 degrees of freedom.
        u = n * self._mean**2 / self._squares
        return n / 2 * (math.log1p(u) - math.log1p(u / grown)) - math.log(grown) / 2

    def is_below_zero(self, alpha: float) -> bool:
        """Whether a mean of zero or more is ruled out, wrongly with a probability ≤ ``alpha``."""
        return self._mean < 0 and self.log_evidence >= -math.log(alpha)
