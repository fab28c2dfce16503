"""Strategies that go by scores, on small cases and against slow, obvious versions."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from conftest import in_ci
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_choice import SCORES, SLOW, random_batch, slow_budget, slow_kept_off, slow_places

from pausedata import strategies
from pausedata.core.errors import UsageError
from pausedata.core.quantiles import largest_within, upper_halves
from pausedata.strategies import Batch

# Each is of several responses; a thousand long ones more are below.
THOROUGH = settings(max_examples=in_ci(300), deadline=None)


def parse(name: str, parameters: dict[str, Any]) -> Any:
    return strategies.parse(strategies.get(name), parameters, "here")


def place(name: str, batch: Batch, parameters: dict[str, Any]) -> tuple[list[list[int]], int]:
    """Positions in each example, and how many would have been inside a character."""
    parsed = parse(name, parameters)
    placed, kept_off = strategies.place(strategies.get(name), batch, parsed)
    assert set(placed.counts.tolist()) <= {parsed.tokens}
    found: list[list[int]] = [[] for _ in batch.ids]
    for example, position in zip(placed.example.tolist(), placed.positions.tolist(), strict=True):
        found[example].append(position)
    assert found == [sorted(set(positions)) for positions in found]
    return found, kept_off


def as_slow(name: str, batch: Batch, parameters: dict[str, Any]) -> None:
    """Assert that the strategy and its slow version agree."""
    found, kept_off = place(name, batch, parameters)
    assert found == slow_places(batch, parameters, SLOW[name])
    assert kept_off == slow_kept_off(batch, parameters, SLOW[name])


COMMON = {
    "tokens": st.integers(0, 2),
    "min_gap": st.one_of(st.none(), st.integers(1, 6)),
    "max_positions": st.one_of(st.none(), st.integers(0, 6)),
    "eligible": st.sampled_from(
        [
            None,
            {},
            *({"without": kinds} for kinds in (["first"], ["special"], ["special", "first"])),
        ]
    ),
}
RANKED = st.one_of(
    st.fixed_dictionaries({"positions": st.integers(0, 14)}),
    st.fixed_dictionaries({"fraction": st.sampled_from([0, 0.1, 0.25, 0.3, 0.5, 0.75, 1])}),
)
LIMIT = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"logprob": st.sampled_from([-5.0, -2.5, -1, -0.1, 0])}),
    st.fixed_dictionaries({"probability": st.sampled_from([0.0001, 0.1, 0.5, 0.7, 1])}),
    st.fixed_dictionaries({"rank": st.sampled_from([1, 2, 3, 100])}),
)
OWN = {
    "lowest_logprob": RANKED,
    "highest_entropy": RANKED,
    "excess": RANKED.map(lambda own: own | {"reference": "other"}),
    "threshold": st.builds(
        lambda limit, most: limit | most,
        LIMIT,
        st.one_of(st.just({}), st.fixed_dictionaries({"positions": st.integers(0, 6)})),
    ),
}


@pytest.mark.parametrize("name", sorted(SLOW))
@THOROUGH
@given(data=st.data())
def test_a_strategy_is_its_slow_version(name: str, data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(0, 12), max_size=5))
    batch = random_batch(data.draw(st.integers(0, 1000)), lengths)
    own, common = data.draw(OWN[name]), data.draw(st.fixed_dictionaries({}, optional=COMMON))
    as_slow(name, batch, own | common)


LONG: dict[str, list[dict[str, Any]]] = {
    "lowest_logprob": [
        {"positions": 5},
        {"positions": 400},
        {"fraction": 0.1},
        {"fraction": 0.35, "min_gap": 2},
        {"positions": 4, "min_gap": 25, "eligible": {"without": ["special"]}},
        {"positions": 9, "max_positions": 3, "tokens": 2},
    ],
    "highest_entropy": [{"positions": 5}, {"fraction": 0.1, "min_gap": 3}],
    "excess": [
        {"positions": 5, "reference": "other"},
        {"fraction": 0.2, "min_gap": 4, "reference": "other"},
    ],
    "threshold": [
        {},
        {"probability": 0.3, "positions": 6},
        {"logprob": -2.0, "min_gap": 5},
        {"rank": 1, "min_gap": 3, "positions": 10},
    ],
}


@pytest.mark.parametrize("ties", ["ties", "none"])
@pytest.mark.parametrize("name", sorted(SLOW))
def test_a_strategy_is_its_slow_version_on_1000_long_examples(name: str, ties: str) -> None:
    draw = random.Random(ties)
    scores = SCORES if ties == "ties" else [-draw.expovariate(1) for _ in range(100_000)]
    batch = random_batch(8, [draw.randint(0, 140) for _ in range(1000)], scores)
    for parameters in LONG[name]:
        as_slow(name, batch, parameters)


# On a case by hand


#                            0     1     2     3      4     5     6
HAND = Batch(
    ["a", "b"],
    np.array([0, 5, 7]),
    np.ones(7, bool),
    logprob=np.array([-1.5, -0.5, -4.0, -0.75, -1.5, -0.25, 0.0], np.float32),
    rank=np.array([3, 1, 40, 1, 2, 1, 1], np.int32),
    entropy=np.array([2.0, 2.5, 0.5, 2.5, 1.0, 0.75, 0.5], np.float32),
    reference=np.array([-2.0, -0.25, -1.0, -0.5, -0.25, -3.0, -0.5], np.float32),
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "parameters", "places"),
    [
        ("lowest_logprob", {"positions": 2}, [[0, 2], [0, 1]]),
        ("lowest_logprob", {"positions": 2, "min_gap": 3}, [[2], [0]]),
        ("lowest_logprob", {"fraction": 0.3}, [[0, 2], [0]]),  # 1.5 and 0.6 tokens
        ("highest_entropy", {"positions": 1}, [[1], [0]]),
        ("highest_entropy", {"positions": 3}, [[0, 1, 3], [0, 1]]),
        # Loss in excess: -0.5, 0.25, 3.0, 0.25, 1.25; -2.75, -0.5.
        ("excess", {"reference": "r", "positions": 1}, [[2], [1]]),
        ("excess", {"reference": "r", "positions": 3}, [[1, 2, 4], [0, 1]]),
        # ln(0.5) is -0.693.
        ("threshold", {}, [[0, 2, 3, 4], []]),
        ("threshold", {"positions": 2}, [[0, 2], []]),
        ("threshold", {"logprob": -1.5}, [[2], []]),  # what is at the limit is not under it
        ("threshold", {"logprob": 0}, [[0, 1, 2, 3, 4], [0]]),
        ("threshold", {"probability": 0.6, "positions": 9}, [[0, 2, 3, 4], []]),
        ("threshold", {"rank": 1}, [[0, 2, 4], []]),
        ("threshold", {"rank": 2}, [[0, 2], []]),
        ("threshold", {"rank": 1, "positions": 1}, [[2], []]),
        ("threshold", {"positions": 0}, [[], []]),
    ],
)
def test_places_worked_out_by_hand(
    name: str, parameters: dict[str, Any], places: list[list[int]]
) -> None:
    assert place(name, HAND, parameters) == (places, 0)


@pytest.mark.parametrize("limit", [-0.1, -0.3, -0.7, -2.5, math.log(0.5)])
def test_a_token_at_the_limit_is_not_under_it(limit: float) -> None:
    """Scores are float32: -0.1 is stored as a number a little lower, yet is no less than -0.1."""
    at = np.float32(limit)
    scores = np.array([at, np.nextafter(at, np.float32(-9)), np.nextafter(at, np.float32(0))])
    batch = Batch(["a"], np.array([0, 3]), np.ones(3, bool), logprob=scores)
    assert place("threshold", batch, {"logprob": limit}) == ([[1]], 0)
    if limit == math.log(0.5):
        assert place("threshold", batch, {"probability": 0.5}) == ([[1]], 0)


def test_a_limit_beyond_all_numbers_is_under_nothing() -> None:
    batch = Batch(["a"], np.array([0, 1]), np.ones(1, bool), logprob=np.float32([-3e38]))
    assert place("threshold", batch, {"logprob": -1e300}) == ([[]], 0)


def test_the_limit_of_a_probability_is_its_logarithm() -> None:
    for probability in [1e-30, 0.001, 0.1, 0.3, 0.5, 0.9, 1 - 2**-53, 1]:
        limit = parse("threshold", {"probability": probability}).lowest
        assert limit == pytest.approx(math.log(probability), rel=3e-16)
    assert parse("threshold", {}).lowest == parse("threshold", {"probability": 0.5}).lowest


def test_what_is_read_depends_on_the_parameters() -> None:
    def reads(name: str, **parameters: Any) -> set[str]:
        return {*strategies.reads(strategies.get(name), parse(name, parameters))}

    assert reads("threshold") == reads("threshold", logprob=-1) == {"logprob"}
    assert reads("threshold", rank=2) == {"rank"}
    assert reads("threshold", rank=2, eligible={"without": ["eos", "special"]}) == {
        "rank", "text", "special",
    }  # fmt: skip
    assert reads("highest_entropy", positions=1) == {"entropy"}
    assert reads("excess", positions=1, reference="epoch-1") == {"logprob"}
    assert parse("excess", {"positions": 1, "reference": "epoch-1"}).other_run == "epoch-1"
    assert parse("lowest_logprob", {"positions": 1}).other_run is None
    assert reads("budget", per_100=1) == {"logprob"}


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("threshold", {"rank": 1, "logprob": -1.0}, "give one of logprob, probability and rank"),
        ("threshold", {"rank": 0}, r"here\.rank: "),
        ("threshold", {"logprob": 0.5}, r"here\.logprob: "),
        ("threshold", {"logprob": float("-inf")}, r"here\.logprob: "),
        ("threshold", {"probability": 0}, r"here\.probability: "),
        ("threshold", {"probability": 50}, r"here\.probability: "),
        ("threshold", {"positions": -1}, r"here\.positions: "),
        ("threshold", {"fraction": 0.5}, "has no key 'fraction'"),
        ("excess", {"positions": 1}, "needs 'reference'"),
        ("excess", {"positions": 1, "reference": "../x"}, r"here\.reference: "),
        ("excess", {"positions": 1, "reference": "r\n"}, r"here\.reference: "),
        ("excess", {"reference": "r"}, "give either positions or fraction"),
        ("budget", {}, "needs 'per_100'"),
        ("budget", {"per_100": 0}, r"here\.per_100: "),
        ("budget", {"per_100": float("inf")}, r"here\.per_100: "),
        ("budget", {"per_100": 101}, "per_100 is 101, but with tokens: 1 there are no more than"),
        ("budget", {"per_100": 301, "tokens": 3}, "no more than 300 pauses for 100 tokens"),
        ("highest_entropy", {"positions": 1, "fraction": 0.5}, "give either positions or"),
    ],
)
def test_wrong_parameters_are_named(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(name, parameters)


# Examples without tokens, or none at all


@pytest.mark.parametrize("lengths", [[], [0], [0, 3, 0], [1]])
def test_empty_examples_and_batches_and_an_m_of_nothing_or_too_much(lengths: list[int]) -> None:
    batch = random_batch(0, lengths)
    for name in SLOW:
        extra: dict[str, Any] = {"reference": "r"} if name == "excess" else {}
        for positions in (0, 1, 2**31 - 1):
            as_slow(name, batch, {"positions": positions} | extra)
            as_slow(name, batch, {"positions": positions, "min_gap": 2**31 - 1} | extra)
    assert fitted_places([batch], {"per_100": 100}) == slow_budget([batch], {"per_100": 100})


# budget


def portions(batches: list[Batch]) -> Callable[[], Iterable[Batch]]:
    """As a split's batches come: once each time that they are asked for."""
    return lambda: (batch for batch in batches)


def fit(batches: list[Batch], parameters: dict[str, Any]) -> dict[str, Any]:
    strategy = strategies.get("budget")
    assert strategy.fit is not None
    found = strategy.fit(portions(batches), parse("budget", parameters))
    assert json.loads(json.dumps(found)) == found
    return found


def fitted_places(
    batches: list[Batch], parameters: dict[str, Any]
) -> tuple[list[list[list[int]]], dict[str, Any]]:
    """Places in each example of each batch, and what `fit` said."""
    found = fit(batches, parameters)
    return [
        place("budget", dataclasses.replace(batch, fitted=found), parameters)[0]
        for batch in batches
    ], found


@THOROUGH
@given(data=st.data())
def test_budget_is_its_slow_version(data: st.DataObject) -> None:
    shapes = st.lists(st.lists(st.integers(0, 10), max_size=4), max_size=3)
    batches = [
        random_batch(data.draw(st.integers(0, 100)), lengths) for lengths in data.draw(shapes)
    ]
    common = data.draw(st.fixed_dictionaries({}, optional=COMMON))
    most = 100 * max(1, common.get("tokens", 1))
    per_100 = data.draw(st.one_of(st.sampled_from([0.1, 5, 12.5, 50, most]), st.floats(0.01, most)))
    parameters = common | {"per_100": per_100}
    assert fitted_places(batches, parameters) == slow_budget(batches, parameters)


@pytest.mark.parametrize("ties", ["ties", "none"])
def test_budget_is_its_slow_version_on_1000_long_examples(ties: str) -> None:
    draw = random.Random(ties)
    scores = SCORES if ties == "ties" else [-draw.expovariate(1) for _ in range(100_000)]
    batches = [random_batch(k, [draw.randint(0, 30) for _ in range(250)], scores) for k in range(4)]
    for parameters in (
        {"per_100": 7},
        {"per_100": 0.3, "tokens": 2},
        {"per_100": 20, "min_gap": 3},
        {"per_100": 15, "max_positions": 2, "eligible": {"without": ["special"]}},
    ):
        found = fitted_places(batches, parameters)
        assert found == slow_budget(batches, parameters)
        share = found[1]["places"] * parameters.get("tokens", 1) / found[1]["response_tokens"]
        assert share <= parameters["per_100"] / 100


def one(*examples: list[float], **options: Any) -> Batch:
    """A batch of examples with these log-probabilities."""
    return Batch(
        [f"row-{k}" for k in range(len(examples))],
        np.cumsum([0, *map(len, examples)]),
        np.ones(sum(map(len, examples)), bool),
        logprob=np.array([x for example in examples for x in example], np.float32),
        **options,
    )


def test_hard_examples_get_more_and_easy_ones_none() -> None:
    """Twelve tokens, 25 for each 100: three places. The hard example has the three worst tokens."""
    hard, easy = [-5.0, -1.0, -4.0, -3.0], [-0.5, -0.25, -0.125, -0.5]
    middling = [-2.0, -0.75, -0.5, -0.25]
    batches = [one(easy, hard), one(middling)]
    places, found = fitted_places(batches, {"per_100": 25})
    assert places == [[[], [0, 2, 3]], [[]]]
    assert found == {"threshold": -3.0, "response_tokens": 12, "candidates": 12, "places": 3}
    # One more place, and the middling one gets it.
    places, found = fitted_places(batches, {"per_100": 34})
    assert places == [[[], [0, 2, 3]], [[0]]]
    # With two pauses at each place, half as many places.
    assert fitted_places(batches, {"per_100": 34, "tokens": 2})[1]["places"] == 2


def test_of_equal_scores_at_the_boundary_none_is_taken() -> None:
    batch = one([-3.0, -1.0, -1.0, -1.0], [-2.0, -1.0])
    for per_100, taken, threshold in [
        (100, 6, -1.0),
        (99, 2, -2.0),
        (50, 2, -2.0),
        (17, 1, -3.0),
        (16, 0, None),
    ]:
        found = fit([batch], {"per_100": per_100})
        assert (found["places"], found["threshold"]) == (taken, threshold)


def test_a_share_is_reckoned_as_it_was_written() -> None:
    """0.3 for each 100 of 1,000 tokens are 3, though 0.3 in binary is a little less."""
    batch = one([-float(k) for k in range(1000)])
    assert fit([batch], {"per_100": 0.3})["places"] == 3
    assert 0.3 * 1000 / 100 == 3 and Fraction(0.3) * 10 < 3


def test_the_budget_is_of_all_tokens_and_goes_to_those_that_may_be_chosen() -> None:
    inside = dataclasses.replace(one([-9.0] * 5 + [-1.0, -2.0]), begins_character=np.arange(7) > 4)
    places, found = fitted_places([inside], {"per_100": 30})  # 2.1 places
    assert places == [[[5, 6]]]
    assert found == {"threshold": -1.0, "response_tokens": 7, "candidates": 2, "places": 2}


def test_a_dataset_cut_into_other_batches_has_the_same_threshold() -> None:
    draw = random.Random(3)
    examples = [[-draw.expovariate(1) for _ in range(draw.randint(0, 20))] for _ in range(60)]
    parameters = {"per_100": 11, "min_gap": 2}
    together = fit([one(*examples)], parameters)
    assert together["places"] > 10
    for size in (1, 7, 59):
        cut = [one(*examples[k : k + size]) for k in range(0, len(examples), size)]
        assert fit(cut, parameters) == together
        assert fit(cut[::-1], parameters) == together


FLOATS = st.floats(width=32, allow_nan=False)


@THOROUGH
@given(
    st.lists(
        st.lists(st.one_of(FLOATS, st.sampled_from([-1.0, -0.0, 0.0])), max_size=12), max_size=4
    ),
    st.integers(0, 40),
)
def test_the_largest_number_within_a_count_is_exact(portions: list[list[float]], most: int) -> None:
    arrays = [np.array(portion, np.float32) for portion in portions]
    together = sorted(x for portion in portions for x in portion)
    wanted: tuple[float | None, int] = (None, 0)
    for x in together:
        if (n := sum(other <= x for other in together)) <= most:
            wanted = (x, n)
    assert largest_within(arrays, upper_halves(arrays), most) == wanted
