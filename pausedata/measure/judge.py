"""The gate: from what was measured to go, no-go or not-enough-data, with reasons."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pausedata.measure.figures import Figures
from pausedata.measure.measured import Measured
from pausedata.measure.sequential import RunningTest
from pausedata.pipeline.rules import Rules

Verdict = Literal["go", "no-go", "not-enough-data"]


@dataclass(frozen=True)
class Judged:
    """A verdict, with what speaks for it: a sentence for each rule."""

    verdict: Verdict
    reasons: list[str]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


@dataclass
class Watch:
    """Follows a measurement, of all examples or of a group, and says when help is ruled out.

    Wrongly with at most the error that ``rules.confidence`` leaves, however often one looks.
    """

    rules: Rules
    ruled_out: int | None = None  # after so many examples
    _test: RunningTest = field(default_factory=RunningTest)

    def add(self, measured: Measured) -> None:
        """Take in further examples."""
        pairs: Iterable[tuple[float, int]] = zip(
            measured.gains.tolist(), measured.tokens.tolist(), strict=True
        )
        for gain, tokens in pairs:
            # Pauses bring `min_gain` for each token just where the mean of this is zero.
            self._test.add(gain - self.rules.min_gain * tokens)
            if (
                self.ruled_out is None
                and self._test.count >= self.rules.min_examples
                and self._test.is_below_zero(1 - self.rules.confidence)
            ):
                self.ruled_out = self._test.count


def judge(figures: Figures, rules: Rules, ruled_out: int | None = None) -> Judged:
    """The verdict on ``figures``, whose intervals are of ``rules.confidence``.

    ``ruled_out``: after how many examples the sequential test found that pauses do not help: it
    alone says so, since an interval would be wrong more often the more often it is looked at. "go"
    is said once, at the end, by the interval. One "no-go" decides, whatever else is not known;
    "go" needs every rule.
    """
    found = [
        _gain(figures, rules, ruled_out),
        _token_overhead(figures, rules),
        _latency(figures, rules),
    ]
    said = [each for each in found if each is not None]
    verdicts = {verdict for verdict, _ in said}
    verdict: Verdict = "go"
    if "no-go" in verdicts:
        verdict = "no-go"
    elif "not-enough-data" in verdicts:
        verdict = "not-enough-data"
    return Judged(verdict, [reason for _, reason in said])


def _gain(figures: Figures, rules: Rules, ruled_out: int | None) -> tuple[Verdict, str]:
    least, count = rules.min_gain, figures.examples
    if figures.gain is None or figures.gain_interval is None or count < rules.min_examples:
        return (
            "not-enough-data",
            f"{count} examples were measured, and {rules.min_examples} are needed to judge the "
            "gain (min_examples)",
        )
    low, high = figures.gain_interval
    told = f"the gain is {figures.gain:+.4f} nats a token ({low:+.4f} to {high:+.4f})"
    if ruled_out is not None:
        return "no-go", f"{told}: more than {least} is ruled out, after {ruled_out} examples"
    if low > least:
        return "go", f"{told}: more than {least}"
    return "not-enough-data", f"{told}: more examples have to tell whether it is more than {least}"


def _token_overhead(figures: Figures, rules: Rules) -> tuple[Verdict, str] | None:
    most, found = rules.max_token_overhead, figures.token_overhead
    if most is None or found is None:
        return None
    told = f"{found:.4f} pauses for each real token"
    if found > most:
        return "no-go", f"{told}: more than {most}"
    return "go", f"{told}: within {most}"


def _latency(figures: Figures, rules: Rules) -> tuple[Verdict, str] | None:
    most, interval = rules.max_latency_overhead, figures.latency_overhead_interval
    if most is None:
        return None
    if figures.latency_overhead is None or interval is None:
        return "not-enough-data", "of too few examples the time is known"
    low, high = interval
    told = f"{figures.latency_overhead:+.1%} time ({low:+.1%} to {high:+.1%})"
    if low > most:
        return "no-go", f"{told}: more than {most:.1%}"
    if high <= most:
        return "go", f"{told}: within {most:.1%}"
    return (
        "not-enough-data",
        f"{told}: more examples have to tell whether it is within {most:.1%}",
    )
