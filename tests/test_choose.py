"""The choice that strategies share, against its definition in plain Python."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from conftest import in_ci
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_choice import greedy, random_batch, spans

from pausedata.strategies import Batch
from pausedata.strategies.base import Choosing, Eligible, Ranked
from pausedata.strategies.choose import choose, chosen

THOROUGH = settings(max_examples=in_ci(1000), deadline=None)
# Few different keys of each type, with the extremes of those that have them.
KEYS: dict[str, list[Any]] = {
    "float32": [-8.5, -1.0, -0.0, 0.0, 3.25, float("inf"), float("-inf")],
    "float64": [-8.5, -1.0, -1.0 + 2**-50, 0.0, 3.25, float("inf"), float("-inf")],
    "int32": [-(2**31), -3, 0, 5, 2**31 - 1],
    "int64": [-(2**63), -3, 0, 5, 2**63 - 1],
    "uint64": [0, 1, 2, 2**63, 2**64 - 1],
}


def expected(
    batch: Batch, allowed: Any, key: Any, most: list[int] | None, gap: int | None
) -> list[list[int]]:
    return [
        greedy(key[s].tolist(), allowed[s].tolist(), None if most is None else most[k], gap or 1)
        for k, s in enumerate(spans(batch))
    ]


def found(
    batch: Batch, allowed: Any, key: Any, most: list[int] | None, gap: int | None
) -> list[list[int]]:
    limit = None if most is None else np.array(most, np.int64)
    before = allowed.copy(), key.copy()
    taken = chosen(batch, allowed, key, limit, gap)
    assert np.array_equal(allowed, before[0]) and np.array_equal(key, before[1])
    return [np.flatnonzero(taken[s]).tolist() for s in spans(batch)]


@THOROUGH
@given(data=st.data())
def test_the_best_of_each_example_are_taken_and_the_earlier_of_equals(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(0, 14), max_size=6))
    batch, tokens = random_batch(0, lengths), sum(lengths)
    dtype = data.draw(st.sampled_from(sorted(KEYS)))
    values = st.lists(st.sampled_from(KEYS[dtype]), min_size=tokens, max_size=tokens)
    key = np.array(data.draw(values), dtype)
    flags = st.lists(st.booleans(), min_size=tokens, max_size=tokens)
    allowed = np.array(data.draw(st.one_of(flags, st.just([True] * tokens))), np.bool_)
    numbers = st.lists(st.integers(0, 16), min_size=len(lengths), max_size=len(lengths))
    most = data.draw(st.one_of(st.none(), numbers))
    gap = data.draw(st.one_of(st.none(), st.integers(1, 20)))
    assert found(batch, allowed, key, most, gap) == expected(batch, allowed, key, most, gap)


def lengths_of(seed: int, examples: int, longest: int) -> list[int]:
    draw = random.Random(seed)
    return [int(longest ** draw.random()) - draw.randint(0, 1) for _ in range(examples)]


@pytest.mark.parametrize("most", [1, 5, 50, "a tenth", "any"])
@pytest.mark.parametrize("kind", ["float32", "uint64", "few"])
def test_long_examples_of_every_length(kind: str, most: Any) -> None:
    """1,200 examples of up to 1,500 tokens, and enough of 900 to fill more than one table."""
    lengths = [*lengths_of(1, 900, 1500), *[900] * 300, 0]
    generator = np.random.default_rng(7)
    keys: dict[str, Any] = {
        "float32": (-generator.exponential(1, sum(lengths))).astype(np.float32),
        "uint64": generator.integers(0, 2**64, sum(lengths), np.uint64),
        "few": generator.integers(0, 30, sum(lengths)),
    }
    numbers = {
        "a tenth": [n // 10 for n in lengths],
        "any": [random.Random(n).randint(0, n + 1) for n in lengths],
    }.get(most, [most] * len(lengths))
    batch = random_batch(0, lengths)
    for allowed in (batch.begins_character, np.ones(sum(lengths), np.bool_)):
        arguments = (batch, allowed, keys[kind], numbers, None)
        assert found(*arguments) == expected(*arguments)


STAIRS: dict[str, Any] = {
    "random": lambda position, noise: noise,
    "few": lambda position, noise: np.floor(noise * 3),
    "equal": lambda position, noise: noise * 0,
    "up": lambda position, noise: position,
    "down": lambda position, noise: -position,
    "up and down": lambda position, noise: np.abs(position % 80 - 40),
    "up, with noise": lambda position, noise: position // 3 + noise * 2,
    "infinite": lambda position, noise: np.where(noise < 0.9, np.inf, noise),
}


@pytest.mark.parametrize("gap", [2, 3, 7, 40, 2**31 - 1])
@pytest.mark.parametrize("kind", sorted(STAIRS))
@pytest.mark.parametrize("most", [None, 4, 30])
def test_a_gap_is_kept_greedily_whatever_the_order_of_the_keys(
    kind: str, gap: int, most: int | None
) -> None:
    """Also where thousands of choices hang on each other, one after another."""
    lengths = [*lengths_of(gap % 97, 60, 300), 0, 250, 0]
    batch = random_batch(gap % 97, lengths)
    noise = np.random.default_rng(5).random(sum(lengths))
    key = np.asarray(STAIRS[kind](batch.position, noise), np.float64)
    numbers = None if most is None else [most] * len(lengths)
    arguments = (batch, batch.begins_character, key, numbers, gap)
    assert found(*arguments) == expected(*arguments)


def test_a_gap_of_one_or_none_is_no_gap() -> None:
    batch = random_batch(3, [9, 0, 4])
    key = np.asarray(batch.logprob)
    for gap in (None, 1):
        taken = chosen(batch, batch.begins_character, key, None, gap)
        assert np.array_equal(taken, batch.begins_character)


#            key of token 0  1  2  3  4  5  6  7
FIRST_EXAMPLE = np.array([5, 1, 1, 9, 2, 3, 0, 4], np.float32)
ONE = Batch(["a"], np.array([0, 8]), np.ones(8, bool))


def positions(parameters: Choosing, **options: Any) -> list[int]:
    batch = options.pop("batch", ONE)
    return choose(batch, parameters, key=FIRST_EXAMPLE, **options).positions.tolist()


def test_the_common_options_worked_out_by_hand() -> None:
    assert positions(Choosing()) == [0, 1, 2, 3, 4, 5, 6, 7]
    # 6 (0), then 1 before 2 (both 1).
    assert positions(Choosing(), most=np.array([2])) == [1, 6]
    assert positions(Choosing(max_positions=2)) == [1, 6]
    assert positions(Choosing(max_positions=4), most=np.array([2])) == [1, 6]
    assert positions(Choosing(max_positions=2), most=np.array([4])) == [1, 6]
    # 6, 1; 2 is too near to 1, 4 (2) is two from 6; 5 and 7 too near; 3 next to 4; 0 next to 1.
    assert positions(Choosing(min_gap=2)) == [1, 4, 6]
    # 6, 1; 2 too near, 4 too near to 6; 5, 7, 3 (two from 1), 0 too.
    assert positions(Choosing(min_gap=3)) == [1, 6]
    assert positions(Choosing(min_gap=2, max_positions=1)) == [6]
    assert positions(Choosing(min_gap=2**31 - 1)) == [6]
    among = np.array([1, 0, 1, 1, 1, 1, 0, 1], bool)
    assert positions(Choosing(), among=among, most=np.array([2])) == [2, 4]


def test_what_is_not_eligible_keeps_nothing_off() -> None:
    """The best token (6) begins inside a character, the next but one (2) may not be chosen."""
    begins = np.ones(8, bool)
    begins[6] = False
    inside = Batch(["a"], ONE.offsets, begins)
    assert positions(Choosing(min_gap=2), batch=inside) == [1, 4, 7]
    without_first = Choosing(eligible=Eligible(without=["first"]), min_gap=3)
    assert positions(without_first, among=np.arange(8) != 1, batch=inside) == [2, 5]


def test_nothing_is_asked_of_there_is_nothing_or_more_than_there_is() -> None:
    everywhere = list(range(8))
    assert positions(Choosing(), most=np.array([0])) == []
    assert positions(Choosing(max_positions=0)) == []
    assert positions(Choosing(max_positions=2**31 - 1)) == everywhere
    assert positions(Choosing(tokens=0)) == []
    assert positions(Ranked(positions=2**31 - 1), most=Ranked(positions=2**31 - 1).most(ONE)) == (
        everywhere
    )
    assert positions(Choosing(), among=np.zeros(8, bool)) == []
    for lengths in ([], [0], [0, 0]):
        batch = random_batch(0, lengths)
        assert batch.logprob is not None
        for gap in (None, 3):
            for most in (None, np.ones(len(lengths), np.int64)):
                parameters = Choosing(min_gap=gap)
                placed = choose(batch, parameters, key=batch.logprob, most=most)
                assert placed.offsets(len(lengths)).tolist() == [0] * (len(lengths) + 1)


def test_counts_and_the_order_of_places() -> None:
    batch = random_batch(2, [7, 0, 1, 12])
    assert batch.logprob is not None
    placed = choose(batch, Choosing(tokens=3), key=batch.logprob, most=np.full(4, 2))
    assert placed.example.tolist() == [0, 0, 2, 3, 3]
    assert placed.counts.tolist() == [3] * 5
    assert np.diff(placed.positions)[[0, 3]].min() > 0
    assert placed.offsets(4).tolist() == [0, 2, 2, 3, 5]


@pytest.mark.parametrize("gap", [None, 4])
def test_an_example_is_treated_alone(gap: int | None) -> None:
    """Cut into other batches, in another order: what is taken in an example stays."""
    lengths = lengths_of(4, 200, 400)
    batch = random_batch(4, lengths)
    key = np.asarray(batch.logprob)
    most = np.array([n // 7 for n in lengths])
    together = found(batch, batch.begins_character, key, most.tolist(), gap)
    for k, s in enumerate(spans(batch)):
        alone = Batch(["x"], np.array([0, lengths[k]]), batch.begins_character[s])
        one = found(alone, alone.begins_character, key[s], [int(most[k])], gap)
        assert one == [together[k]]
