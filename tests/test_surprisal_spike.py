"""``surprisal_spike``: tokens that stand out from those right before them."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from typing import Any

import pytest
from conftest import in_ci
from hypothesis import given, settings
from hypothesis import strategies as st
from test_strategies import batch_of, batches, parts, place, placed_and_kept_off

from pausedata import strategies
from pausedata.core.errors import UsageError
from pausedata.strategies import Batch

CHEAP = settings(max_examples=in_ci(200), deadline=None)


def is_spike(surprisal: float, before: list[float], z: float) -> bool:
    """The definition, in whole numbers: above the mean by more than z deviations, squared."""
    *earlier, own = (round(min(s, 1024.0) * 2**16) for s in [*before, surprisal])
    n, total = len(earlier), sum(earlier)
    above, spread = n * own - total, n * sum(s * s for s in earlier) - total**2
    top, bottom = Fraction(z).as_integer_ratio()
    return above > 0 and (above * bottom) ** 2 > top**2 * spread


def slow_spikes(surprisals: list[float], window: int, z: float) -> list[int]:
    """At least two tokens before it, and above their limit."""
    return [
        k
        for k, surprisal in enumerate(surprisals)
        for before in [surprisals[max(0, k - window) : k]]
        if len(before) >= 2 and is_spike(surprisal, before, z)
    ]


def slow(batch: Batch, window: int, z: float, most: int | None = None) -> list[list[int]]:
    """Of each example the spikes that begin a character, or the ``most`` least likely of them."""
    found = []
    for begins, logprobs in parts(batch):
        spikes = [k for k in slow_spikes([-x for x in logprobs], window, z) if begins[k]]
        by_score = sorted(spikes, key=lambda k: (logprobs[k], k))
        found.append(sorted(by_score[:most]))
    return found


def one(*surprisals: float) -> Batch:
    return batch_of([("one", [True] * len(surprisals), [-s for s in surprisals])])


def test_a_spike_exceeds_the_mean_of_the_window_by_z_deviations() -> None:
    """Tokens 0 to 3 have the mean 2 and the deviation 1: 4 is two deviations above, 4.5 more."""
    assert place("surprisal_spike", one(1, 3, 1, 3, 4.5), window=4, z=2.0) == [{4: 1}]
    assert place("surprisal_spike", one(1, 3, 1, 3, 4), window=4, z=2.0) == [{}]  # not just as far
    assert place("surprisal_spike", one(1, 3, 1, 3, 4), window=4, z=1.5) == [{4: 1}]
    # Of the last two alone, 3 and 1, the mean and deviation are the same.
    assert place("surprisal_spike", one(9, 9, 1, 3, 4.5), window=2, z=2.0) == [{4: 1}]
    assert place("surprisal_spike", one(9, 9, 1, 3, 4.5), window=4, z=2.0) == [{}]


def test_it_takes_two_tokens_to_stand_out_from() -> None:
    assert place("surprisal_spike", one(0, 50), z=0.0) == [{}]
    assert place("surprisal_spike", one(0, 0, 50), z=0.0) == [{2: 1}]
    assert place("surprisal_spike", one(), z=0.0) == [{}]


def test_tokens_that_are_all_alike_hold_no_spike() -> None:
    for surprisal in (0.0, 0.1, 3.3):
        assert place("surprisal_spike", one(*[surprisal] * 100), z=0.0) == [{}]


def test_where_there_is_a_cap_the_least_likely_spikes_are_taken() -> None:
    batch = one(1, 1, 5, 1, 1, 1, 1, 9, 1, 1, 1, 1, 9)
    assert place("surprisal_spike", batch, window=4, z=2.0) == [{2: 1, 7: 1, 12: 1}]
    assert place("surprisal_spike", batch, window=4, z=2.0, max_positions=2) == [{7: 1, 12: 1}]
    assert place("surprisal_spike", batch, window=4, z=2.0, max_positions=1) == [{7: 1}]
    assert place("surprisal_spike", batch, window=4, z=2.0, max_positions=0) == [{}]
    assert place("surprisal_spike", batch, window=4, max_positions=1, tokens=3) == [{7: 3}]


def test_an_example_does_not_see_the_one_before_it() -> None:
    calm = ("calm", [True] * 3, [-1.0, -1.0, -1.0])
    jump = ("jump", [True] * 3, [-9.0, -9.0, -9.0])
    assert place("surprisal_spike", batch_of([calm, jump, calm]), z=0.0) == [{}] * 3


def test_a_spike_inside_a_character_is_counted_and_no_other_is_put_in_its_place() -> None:
    batch = batch_of([("x", [True, True, False, True], [-1.0, -1.0, -9.0, -1.0])])
    assert placed_and_kept_off("surprisal_spike", batch, window=2, z=1.0) == ([{}], 1)


@CHEAP
@given(
    batch=batches(),
    window=st.integers(2, 5),
    z=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    most=st.none() | st.integers(0, 3),
)
def test_it_agrees_with_the_slow_version(
    batch: Batch, window: int, z: float, most: int | None
) -> None:
    cap = {} if most is None else {"max_positions": most}
    found = place("surprisal_spike", batch, window=window, z=z, **cap)
    assert [sorted(places) for places in found] == slow(batch, window, z, most)


@pytest.mark.parametrize(("window", "z"), [(2, 0.0), (3, 1.0), (16, 2.0), (100, 1.5)])
def test_it_agrees_with_the_slow_version_on_1000_examples(window: int, z: float) -> None:
    rng = random.Random(window)
    batch = batch_of(
        [
            (
                f"row-{k}",
                [rng.random() < 0.9 for _ in range(length)],
                [-(rng.expovariate(1) ** 2) for _ in range(length)],
            )
            for k in range(1000)
            for length in [rng.randint(0, 45) if k % 100 else 300]
        ]
    )
    found = place("surprisal_spike", batch, window=window, z=z)
    assert [sorted(places) for places in found] == slow(batch, window, z)
    assert sum(map(len, found)) > 100


def test_a_limit_that_is_met_exactly_is_no_spike() -> None:
    """Deviations that are whole numbers, so that many tokens stand just at the limit."""
    rng = random.Random(3)
    for _ in range(1000):
        low, apart, pairs = rng.randint(0, 99) / 64, rng.randint(1, 99) / 64, rng.randint(1, 8)
        before = [low, low + 2 * apart] * pairs  # the mean is low + apart, the deviation apart
        rng.shuffle(before)
        z = rng.choice([0.0, 0.5, 1.0, 2.5])
        at = low + apart * (1 + z)
        assert len(before) not in place("surprisal_spike", one(*before, at), z=z)[0]
        assert len(before) in place("surprisal_spike", one(*before, at + 2**-7), z=z)[0]


def test_what_is_beyond_all_measure_is_the_most_there_is() -> None:
    assert place("surprisal_spike", one(1, 1, 1e9), z=2.0) == [{2: 1}]
    assert place("surprisal_spike", one(1e9, 1e9, 2e9), z=0.0) == [{}]
    everything = [1024.0, 0.0] * 600
    found = place("surprisal_spike", one(*everything), window=1024, z=1.0)
    assert [sorted(places) for places in found] == [slow_spikes(everything, 1024, 1.0)]


@pytest.mark.parametrize(
    ("key", "value"),
    [("window", 1), ("window", 1025), ("window", 2.5), ("z", -0.1), ("z", math.nan)],
)
def test_a_window_or_z_that_makes_no_sense_is_refused(key: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"^here\.{key}: "):
        strategies.parse(strategies.get("surprisal_spike"), {key: value}, "here")
