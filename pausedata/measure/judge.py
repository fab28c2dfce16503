"""The gate: from what was measured to go, no-go or not-enough-data, with reasons."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from pausedata.measure.figures import Figures
from pausedata.measure.measured import Measured
from pausedata.measure.sequential import Interval, signs
from pausedata.pipeline.rules import Rules

Verdict = Literal["go", "no-go", "not-enough-data"]
Said = tuple[Verdict, str]


@dataclass(frozen=True)
class Judged:
    """A verdict, with what speaks for it, a sentence for each rule; and what it does not cover."""

    verdict: Verdict
    reasons: list[str]
    not_covered: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def ruled_out(measured: Measured, rules: Rules) -> int | None:
    """After how many units (examples, or clusters) help was ruled out; None: it is not.

    Wrongly with half the error that ``rules.confidence`` leaves at most, however often one looks.
    """
    # Pauses bring `min_gain` for each token just where the mean of this is zero.
    below = signs(measured.gains - rules.min_gain * measured.tokens, rules.confidence) < 0
    below[: rules.min_examples - 1] = False
    return int(np.argmax(below)) + 1 if below.any() else None


def judge(
    figures: Figures,
    rules: Rules,
    ruled_out: int | None = None,
    answers: dict[str, Any] | None = None,
) -> Judged:
    """The verdict on ``figures`` and ``answers`` (`generate.summary`), by ``rules.confidence``.

    ``ruled_out``: after how many units help was. One "no-go" decides, whatever else is not known;
    "go" needs every rule. Where ``min_accuracy_gain`` is given, answers decide whether pauses help
    unless the gain has ruled it out.
    """
    gain = _gain(figures, rules, ruled_out)
    right = _answers(answers, rules)
    helps = [gain]
    if right is not None:
        # What the gain leaves open, the answers may settle.
        helps = [gain if gain[0] == "no-go" else ("go", gain[1]), right]
    costs = [_token_overhead(figures, rules), _latency(figures, rules)]
    said = [each for each in (*helps, *costs) if each is not None]
    verdicts = {verdict for verdict, _ in said}
    verdict: Verdict = "go"
    if "no-go" in verdicts:
        verdict = "no-go"
    elif "not-enough-data" in verdicts:
        verdict = "not-enough-data"
    return Judged(verdict, [reason for _, reason in said], _not_covered(figures, right is not None))


def _not_covered(figures: Figures, by_answers: bool) -> list[str]:
    if figures.seeds.margin is not None or figures.seeds.same_as:
        if by_answers:
            return ["answers are of the first two models alone: another seed may turn them round"]
        return []
    return [
        "one training of each was measured: what is said is of these models, and another seed may "
        "turn it round (repeat --model and --baseline, or give --same-as)"
    ]


def _gain(figures: Figures, rules: Rules, ruled_out: int | None) -> Said:
    by_chance = figures.seeds.by_chance
    what = "examples" if figures.units == figures.examples else "clusters of examples"
    if figures.gain is None or figures.units < rules.min_examples:
        return (
            "not-enough-data",
            f"{figures.units} {what} were measured, and {rules.min_examples} are needed to judge "
            "the gain (min_examples)",
        )
    if figures.gain_interval is None or figures.gain_beyond_leak_interval is None:
        return (
            "not-enough-data",
            f"the gain is {figures.gain:+.4f} nats a token, and nothing more is sure",
        )
    low, high = with_seeds(figures.gain, figures.gain_interval, figures.seeds.margin)
    told = (
        f"the gain is {figures.gain:+.4f} nats a token ({low:+.4f} to {high:+.4f}{_seeds(figures)})"
    )
    # What was ruled out once stays so: the interval may have grown a little since.
    if ruled_out is not None and (figures.seeds.margin is None or high <= rules.min_gain):
        return (
            "no-go",
            f"{told}: more than {rules.min_gain} is ruled out, after {ruled_out} {what}",
        )
    least, wanted = rules.min_gain, f"{rules.min_gain}"
    if by_chance is not None and by_chance > least:
        least = by_chance
        wanted = f"the {least:.4f} by which models differ that were trained alike (--same-as)"
    if low <= least:
        of_these = figures.gain_interval[0] > least or ruled_out is not None
        more = "trainings, by other seeds," if of_these else "examples"
        todo = f"more {more} have to tell whether it is more than {wanted}"
        return "not-enough-data", f"{told}: {todo}"
    if not figures.leak:
        return "go", f"{told}: more than {wanted}"
    beyond = figures.gain_beyond_leak or 0.0
    low, _ = with_seeds(beyond, figures.gain_beyond_leak_interval, figures.seeds.margin)
    leak = f"of it up to {figures.leak:.4f} may be what the places tell of the tokens behind them"
    if low > least:
        return "go", f"{told}: {leak}, and the rest, {low:+.4f} at least, is more than {wanted}"
    return (
        "not-enough-data",
        f"{told}: but {leak}, which is no help while generating: measure answers (--generate, "
        "min_accuracy_gain), or places that are known before the token",
    )


def _seeds(figures: Figures) -> str:
    seeds = figures.seeds
    if seeds.margin is None:
        return ""
    of = f"{len(seeds.models)} and {len(seeds.baselines)}" if seeds.baselines else len(seeds.models)
    return f", other seeds of {of} trainings considered"


def with_seeds(middle: float, interval: Interval, margin: float | None) -> Interval:
    """An interval over examples, made wider by how far the gain can be off by the seeds.

    Both errors are independent: their squares add up.
    """
    if margin is None:
        return interval
    low, high = interval
    return middle - math.hypot(middle - low, margin), middle + math.hypot(high - middle, margin)


def _answers(answers: dict[str, Any] | None, rules: Rules) -> Said | None:
    least = rules.min_accuracy_gain
    if least is None:
        return None
    if not answers or not answers["examples"]:
        return (
            "not-enough-data",
            "no answers were generated (--generate), which min_accuracy_gain is of",
        )
    if answers["units"] < rules.min_examples:
        return (
            "not-enough-data",
            f"of {answers['units']} examples, or clusters of them, answers were written, and "
            f"{rules.min_examples} are needed to judge them (min_examples)",
        )
    low, high = answers["accuracy_gain_interval"]
    told = (
        f"pauses make {answers['accuracy_gain']:+.1%} of {answers['examples']} answers right "
        f"({low:+.1%} to {high:+.1%})"
    )
    if low > least:
        return "go", f"{told}: more than {least:.1%}"
    if high <= least:
        return "no-go", f"{told}: not more than {least:.1%}"
    return (
        "not-enough-data",
        f"{told}: more answers have to tell whether it is more than {least:.1%}",
    )


def _token_overhead(figures: Figures, rules: Rules) -> Said | None:
    most, found = rules.max_token_overhead, figures.token_overhead
    if most is None or found is None:
        return None
    told = f"{found:.4f} pauses for each real token"
    if found > most:
        return "no-go", f"{told}: more than {most}"
    return "go", f"{told}: within {most}"


def _latency(figures: Figures, rules: Rules) -> Said | None:
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
