"""From measured examples to figures, a sequential test and a verdict."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pausedata.core.errors import UsageError
from pausedata.core.invalid import checked
from pausedata.measure.figures import Figures, figures
from pausedata.measure.judge import Watch, judge
from pausedata.measure.measured import Measured
from pausedata.measure.sequential import EFFECT, RunningTest
from pausedata.pipeline.rules import Rules


def examples(**columns: list[object]) -> Measured:
    """Examples with what ``columns`` say, and zeros elsewhere."""
    count = len(next(iter(columns.values())))
    whole, real = np.zeros(count, np.int64), np.zeros(count)
    blank = Measured(
        np.array([f"e{k}" for k in range(count)], dtype=object),
        np.full(count, None, dtype=object),
        *(whole, whole, whole, real, real, real, real, real, real),
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
    # Two examples can be drawn as one of them twice: the interval is between their own figures.
    assert found.gain_interval == pytest.approx((1 / 6, 2 / 4))


def test_without_pauses_there_is_no_token_after_one_and_nothing_is_said_of_it() -> None:
    found = figures(examples(tokens=[4, 6], logprob_with=[-1.0, -1.0], logprob_without=[-1.0, -1]))
    assert found.gain == 0 and found.gain_interval == (0, 0)
    assert found.gain_after_pause is None and found.gain_after_pause_interval is None
    assert found.latency_overhead is None


def test_one_example_has_figures_and_no_interval() -> None:
    found = figures(examples(tokens=[4], logprob_with=[2.0]))
    assert found.gain == 0.5 and found.gain_interval is None


def test_the_interval_is_that_of_a_ratio_of_sums() -> None:
    """The textbook standard error of a ratio, from the linearised differences."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(20, 200, 800)
    gains = 0.05 * tokens + rng.normal(0, 3, 800)
    found = figures(gaining(gains, tokens), confidence=0.9, resamples=4000)
    ratio = gains.sum() / tokens.sum()
    error = np.std(gains - ratio * tokens, ddof=1) * math.sqrt(800) / tokens.sum()
    half = NormalDist().inv_cdf(0.95) * error
    assert found.gain_interval == pytest.approx((ratio - half, ratio + half), abs=0.1 * half)


def test_the_same_seed_gives_the_same_interval_however_much_is_held_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(1)
    some = gaining(rng.normal(size=50), rng.integers(5, 9, 50))
    whole = figures(some, seed=3, resamples=200)
    monkeypatch.setattr("pausedata.measure.figures._CELLS", 500)
    assert figures(some, seed=3, resamples=200) == whole
    assert figures(some, seed=4, resamples=200) != whole


def evidence_by_integration(values: list[float]) -> float:
    """The Bayes factor of `RunningTest` from its definition: summed over a fine grid.

    Under both, log sigma is flat; against a mean of zero, the effect is N(0, EFFECT²).
    """
    x = np.array(values)
    log_sigma = np.linspace(-12, 12, 4001)[:, None]
    effect = np.linspace(-8 * EFFECT, 8 * EFFECT, 1601)[None, :]

    def likelihood(effects: np.ndarray) -> np.ndarray:
        sigma = np.exp(log_sigma)
        squares = sum((value / sigma - effects) ** 2 for value in x)
        return np.exp(-squares / 2) / sigma ** len(x)

    prior = np.exp(-((effect / EFFECT) ** 2) / 2)
    with_effect = (likelihood(effect) * prior).sum() / prior.sum()
    return math.log(with_effect / likelihood(np.zeros((1, 1))).sum())


@pytest.mark.parametrize("values", [[1.0, -0.5], [-2.0, -1.5, -2.5, -0.5], [3.0, 1.0, 2.0]])
def test_the_running_evidence_is_the_bayes_factor_that_it_says(values: list[float]) -> None:
    test = RunningTest()
    for value in values:
        test.add(value)
    assert test.log_evidence == pytest.approx(evidence_by_integration(values), abs=1e-6)


@given(
    st.lists(st.floats(-100, 100), min_size=2, max_size=30),
    st.floats(0.01, 100),
)
def test_the_running_test_does_not_depend_on_the_unit(values: list[float], unit: float) -> None:
    one, other = RunningTest(), RunningTest()
    for value in values:
        one.add(value)
        other.add(value * unit)
    if np.std(values) > 1e-3:
        assert other.log_evidence == pytest.approx(one.log_evidence, rel=1e-6, abs=1e-9)


def test_looking_after_every_example_keeps_the_stated_error() -> None:
    """400 measurements whose true gain is just `min_gain`: a no-go is wrong each time."""
    rng, rules = np.random.default_rng(0), Rules(min_gain=0.02, confidence=0.9)
    tokens, wrong = np.full(300, 50), 0
    for _ in range(400):
        watch = Watch(rules)
        watch.add(gaining(0.02 * tokens + rng.normal(0, 2, 300), tokens))
        wrong += watch.ruled_out is not None
    assert 0 < wrong <= 40


def test_help_is_ruled_out_early_where_there_is_none_and_never_where_there_is() -> None:
    rng, rules = np.random.default_rng(0), Rules(min_gain=0.02)
    tokens = np.full(2000, 50)
    noise = rng.normal(0, 2, 2000)
    harmful, helpful = Watch(rules), Watch(rules)
    harmful.add(gaining(-0.02 * tokens + noise, tokens))
    helpful.add(gaining(0.06 * tokens + noise, tokens))
    assert harmful.ruled_out is not None and 20 <= harmful.ruled_out < 200
    assert helpful.ruled_out is None


def test_parts_of_any_size_are_watched_alike() -> None:
    rng = np.random.default_rng(2)
    some = gaining(rng.normal(-1, 1, 60), np.full(60, 9))
    whole, parts = Watch(Rules()), Watch(Rules())
    whole.add(some)
    for start in range(0, 60, 7):
        parts.add(some.take(slice(start, start + 7)))
    assert whole.ruled_out == parts.ruled_out is not None


def of(**keys: object) -> Figures:
    """Figures of 100 examples that gain a little for little."""
    own: dict[str, object] = {
        "examples": 100, "tokens": 5000, "pauses": 200, "gain": 0.03,
        "gain_interval": (0.02, 0.04), "gain_after_pause": None,
        "gain_after_pause_interval": None, "gain_elsewhere": None,
        "gain_elsewhere_interval": None, "logprob_without": -1.0, "logprob_with": -0.97,
        "token_overhead": 0.04, "latency_overhead": 0.05,
        "latency_overhead_interval": (0.04, 0.06), "seconds_without": 0.1, "seconds_with": 0.105,
    }  # fmt: skip
    return Figures(**(own | keys))  # type: ignore[arg-type]


RULES = Rules(min_gain=0.01, max_token_overhead=0.05, max_latency_overhead=0.10)


@pytest.mark.parametrize(
    ("figures", "ruled_out", "verdict"),
    [
        (of(), None, "go"),
        (of(), 40, "no-go"),
        (of(gain_interval=(0.005, 0.04)), None, "not-enough-data"),
        (of(gain_interval=(0.01, 0.04)), None, "not-enough-data"),  # more than the least
        (of(token_overhead=0.0501), None, "no-go"),
        (of(latency_overhead_interval=(0.11, 0.2)), None, "no-go"),
        (of(latency_overhead_interval=(0.08, 0.11)), None, "not-enough-data"),
        (of(examples=19), None, "not-enough-data"),
        # What is known to be too dear is not worth more examples.
        (of(examples=19, token_overhead=0.06), None, "no-go"),
    ],
)
def test_a_verdict_needs_every_rule(figures: Figures, ruled_out: int | None, verdict: str) -> None:
    judged = judge(figures, RULES, ruled_out)
    assert judged.verdict == verdict
    assert len(judged.reasons) == 3


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
