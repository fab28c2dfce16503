"""From measured examples to figures, a sequential test and a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pausedata.core.errors import UsageError
from pausedata.core.invalid import checked
from pausedata.measure.figures import Figures, SeedFigures, figures
from pausedata.measure.judge import judge, ruled_out
from pausedata.measure.measured import Measured
from pausedata.measure.sequential import EFFECT, interval, signs
from pausedata.measure.trainings import margin, paired_margin, student_quantile
from pausedata.pipeline.rules import Rules


def examples(**columns: list[object]) -> Measured:
    """Examples with what ``columns`` say, and zeros elsewhere."""
    count = len(next(iter(columns.values())))
    whole, real = np.zeros(count, np.int64), np.zeros(count)
    blank = Measured(
        np.array([f"e{k}" for k in range(count)], dtype=object),
        np.full(count, None, dtype=object),
        *(whole, whole, whole, real, real, real, real, real, real),
        with_each=real[:, None],
        without_each=real[:, None],
        same_each=np.zeros((count, 0)),
    )
    given = {}
    for name, values in columns.items():
        kind = getattr(blank, name).dtype
        given[name] = np.array(values, dtype=kind)
    return replace(blank, **given)


def gaining(gains: np.ndarray, tokens: np.ndarray) -> Measured:
    """Examples whose tokens gain so much in all."""
    return examples(logprob_with=gains.tolist(), tokens=tokens.tolist())


def test_figures_of_two_examples_worked_out_by_hand() -> None:
    found = figures(
        examples(
            tokens=[4, 6],
            pauses=[1, 2],
            after=[1, 1],
            logprob_without=[-8.0, -12.0],
            logprob_with=[-6.0, -11.0],
            logprob_after_without=[-5.0, -4.0],
            logprob_after_with=[-3.0, -4.5],
            seconds_without=[0.1, 0.3],
            seconds_with=[0.15, 0.35],
        )
    )
    assert found.gain == pytest.approx(3 / 10)  # (2 + 1) nats over 10 tokens
    assert found.gain_after_pause == pytest.approx(1.5 / 2)
    assert found.gain_elsewhere == pytest.approx(1.5 / 8)
    assert found.token_overhead == pytest.approx(3 / 10)
    assert found.latency_overhead == pytest.approx(0.1 / 0.4)
    assert (found.logprob_without, found.logprob_with) == pytest.approx((-2.0, -1.7))
    assert found.gain_interval is None  # two examples rule nothing out


def test_without_pauses_there_is_no_token_after_one_and_nothing_is_said_of_it() -> None:
    found = figures(examples(tokens=[4, 6], logprob_with=[-1.0, -1.0], logprob_without=[-1.0, -1]))
    assert found.gain == 0 and found.leak == 0
    assert found.gain_after_pause is None and found.gain_after_pause_interval is None
    assert found.latency_overhead is None


def test_one_example_has_figures_and_no_interval() -> None:
    found = figures(examples(tokens=[4], logprob_with=[2.0]))
    assert found.gain == 0.5 and found.gain_interval is None


def evidence_by_integration(t: float, count: int) -> float:
    """The logarithm of the Bayes factor from its definition: summed over a fine grid.

    Of values with mean t / √n and variance 1. Under both, log sigma is flat; against a mean of
    zero, the effect is N(0, EFFECT²).
    """
    mean, squares = t / math.sqrt(count), count - 1
    log_sigma = np.linspace(-4, 6, 3001)[:, None]
    effect = np.linspace(-8 * EFFECT, 8 * EFFECT, 801)[None, :]

    def log_likelihood(effects: np.ndarray) -> np.ndarray:
        sigma = np.exp(log_sigma)
        away = squares / sigma**2 + count * (mean / sigma - effects) ** 2
        return -away / 2 - count * log_sigma

    prior = np.exp(-((effect / EFFECT) ** 2) / 2)
    with_effect = (np.exp(log_likelihood(effect)) * prior).sum() / prior.sum()
    return math.log(with_effect / np.exp(log_likelihood(np.zeros((1, 1)))).sum())


def without_skew(values: np.ndarray) -> float:
    """Hall's transformation of Student's t, as his paper has it."""
    n, mean, deviation = len(values), values.mean(), values.std(ddof=1)
    skew = ((values - mean) ** 3).mean() / deviation**3
    s, a, b = mean / deviation, 1 / 3, 1 / 6
    return math.sqrt(n) * (s + a * skew * s**2 + a**2 * skew**2 * s**3 / 3 + b * skew / n)


@pytest.mark.parametrize("seed", range(4))
def test_an_interval_ends_where_the_evidence_is_what_the_confidence_asks_for(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(20, 200, 60)
    gains = 0.05 * tokens + rng.exponential(3, 60)
    found = interval(gains, tokens, 0.9)
    assert found is not None and found[0] < gains.sum() / tokens.sum() < found[1]
    for end, side in zip(found, (1, -1), strict=True):
        values = gains - end * tokens
        t = without_skew(values)
        assert np.sign(t) == side
        assert evidence_by_integration(t, 60) == pytest.approx(math.log(2 / 0.1), abs=1e-3)


@given(
    st.lists(st.floats(-100, 100), min_size=2, max_size=60),
    st.floats(0.01, 100),
    st.integers(0, 2**32 - 1),
)
def test_signs_depend_neither_on_the_unit_nor_on_what_comes_later(
    values: list[float], unit: float, seed: int
) -> None:
    some = np.array(values) + np.random.default_rng(seed).normal(size=len(values))
    found = signs(some, 0.8)
    assert signs(some * unit, 0.8).tolist() == found.tolist()
    assert signs(-some, 0.8).tolist() == (-found).tolist()
    for count in (1, len(some) // 2, len(some) - 1):
        assert signs(some[:count], 0.8).tolist() == found[:count].tolist()


def test_an_interval_says_what_the_signs_say() -> None:
    rng = np.random.default_rng(2)
    some = rng.normal(0.3, 1, 300)
    found = signs(some, 0.95)
    for count in range(2, 301):
        ends = interval(some[:count], np.ones(count), 0.95) or (-1, 1)
        assert found[count - 1] == (ends[0] > 0) - (ends[1] < 0), count
    assert found[-1] == 1 and not found[:15].any()


def test_values_that_are_all_the_same_prove_nothing() -> None:
    """Twenty examples that gain 0.1 each: one in twenty may lose 1.9, and none was met."""
    assert not signs(np.full(20, 0.1), 0.95).any()
    assert interval(np.full(20, 0.1), np.ones(20), 0.95) is None
    assert interval(np.zeros(20), np.arange(1, 21), 0.95) == (0, 0)  # of any length, no gain


def few_that_lose(rng: np.random.Generator, count: int) -> np.ndarray:
    """5 % lose 1.9 nats, the others gain 0.1: nothing on average."""
    return np.where(rng.random(count) < 0.05, -1.9, 0.1) + rng.normal(0, 0.02, count)


def left_lognormal(rng: np.random.Generator, count: int) -> np.ndarray:
    """Many that gain a little, few that lose far more: nothing on average."""
    return math.exp(0.5) - rng.lognormal(size=count)


@pytest.mark.parametrize(("draw", "early"), [(few_that_lose, True), (left_lognormal, False)])
def test_looking_after_every_example_keeps_the_stated_error(
    draw: Callable[[np.random.Generator, int], np.ndarray], early: bool
) -> None:
    """400 measurements of no gain at all: a go or a no-go is wrong each time."""
    rng, wrong, too_early = np.random.default_rng(0), {1: 0, -1: 0}, 0
    for _ in range(400):
        found = signs(draw(rng, 600), 0.9)
        for side in wrong:
            wrong[side] += bool((found[99:] == side).any())
        too_early += bool((found[15:99] == 1).any())
    # Half of 0.1 on each side; `min_examples` is there since fewer are not enough for it.
    assert max(wrong.values()) <= 400 * 0.05
    assert (too_early > 400 * 0.05) is early


def test_help_is_ruled_out_early_where_there_is_none_and_never_where_there_is() -> None:
    rng, rules = np.random.default_rng(0), Rules(min_gain=0.02)
    tokens = np.full(2000, 50)
    noise = rng.normal(0, 2, 2000)
    after = ruled_out(gaining(-0.02 * tokens + noise, tokens), rules)
    assert after is not None and 100 <= after < 200
    assert ruled_out(gaining(0.06 * tokens + noise, tokens), rules) is None


def test_a_cluster_is_one_draw_of_the_sums_of_its_examples() -> None:
    some = gaining(np.array([1.0, 2.0, -4.0, 3.0]), np.array([5, 6, 7, 8]))
    units = np.array(["a", "a", "b", "c"], dtype=object)
    summed = some.of_units(units)
    assert summed.gains.tolist() == [3.0, -4.0, 3.0] and summed.tokens.tolist() == [11, 7, 8]
    found = figures(some, units=units, leak=np.ones(4))
    assert (found.examples, found.units, found.gain) == (4, 3, pytest.approx(2 / 26))
    assert found.leak == pytest.approx(4 / 26) and found.gain_beyond_leak == pytest.approx(-2 / 26)


@pytest.mark.parametrize(
    ("freedom", "share", "expected"),
    [(1, 0.975, 12.706), (2, 0.975, 4.303), (4, 0.95, 2.132), (9, 0.995, 3.250), (60, 0.9, 1.296)],
)
def test_students_quantiles_are_those_of_the_tables(
    freedom: int, share: float, expected: float
) -> None:
    assert student_quantile(share, freedom) == pytest.approx(expected, abs=6e-4)


def test_how_far_seeds_alone_can_move_a_gain_worked_out_by_hand() -> None:
    """A t interval for a difference of two means, of two each, with a variance of 2."""
    trained, plain = np.array([2.0, 4.0]), np.array([0.0, 2.0])
    assert margin(trained, plain, 0.95) == pytest.approx(4.302653 * math.sqrt(2), rel=1e-5)
    assert margin(trained[:1], plain[:1], 0.95) is None
    assert margin(trained, plain[:1], 0.95) == pytest.approx(12.7062 * math.sqrt(3), rel=1e-5)
    # Of each over itself: the gains are 2 and 4, with a standard error of 1.
    assert paired_margin(trained, 0.95) == pytest.approx(12.7062, rel=1e-5)
    assert paired_margin(trained[:1], 0.95) is None


def of(**keys: object) -> Figures:
    """Figures of 100 examples that gain a little for little."""
    own: dict[str, object] = {
        "examples": 100, "units": 100, "tokens": 5000, "pauses": 200, "gain": 0.03,
        "gain_interval": (0.02, 0.04), "gain_after_pause": None,
        "gain_after_pause_interval": None, "gain_elsewhere": None,
        "gain_elsewhere_interval": None, "logprob_without": -1.0, "logprob_with": -0.97,
        "token_overhead": 0.04, "latency_overhead": 0.05,
        "latency_overhead_interval": (0.04, 0.06), "seconds_without": 0.1, "seconds_with": 0.105,
        "leak": 0.0, "gain_beyond_leak": 0.03, "gain_beyond_leak_interval": (0.02, 0.04),
        "seeds": SeedFigures([0.03], [0.0], [], None),
    }  # fmt: skip
    return Figures(**(own | keys))  # type: ignore[arg-type]


RULES = Rules(min_gain=0.01, max_token_overhead=0.05, max_latency_overhead=0.10)


@pytest.mark.parametrize(
    ("figures", "ruled_out", "verdict"),
    [
        (of(), None, "go"),
        (of(gain_interval=(-0.02, 0.005), gain=-0.01), 140, "no-go"),
        (of(gain_interval=(-0.02, 0.011), gain=-0.01), 140, "no-go"),  # ruled out before
        (of(gain_interval=(0.005, 0.04)), None, "not-enough-data"),
        (of(gain_interval=(0.01, 0.04)), None, "not-enough-data"),  # more than the least
        (of(token_overhead=0.0501), None, "no-go"),
        (of(latency_overhead_interval=(0.11, 0.2)), None, "no-go"),
        (of(latency_overhead_interval=(0.08, 0.11)), None, "not-enough-data"),
        (of(units=99), None, "not-enough-data"),
        # What is known to be too dear is not worth more examples.
        (of(units=99, token_overhead=0.06), None, "no-go"),
    ],
)
def test_a_verdict_needs_every_rule(figures: Figures, ruled_out: int | None, verdict: str) -> None:
    judged = judge(figures, RULES, ruled_out)
    assert judged.verdict == verdict
    assert len(judged.reasons) == 3


LEAKING = {"leak": 0.025, "gain_beyond_leak": 0.005, "gain_beyond_leak_interval": (-0.005, 0.015)}


def test_a_gain_that_may_be_what_the_places_tell_is_no_go_and_no_no_go() -> None:
    judged = judge(of(**LEAKING), RULES)
    assert judged.verdict == "not-enough-data"
    assert "0.0250 may be what the places tell of the tokens behind them" in judged.reasons[0]
    assert "--generate" in judged.reasons[0]
    # What is left of the gain may still be enough by itself.
    beyond = {"leak": 0.005, "gain_beyond_leak": 0.025, "gain_beyond_leak_interval": (0.015, 0.035)}
    judged = judge(of(**beyond), RULES)
    assert judged.verdict == "go" and "the rest, +0.0150 at least" in judged.reasons[0]
    # And if even with what leaks there is no gain, help is ruled out.
    harmful = of(**LEAKING, gain=-0.02, gain_interval=(-0.03, -0.01))
    assert judge(harmful, RULES, 120).verdict == "no-go"


def answered(low: float, high: float) -> dict[str, object]:
    """A summary of answers, as far as it is judged."""
    middle = (low + high) / 2
    return {
        "examples": 300,
        "units": 300,
        "accuracy_gain": middle,
        "accuracy_gain_interval": (low, high),
    }


@pytest.mark.parametrize(
    ("figures", "answers", "verdict"),
    [
        (of(**LEAKING), answered(0.02, 0.08), "go"),  # answers settle what the gain leaves open
        (of(**LEAKING), answered(0.0, 0.06), "not-enough-data"),
        (of(), answered(-0.06, 0.005), "no-go"),
        (of(), None, "not-enough-data"),
        (of(gain_interval=(-0.02, 0.005), gain=-0.01), answered(0.02, 0.08), "no-go"),
    ],
)
def test_answers_decide_where_the_rules_ask_for_them(
    figures: Figures, answers: dict[str, object] | None, verdict: str
) -> None:
    rules = Rules(min_gain=0.01, min_accuracy_gain=0.01)
    ended = 140 if figures.gain == -0.01 else None
    assert judge(figures, rules, ended, answers).verdict == verdict


def test_few_answers_are_not_judged_and_none_covers_other_seeds() -> None:
    rules = Rules(min_accuracy_gain=0.01)
    judged = judge(of(), rules, None, answered(0.02, 0.08) | {"units": 99})
    assert (
        judged.verdict == "not-enough-data" and "100 are needed to judge them" in judged.reasons[1]
    )
    several = of(seeds=SeedFigures([0.028, 0.032], [-0.001, 0.001], [], 0.009))
    judged = judge(several, rules, None, answered(0.02, 0.08))
    assert judged.verdict == "go" and "answers are of the first two models" in judged.not_covered[0]


def test_what_other_seeds_could_make_of_it_counts() -> None:
    alike = SeedFigures([0.028, 0.032], [-0.001, 0.001], [], 0.009)
    apart = SeedFigures([0.01, 0.05], [-0.01, 0.01], [], 0.03)
    assert judge(of(seeds=alike), RULES).verdict == "go"
    judged = judge(of(seeds=apart), RULES)
    assert judged.verdict == "not-enough-data"
    assert "other seeds of 2 and 2 trainings considered" in judged.reasons[0]
    assert "more trainings, by other seeds, have to tell" in judged.reasons[0]
    # 0.03 less the root of 0.01² + 0.03².
    assert "(-0.0016 to" in judged.reasons[0]
    harmful = of(seeds=apart, gain=-0.01, gain_interval=(-0.02, 0.005))
    assert judge(harmful, RULES, 140).verdict == "not-enough-data"  # by other seeds it may gain
    assert judge(of(), RULES).not_covered and not judge(of(seeds=apart), RULES).not_covered


def test_rules_that_are_not_given_do_not_count() -> None:
    assert judge(of(token_overhead=9.0), Rules()).verdict == "go"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"min_gian": 1}, "unknown key 'min_gian'. Did you mean 'min_gain'?"),
        ({"confidence": 95}, "confidence: should be less than 1, not 95"),
        ({"confidence": 0.4}, "confidence: should be at least 0.5"),
        ({"max_token_overhead": -1}, "max_token_overhead: should be at least 0"),
        ({"min_gain": float("nan")}, "min_gain: should be a finite number"),
        ({"per_group": "subject"}, "per_group: should be true or false"),
        ("yes", "should be a mapping of keys"),
    ],
)
def test_rules_that_cannot_be(given: object, said: str) -> None:
    with pytest.raises(UsageError) as error:
        checked(Rules, given, "gate")
    assert said in str(error.value)
