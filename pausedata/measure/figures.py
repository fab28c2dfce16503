"""From measured examples to figures with intervals."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pausedata.measure import trainings
from pausedata.measure.measured import Floats, Measured, unit_sums
from pausedata.measure.sequential import Interval, interval


@dataclass(frozen=True)
class Figures:
    """Gains are in nats for each real token: with pauses less without.

    ``gain_beyond_leak`` is the gain less what the places alone can tell of the tokens at most, and
    ``leak`` that. ``units`` are what is drawn by chance: examples, or clusters of them. Overheads
    are shares of what it is without pauses: 0.05 is a twentieth more. An interval is None where so
    few units rule nothing out, a figure where there is no token.
    """

    examples: int
    units: int
    tokens: int
    pauses: int
    gain: float | None
    gain_interval: Interval | None
    gain_after_pause: float | None
    gain_after_pause_interval: Interval | None
    gain_elsewhere: float | None
    gain_elsewhere_interval: Interval | None
    leak: float | None
    gain_beyond_leak: float | None
    gain_beyond_leak_interval: Interval | None
    logprob_without: float | None
    logprob_with: float | None
    token_overhead: float | None
    latency_overhead: float | None
    latency_overhead_interval: Interval | None
    seconds_without: float | None
    seconds_with: float | None
    seeds: SeedFigures

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


@dataclass(frozen=True)
class SeedFigures:
    """What differs between models that were trained alike, in nats for each real token.

    ``models`` and ``baselines`` are the gain of each model over the mean of all baselines, of a
    baseline without pauses; without baselines, of each model over itself. ``same_as`` likewise of
    the models of --same-as, a gain by luck alone. ``margin`` is how far the gain can be off by the
    seeds: None where one training of each leaves nothing to tell.
    """

    models: list[float]
    baselines: list[float]
    same_as: list[float]
    margin: float | None

    @property
    def by_chance(self) -> float | None:
        """The greatest difference that --same-as shows to come from the seed; None without."""
        return max(map(abs, self.same_as), default=None)


def figures(
    measured: Measured,
    *,
    leak: Floats | None = None,
    units: Any = None,
    paired: bool = False,
    confidence: float = 0.95,
) -> Figures:
    """What ``measured`` comes to: every figure is a ratio of sums over examples.

    ``leak`` [examples] is what the places of each tell of its tokens at most, in nats (None: 0);
    ``units`` [examples] says which examples are drawn together (None: each by itself). ``paired``:
    each model is its own baseline. Intervals are of units, and hold whenever one looks:
    `sequential.interval`.
    """
    examples = len(measured)
    told = np.zeros(examples)
    if leak is not None and leak.sum() > 0:  # by chance a little less than nothing is estimated
        told = leak
    whole = measured
    if units is not None:
        told, whole = unit_sums(told, units), measured.of_units(units)
    tokens, after = whole.tokens, whole.after
    ratios = {
        "gain": (whole.gains, tokens),
        "gain_after_pause": (whole.gains_after, after),
        "gain_elsewhere": (whole.gains - whole.gains_after, tokens - after),
        "gain_beyond_leak": (whole.gains - told, tokens),
        "latency_overhead": (
            whole.seconds_with - whole.seconds_without,
            whole.seconds_without,
        ),
    }
    found: dict[str, Any] = {}
    for name, (top, below) in ratios.items():
        found[name] = _ratio(top.sum(), below.sum())
        found[f"{name}_interval"] = interval(top, below, confidence)
    return Figures(
        examples=examples,
        units=len(whole),
        tokens=int(tokens.sum()),
        pauses=int(whole.pauses.sum()),
        leak=_ratio(told.sum(), tokens.sum()),
        logprob_without=_ratio(whole.logprob_without.sum(), tokens.sum()),
        logprob_with=_ratio(whole.logprob_with.sum(), tokens.sum()),
        token_overhead=_ratio(whole.pauses.sum(), tokens.sum()),
        seconds_without=_ratio(whole.seconds_without.sum(), examples),
        seconds_with=_ratio(whole.seconds_with.sum(), examples),
        seeds=_seeds(measured, confidence, paired),
        **found,
    )


def _seeds(measured: Measured, confidence: float, paired: bool) -> SeedFigures:
    tokens = max(int(measured.tokens.sum()), 1)
    if paired:
        each = (measured.with_each - measured.without_each).sum(axis=0) / tokens
        return SeedFigures(each.tolist(), [], [], trainings.paired_margin(each, confidence))
    plain = measured.logprob_without.sum()
    gains = [
        (each.sum(axis=0) - plain) / tokens
        for each in (measured.with_each, measured.without_each, measured.same_each)
    ]
    margin = trainings.margin(gains[0], gains[1], confidence)
    trained, baselines, same = (each.tolist() for each in gains)
    return SeedFigures(trained, baselines, same, margin)


def _ratio(top: Any, below: Any) -> float | None:
    return float(top / below) if below else None
