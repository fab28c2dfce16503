"""From measured examples to figures with confidence intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pausedata.measure.measured import Floats, Measured

RESAMPLES = 2000
_CELLS = 4_000_000  # of the matrix of weights that is held at once

Interval = tuple[float, float]


@dataclass(frozen=True)
class Figures:
    """Gains are in nats for each real token: with pauses less without.

    Overheads are shares of what it is without pauses: 0.05 is a twentieth more. An interval is
    None where fewer than two examples leave nothing to tell, a figure where there is no token.
    """

    examples: int
    tokens: int
    pauses: int
    gain: float | None
    gain_interval: Interval | None
    gain_after_pause: float | None
    gain_after_pause_interval: Interval | None
    gain_elsewhere: float | None
    gain_elsewhere_interval: Interval | None
    logprob_without: float | None
    logprob_with: float | None
    token_overhead: float | None
    latency_overhead: float | None
    latency_overhead_interval: Interval | None
    seconds_without: float | None
    seconds_with: float | None

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def figures(
    measured: Measured, *, confidence: float = 0.95, seed: int = 0, resamples: int = RESAMPLES
) -> Figures:
    """What ``measured`` comes to; intervals by the paired bootstrap over examples.

    Every figure is a ratio of sums over examples. An example is drawn with all that was measured
    of it, with pauses and without; of the ratios of ``resamples`` draws the interval takes the
    middle ``confidence`` (Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13).
    """
    tokens, after = measured.tokens, measured.after
    ratios = {
        "gain": (measured.gains, tokens),
        "gain_after_pause": (measured.gains_after, after),
        "gain_elsewhere": (measured.gains - measured.gains_after, tokens - after),
        "latency_overhead": (
            measured.seconds_with - measured.seconds_without,
            measured.seconds_without,
        ),
    }
    totals = {name: _ratio(top.sum(), below.sum()) for name, (top, below) in ratios.items()}
    intervals = ratio_intervals(list(ratios.values()), confidence, seed, resamples)
    of = dict(zip(ratios, intervals, strict=True))
    count = len(measured)
    return Figures(
        examples=count,
        tokens=int(tokens.sum()),
        pauses=int(measured.pauses.sum()),
        gain=totals["gain"],
        gain_interval=of["gain"],
        gain_after_pause=totals["gain_after_pause"],
        gain_after_pause_interval=of["gain_after_pause"],
        gain_elsewhere=totals["gain_elsewhere"],
        gain_elsewhere_interval=of["gain_elsewhere"],
        logprob_without=_ratio(measured.logprob_without.sum(), tokens.sum()),
        logprob_with=_ratio(measured.logprob_with.sum(), tokens.sum()),
        token_overhead=_ratio(measured.pauses.sum(), tokens.sum()),
        latency_overhead=totals["latency_overhead"],
        latency_overhead_interval=of["latency_overhead"],
        seconds_without=_ratio(measured.seconds_without.sum(), count),
        seconds_with=_ratio(measured.seconds_with.sum(), count),
    )


def _ratio(top: Any, below: Any) -> float | None:
    return float(top / below) if below else None


def ratio_intervals(
    ratios: list[tuple[Any, Any]], confidence: float, seed: int, resamples: int
) -> list[Interval | None]:
    """The bootstrap's percentile interval of each ratio of sums: (top, below), each [examples]."""
    examples = len(ratios[0][0])
    if examples < 2:
        return [None] * len(ratios)
    columns = np.stack([part.astype(np.float64) for ratio in ratios for part in ratio], axis=1)
    sums = np.concatenate([w @ columns for w in _weights(examples, seed, resamples)])
    found: list[Interval | None] = []
    for k in range(len(ratios)):
        top, below = sums[:, 2 * k], sums[:, 2 * k + 1]
        drawn = top[below != 0] / below[below != 0]
        # A figure of few examples, all of which a draw may miss: of none there is no interval.
        if not len(drawn):
            found.append(None)
            continue
        low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
        found.append((float(low), float(high)))
    return found


def _weights(examples: int, seed: int, resamples: int) -> Iterator[Floats]:
    """How often each example is drawn, in every resample: [some resamples, examples]."""
    generator = np.random.default_rng(seed)
    at_once = max(1, _CELLS // examples)
    even = np.full(examples, 1 / examples)
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        yield generator.multinomial(examples, even, size=rows).astype(np.float64)
