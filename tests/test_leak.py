"""What the places of pauses tell of the tokens: the bound, and which places tell nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pausedata import strategies
from pausedata.measure.examples import ExamplePair
from pausedata.measure.leak import leaks, length_leaks
from pausedata.scorers import Example


def pair(
    tokens: int, places: Mapping[int, int], ids: Any = None, cluster: str | None = None
) -> ExamplePair:
    """An example of so many tokens, with so many pauses before some of them, by position."""
    is_pause = [p for k in range(tokens) for p in [True] * places.get(k, 0) + [False]]
    ids = np.zeros(tokens, np.int64) if ids is None else ids
    plain, longer = Example([1], ids), Example([1], np.zeros(len(is_pause), np.int64))
    nothing = np.zeros(tokens, np.bool_)
    return ExamplePair("e", None, plain, longer, np.array(is_pause), nothing, cluster=cluster)


def test_the_same_places_in_every_row_tell_nothing() -> None:
    assert leaks([pair(length, {0: 5}) for length in (3, 8, 5)]).tolist() == [0, 0, 0]
    assert leaks([pair(4, {}) for _ in range(3)]).tolist() == [0, 0, 0]
    assert leaks([]).tolist() == []
    # One that differs, in where or in how many, tells that it does.
    assert leaks([pair(4, {0: 5}), pair(4, {0: 5}), pair(4, {1: 5})]).min() > 0
    assert leaks([pair(4, {0: 5}), pair(4, {0: 5}), pair(4, {0: 4})]).min() > 0


def test_places_that_nothing_foretells_cost_as_much_as_there_are_ways_to_choose_them() -> None:
    """Three of eight positions, each of the 56 ways as likely: ln 56 nats, and no less."""
    rng = np.random.default_rng(0)
    ways = [dict.fromkeys(map(int, rng.choice(8, 3, replace=False)), 1) for _ in range(3000)]
    found = leaks([pair(8, places) for places in ways]).mean()
    assert math.log(56) - 0.02 < found < math.log(56) + 0.05


def test_a_cluster_is_bet_on_by_the_others() -> None:
    """Twenty copies of each: who had seen its copies would foresee all places."""
    rng = np.random.default_rng(1)
    ways = [dict.fromkeys(map(int, rng.choice(8, 3, replace=False)), 1) for _ in range(200)]
    apart = leaks([pair(8, places) for places in ways for _ in range(20)]).mean()
    some = [pair(8, way, cluster=str(k)) for k, way in enumerate(ways) for _ in range(20)]
    assert apart < math.log(56) < leaks(some).mean()


def test_places_that_are_drawn_evenly_tell_the_length_alone() -> None:
    """Half have 4 tokens, half 30: five of them tell which, ln 2 nats, and nothing more."""
    rng = np.random.default_rng(2)

    def drawn(tokens: int) -> ExamplePair:
        chosen = rng.permutation(tokens)[:5]
        return pair(tokens, dict.fromkeys(map(int, chosen), 1))

    some = [drawn(tokens) for _ in range(200) for tokens in (4, 30)]
    assert length_leaks(some).mean() == pytest.approx(math.log(2), abs=0.01)
    assert leaks(some).mean() > 3  # who does not know that they are drawn evenly
    assert length_leaks([drawn(9) for _ in range(20)]).tolist() == [0] * 20
    # Of 10 or 12 tokens the places seldom tell: at most ln 2, and by enumeration
    # I(places; length) = ln 2 - E[h(p)] with p the chance of 10 given that the last is before 10.
    near = [drawn(tokens) for _ in range(3000) for tokens in (10, 12)]
    ways = {10: math.comb(10, 5), 12: math.comb(12, 5)}
    inside = 0.5 + 0.5 * ways[10] / ways[12]  # the last place is before position 10
    short = 0.5 / inside
    left = inside * -(short * math.log(short) + (1 - short) * math.log(1 - short))
    assert length_leaks(near).mean() == pytest.approx(math.log(2) - left, abs=0.02)


def test_a_pause_after_a_certain_token_is_foreseen_by_it() -> None:
    rng = np.random.default_rng(2)
    some = []
    for _ in range(400):
        ids = rng.integers(0, 4, 20)
        after = (np.flatnonzero(ids[:-1] == 3) + 1).tolist()
        some.append(pair(20, dict.fromkeys(after, 1), ids=ids))
    assert leaks(some).mean() / 20 < 0.01


@given(
    st.lists(
        st.dictionaries(st.integers(0, 5), st.integers(1, 3), max_size=4), min_size=1, max_size=8
    )
)
def test_a_bound_is_there_for_any_places_and_is_never_below_nothing(
    places: list[dict[int, int]],
) -> None:
    found = leaks([pair(6, each) for each in places])
    assert found.shape == (len(places),)
    assert np.isfinite(found).all() and (found >= 0).all()


KNOWN = {
    "append": ({"tokens": 3}, True),
    "none": ({}, True),
    "random": ({"positions": 3}, False),  # they tell the length: see above
    "every_word": ({}, False),
    "lowest_logprob": ({"positions": 3}, False),
    "threshold": ({}, False),
    "regex": ({"pattern": "x"}, False),
    "sentence": ({}, False),
    "highest_entropy": ({"positions": 3}, False),  # the most of a whole response: see below
    "surprisal_spike": ({}, False),
    "sampled": ({"positions": 3}, False),
    "budget": ({"per_100": 3}, False),
    "excess": ({"positions": 3, "reference": "other"}, False),
    "hardest_sentence": ({"positions": 3}, False),
}


@pytest.mark.parametrize(("name", "values", "known"), [(n, *v) for n, v in KNOWN.items()])
def test_each_strategy_says_whether_its_places_are_known_before_the_token(
    name: str, values: dict[str, Any], known: bool
) -> None:
    assert strategies.known_before(*strategies.of(name, values, "")) is known
    assert set(KNOWN) | {"combine"} == set(strategies.own())


def test_parameters_can_make_places_known_or_unknown() -> None:
    def known(name: str, **values: Any) -> bool:
        return strategies.known_before(*strategies.of(name, values, ""), {"a": True}.get)

    assert known("every_word", every_n_tokens=4)
    assert not known("every_word", every_n_tokens=4, eligible={"without": ["punctuation"]})
    assert not known("every_word", every_n_tokens=4, eligible={"inside": "[0-9]"})
    assert known("every_word", every_n_tokens=4, eligible={"without": ["first"]}, min_gap=2)
    assert known("combine", of=["a"])
    assert not known("combine", of=["a", "b"])


def test_random_places_are_drawn_evenly_unless_something_else_decides() -> None:
    def evenly(name: str, **values: Any) -> bool:
        return strategies.drawn_evenly(*strategies.of(name, values, ""))

    assert evenly("random", positions=3) and evenly("random", fraction=0.1, max_positions=2)
    assert not evenly("random", positions=3, min_gap=2)
    assert not evenly("random", positions=3, eligible={"without": ["first"]})
    assert not evenly("sampled", positions=3)


def test_a_plug_in_that_does_not_say_is_not_believed() -> None:
    strategy = strategies.Strategy("mine", strategies.Parameters, lambda batch, parameters: None)  # type: ignore[arg-type]
    assert not strategies.known_before(strategy, strategies.Parameters())
