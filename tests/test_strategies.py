"""Strategies: where pauses go, on small cases and against slow, obvious versions."""

from __future__ import annotations

import hashlib
import itertools
import random
from typing import Any

import numpy as np
import pytest
from conftest import in_ci
from hypothesis import given, settings
from hypothesis import strategies as st

from pausedata import exporters, strategies
from pausedata.core.errors import DataError, UsageError
from pausedata.strategies import Batch, Placed
from pausedata.strategies.base import Ranked
from pausedata.strategies.choose import _best
from pausedata.strategies.random import random_numbers, stream_keys
from pausedata.strategies.text import ResponseTexts

CHEAP = settings(max_examples=in_ci(100), deadline=None)
# Parameters with which each strategy has something to do.
BUSY: dict[str, dict[str, Any]] = {
    "lowest_logprob": {"positions": 3},
    "random": {"positions": 3},
    "append": {"tokens": 4},
    "none": {},
    "sampled": {"positions": 3},
    "surprisal_spike": {"window": 2, "z": 0.0},
    "every_word": {},
    "regex": {"pattern": r"\w", "where": "after"},
    "sentence": {},
    "hardest_sentence": {"positions": 2},
    "highest_entropy": {"positions": 3},
    "threshold": {"logprob": -0.25, "positions": 3},
    "excess": {"reference": "other", "positions": 3},
    "budget": {"per_100": 50.0},
    "combine": {"of": ["p", "q"]},
}
# Those that take a given number of tokens, where there are so many.
COUNTED = [
    name
    for name in strategies.own()
    if issubclass(strategies.get(name).options, Ranked) or name in {"append", "none"}
]


def batch_of(examples: list[tuple[str, list[bool], list[float]]]) -> Batch:
    """Examples as (id, whether each token begins a character, log-probabilities).

    Their text has one character for each token, or for those that share one.
    """
    offsets = np.cumsum([0, *(len(begins) for _, begins, _ in examples)])
    ends = [np.cumsum(begins) for _, begins, _ in examples]
    texts = ["".join(itertools.islice(itertools.cycle("ab 1.\n"), sum(b))) for _, b, _ in examples]
    end = np.concatenate([np.zeros(0, int), *ends])
    scores = np.array([x for _, _, logprobs in examples for x in logprobs], np.float32)
    return Batch(
        ids=[id for id, _, _ in examples],
        offsets=offsets,
        begins_character=np.array([b for _, begins, _ in examples for b in begins], bool),
        text=ResponseTexts(texts, offsets, end - 1, end),
        logprob=scores,
        rank=1 - np.floor(scores).astype(np.int64),
        entropy=np.abs(scores) / 2,
        reference=np.full(len(scores), -1, np.float32),
        fitted={"threshold": -1.0},
        placed={"p": every(offsets), "q": every(np.minimum(offsets, 1))},
    )


def every(offsets: Any) -> Placed:
    """A pause before every token."""
    lengths = np.diff(offsets)
    example = np.repeat(np.arange(len(lengths)), lengths)
    position = np.arange(offsets[-1]) - offsets[example]
    return Placed(example, position, np.ones_like(position))


def plain(*lengths: int, ids: list[str] | None = None) -> Batch:
    """Examples of which every token begins a character."""
    names = ids or [f"row-{k}" for k in range(len(lengths))]
    return batch_of(
        [(id, [True] * n, [-1.0] * n) for id, n in zip(names, lengths, strict=True)],
    )


def place(name: str, batch: Batch, **parameters: Any) -> list[dict[int, int]]:
    """{position: count} of each example."""
    return placed_and_kept_off(name, batch, **parameters)[0]


def placed_and_kept_off(
    name: str, batch: Batch, **parameters: Any
) -> tuple[list[dict[int, int]], int]:
    strategy = strategies.get(name)
    placed, kept_off = strategies.place(
        strategy, batch, strategies.parse(strategy, parameters, "test")
    )
    found: list[dict[int, int]] = [{} for _ in batch.ids]
    for example, position, count in zip(
        placed.example, placed.positions, placed.counts, strict=True
    ):
        assert position not in found[example]
        found[example][int(position)] = int(count)
    # As a placement stores them: example after example, positions ascending.
    assert list(zip(placed.example, placed.positions, strict=True)) == [
        (k, position) for k, places in enumerate(found) for position in sorted(places)
    ]
    assert np.diff(placed.offsets(len(batch.ids))).tolist() == [len(places) for places in found]
    return found, kept_off


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """A few short responses; few distinct scores, so that ties are common."""
    examples = []
    for k in range(draw(st.integers(1, 5))):
        length = draw(st.integers(1, 9))
        begins = [True, *draw(st.lists(st.booleans(), min_size=length - 1, max_size=length - 1))]
        scores = st.sampled_from([-8.0, -2.5, -0.5, 0.0, -0.0])
        logprobs = draw(st.lists(scores, min_size=length, max_size=length))
        examples.append((f"example-{k}", begins, logprobs))
    return batch_of(examples)


def parts(batch: Batch) -> list[tuple[list[bool], list[float]]]:
    """Each example's flags and log-probabilities, as Python lists."""
    assert batch.logprob is not None
    return [
        (batch.begins_character[a:b].tolist(), batch.logprob[a:b].tolist())
        for a, b in itertools.pairwise(batch.offsets)
    ]


# lowest_logprob


def slow_lowest(begins: list[bool], logprobs: list[float], most: int) -> list[int]:
    """The definition: sort the eligible by score, then by place in the text; take the first M."""
    eligible = [k for k, allowed in enumerate(begins) if allowed]
    return sorted(sorted(eligible, key=lambda k: (logprobs[k], k))[:most])


@CHEAP
@given(batch=batches(), positions=st.integers(0, 12), tokens=st.integers(1, 3))
def test_lowest_logprob_takes_the_m_smallest_scores_and_the_earlier_of_equals(
    batch: Batch, positions: int, tokens: int
) -> None:
    found = place("lowest_logprob", batch, positions=positions, tokens=tokens)
    expected = [slow_lowest(begins, scores, positions) for begins, scores in parts(batch)]
    assert found == [dict.fromkeys(places, tokens) for places in expected]


@pytest.mark.parametrize("positions", [1, 5, 40])
def test_lowest_logprob_agrees_with_the_slow_version_on_2000_long_examples(positions: int) -> None:
    generator = random.Random(positions)
    batch = batch_of(
        [
            (
                f"row-{k}",
                [True, *(generator.random() < 0.9 for _ in range(length - 1))],
                [-round(generator.expovariate(1), 1) for _ in range(length)],
            )
            for k in range(2000)
            for length in [generator.randint(1, 60)]
        ]
    )
    found = place("lowest_logprob", batch, positions=positions)
    assert [sorted(places) for places in found] == [
        slow_lowest(begins, scores, positions) for begins, scores in parts(batch)
    ]


# random


def splitmix64(seed: int, outputs: int) -> list[int]:
    """SplitMix64 as published (Steele, Lea, Flood 2014; Vigna's splitmix64.c), in Python's ints."""
    state, found = seed, []
    for _ in range(outputs):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        found.append(z ^ (z >> 31))
    return found


def test_random_numbers_are_those_of_the_published_generator() -> None:
    """Token k of an example whose key is s gets output k of SplitMix64 seeded with s."""
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]  # seed 0
    assert splitmix64(0, 3) == published

    zeros = np.zeros(3, np.uint64)
    assert random_numbers(zeros, np.arange(3)).tolist() == published
    for seed in (1, 1234567, 2**63, 2**64 - 1):
        keys = np.full(50, seed, np.uint64)
        assert random_numbers(keys, np.arange(50)).tolist() == splitmix64(seed, 50)


def test_an_example_has_its_own_stream_from_the_seed_and_its_id() -> None:
    """The key: the first eight bytes, little-endian, of sha256(seed in decimal + NUL + id)."""
    expected = int.from_bytes(hashlib.sha256("7\0naïve".encode()).digest()[:8], "little")
    assert stream_keys(["naïve"], 7).tolist() == [expected]


def test_a_seed_gives_these_positions_for_ever() -> None:
    """The M tokens with the smallest numbers, worked out from the published generator alone."""
    key = int.from_bytes(hashlib.sha256(b"0\0example-1").digest()[:8], "little")
    numbers = splitmix64(key, 8)
    smallest = sorted(sorted(range(8), key=lambda k: numbers[k])[:3])

    # Written out, so that a change of generator cannot change both sides unnoticed.
    assert numbers[0] == 0x52E803604D41CA68
    assert smallest == [0, 4, 5]
    assert place("random", plain(8, ids=["example-1"]), positions=3, seed=0) == [
        dict.fromkeys([0, 4, 5], 1)
    ]


@CHEAP
@given(batch=batches(), positions=st.integers(0, 12), seed=st.integers(-5, 5))
def test_random_takes_m_different_tokens_or_all_that_there_are(
    batch: Batch, positions: int, seed: int
) -> None:
    found = place("random", batch, positions=positions, tokens=2, seed=seed)
    for places, (begins, _) in zip(found, parts(batch), strict=True):
        assert len(places) == min(positions, sum(begins))
        assert all(begins[position] for position in places)
        assert set(places.values()) <= {2}


def test_every_set_of_positions_is_as_likely_as_any_other() -> None:
    """Two of six tokens, 30,000 times: the 15 pairs, 2,000 of each expected.

    Chi square has 14 degrees of freedom; it is above 36.1 in one of a thousand fair draws. Nothing
    here is left to chance: the seed is given, so that the figure is always the same.
    """
    rows = 30_000
    found = place("random", plain(*[6] * rows), positions=2, seed=0)
    pairs = dict.fromkeys(itertools.combinations(range(6), 2), 0)
    for places in found:
        first, second = sorted(places)
        pairs[first, second] += 1
    expected = rows / len(pairs)
    assert sum((n - expected) ** 2 / expected for n in pairs.values()) < 36.1


@CHEAP
@given(data=st.data(), seed=st.integers(0, 3))
def test_a_draw_depends_on_seed_and_id_alone(data: st.DataObject, seed: int) -> None:
    """Order, batches, shards and other examples change nothing: only the id and the length do."""
    lengths = {
        f"id-{k}": n
        for k, n in enumerate(data.draw(st.lists(st.integers(1, 20), min_size=2, max_size=8)))
    }
    alone = {
        id: place("random", plain(n, ids=[id]), positions=3, seed=seed)[0]
        for id, n in lengths.items()
    }
    order = data.draw(st.permutations(list(lengths)))
    cut = data.draw(st.integers(1, len(order) - 1))
    for shard in (order, order[:cut], order[cut:]):
        together = place(
            "random", plain(*(lengths[id] for id in shard), ids=shard), positions=3, seed=seed
        )
        assert dict(zip(shard, together, strict=True)) == {id: alone[id] for id in shard}


def test_another_seed_draws_otherwise() -> None:
    batch = plain(*[50] * 20)
    draws = [place("random", batch, positions=3, seed=seed) for seed in (0, 1, -1)]
    assert draws[0] != draws[1] != draws[2] != draws[0]
    assert draws[0] == place("random", batch, positions=3)  # 0 is the default


def test_more_positions_keep_those_of_fewer() -> None:
    """So that placements with M of 3 and of 5 can be compared: the 5 are the 3 and two more."""
    batch = plain(*[30] * 50)
    for few, many in zip(
        place("random", batch, positions=3), place("random", batch, positions=5), strict=True
    ):
        assert set(few) < set(many)


# append, none


def test_append_puts_its_whole_count_before_the_response() -> None:
    assert place("append", plain(3, 1, 7), tokens=10) == [{0: 10}] * 3


def test_append_of_nothing_and_none_place_nothing() -> None:
    assert place("append", plain(3, 1), tokens=0) == [{}, {}]
    assert place("none", plain(3, 1)) == [{}, {}]


# Characters of several tokens


#        " 🙂" in four bytes, then "." and <eos>; the scores would choose the inner bytes first.
EMOJI = batch_of(
    [("smile", [True, False, False, False, True, True], [-1.0, -9.0, -8.0, -0.5, -2.0, -3.0])]
)


def test_the_inside_of_a_character_is_passed_over_and_counted() -> None:
    # Wanted: positions 1, 2 and 5 (-9, -8, -3). Allowed: 5, 4 and 0 (-3, -2, -1). Kept off: 2.
    assert placed_and_kept_off("lowest_logprob", EMOJI, positions=3) == ([{0: 1, 4: 1, 5: 1}], 2)
    # Wanted with M of 1: position 1. Taken: 5.
    assert placed_and_kept_off("lowest_logprob", EMOJI, positions=1) == ([{5: 1}], 1)
    # All six are wanted; three begin a character.
    assert placed_and_kept_off("lowest_logprob", EMOJI, positions=6) == ([{0: 1, 4: 1, 5: 1}], 3)


def test_what_random_would_have_chosen_inside_a_character_is_counted_too() -> None:
    numbers = splitmix64(int(stream_keys(["smile"], 0)[0]), 6)
    by_number = sorted(range(6), key=lambda k: numbers[k])
    for positions in range(7):
        found, kept_off = placed_and_kept_off("random", EMOJI, positions=positions)
        assert sorted(found[0]) == sorted([k for k in by_number if k in {0, 4, 5}][:positions])
        assert kept_off == len({1, 2, 3} & set(by_number[:positions]))


@CHEAP
@given(batch=batches(), name=st.sampled_from(strategies.own()))
def test_no_strategy_ever_splits_a_character(batch: Batch, name: str) -> None:
    for places, (begins, _) in zip(place(name, batch, **BUSY[name]), parts(batch), strict=True):
        # The place after the last token is inside no character.
        assert all([*begins, True][position] for position in places)


@CHEAP
@given(batch=batches(), name=st.sampled_from(COUNTED), asked=st.integers(0, 12))
def test_positions_number_as_many_as_asked_or_as_there_are(
    batch: Batch, name: str, asked: int
) -> None:
    """Invariant 2; `append` has one place, with its whole count, and `none` has none."""
    parameters = BUSY[name] | ({"positions": asked} if "positions" in BUSY[name] else {})
    for places, (begins, _) in zip(place(name, batch, **parameters), parts(batch), strict=True):
        ask = {"append": 1, "none": 0}.get(name, asked)
        assert len(places) == min(ask, sum(begins))
        assert all(0 <= position < len(begins) for position in places)


def test_every_strategy_is_tested_here() -> None:
    assert set(BUSY) == set(strategies.own())


def test_a_strategy_that_needs_no_scores_is_given_none() -> None:
    offsets = np.array([0, 4])
    batch = Batch(["x"], offsets, np.ones(4, bool), placed={n: every(offsets) for n in "pq"})
    for name in strategies.own():
        strategy = strategies.get(name)
        if not strategies.reads(strategy, strategies.parse(strategy, BUSY[name], "test")):
            place(name, batch, **BUSY[name])


# Names and parameters


def test_a_misspelled_strategy_is_told_the_nearest_name() -> None:
    with pytest.raises(UsageError) as caught:
        strategies.get("lowest_logprb", "r.yaml: placements.dit.strategy")
    assert str(caught.value) == (
        "r.yaml: placements.dit.strategy: unknown strategy 'lowest_logprb'. "
        "Did you mean 'lowest_logprob'?"
    )
    assert caught.value.exit_code == 2


def test_a_name_that_is_near_to_none_is_told_what_there_is() -> None:
    with pytest.raises(UsageError, match=r"unknown strategy 'zzz'\. There: 'lowest_logprob', "):
        strategies.get("zzz")
    with pytest.raises(UsageError, match=r"unknown format 'tokenised'\. Did you mean 'tokenized'"):
        exporters.get("tokenised")


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        (
            "lowest_logprob",
            {"positions": 3, "token": 2},
            "here: strategy 'lowest_logprob' has no key 'token'. Did you mean 'tokens'?",
        ),
        (
            "lowest_logprob",
            {"positions": 3, "zzz": 1},
            "here: strategy 'lowest_logprob' has no key 'zzz'. Its keys: tokens, eligible, "
            "min_gap, max_positions, seed, positions, fraction.",
        ),
        ("none", {"zzz": 1}, "here: strategy 'none' has no key 'zzz'. Its keys: none."),
        ("random", {}, "here: strategy 'random': give either positions or fraction."),
        ("append", {}, "here: strategy 'append' needs 'tokens'."),
    ],
)
def test_unknown_and_missing_parameters_are_named(
    name: str, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        strategies.parse(strategies.get(name), parameters, "here")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "parameters", "key"),
    [
        ("lowest_logprob", {"positions": "many"}, "positions"),
        ("lowest_logprob", {"positions": 2.5}, "positions"),
        ("lowest_logprob", {"positions": True}, "positions"),
        ("lowest_logprob", {"positions": [1, 2]}, "positions"),
        ("lowest_logprob", {"positions": -1}, "positions"),
        ("lowest_logprob", {"positions": 1, "tokens": -1}, "tokens"),
        ("random", {"positions": 1, "seed": "x"}, "seed"),
        # `count` is stored in 16 bits.
        ("append", {"tokens": 32_768}, "tokens"),
    ],
)
def test_a_parameter_of_a_wrong_type_or_size_is_named_with_its_value(
    name: str, parameters: dict[str, Any], key: str
) -> None:
    with pytest.raises(UsageError, match=rf"^here\.{key}: .*, not ") as caught:
        strategies.parse(strategies.get(name), parameters, "here")
    assert repr(parameters[key]) in str(caught.value)


def test_strategies_describe_themselves() -> None:
    described = {entry["name"]: entry for entry in strategies.describe()}
    assert list(described) == strategies.own()
    options = {option["name"]: option for option in described["random"]["options"]}
    assert not options["positions"]["required"] and options["positions"]["type"] == "integer"
    assert options["seed"]["default"] == 0
    assert all(entry["summary"] for entry in described.values())


# What a stranger's strategy may give


@pytest.mark.parametrize(
    ("example", "positions", "counts", "problem"),
    [
        ([0, 0], [1], [1, 1], "2 examples, 1 positions and 2 counts"),
        ([1], [0], [1], "an example that is none of the 1 of its batch"),
        ([0], [7], [1], "position 7 of example 'smile', which is not in the response"),
        ([0], [-1], [1], "position -1 of example 'smile', which is not in the response"),
        ([0, 0], [4, 0], [1, 1], "position 0 of example 'smile', which does not come after"),
        ([0, 0], [4, 4], [1, 1], "position 4 of example 'smile', which does not come after"),
        ([0], [4], [0], "position 4 of example 'smile', with a count that is not from 1 to"),
        ([0], [4], [40_000], "position 4 of example 'smile', with a count that is not from"),
        ([0], [2], [1], "position 2 of example 'smile', which is inside a character"),
    ],
)
def test_what_is_no_placement_is_refused(
    example: list[int], positions: list[int], counts: list[int], problem: str
) -> None:
    arrays = (np.array(values, np.int64) for values in (example, positions, counts))
    given = Placed(*arrays)
    stranger = strategies.Strategy("stranger", strategies.Choosing, lambda batch, _: given)
    with pytest.raises(DataError, match=r"^strategy 'stranger' is at fault: ") as caught:
        strategies.place(stranger, EMOJI, strategies.Choosing())
    assert problem in str(caught.value)


def test_the_place_after_the_last_token_is_one() -> None:
    one = np.ones(1, np.int64)
    stranger = strategies.Strategy(
        "stranger", strategies.Choosing, lambda batch, _: Placed(0 * one, 6 * one, one)
    )
    assert strategies.place(stranger, EMOJI, strategies.Choosing())[1] == 0


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.int32, np.uint32, np.uint64])
def test_a_stranger_s_whole_numbers_may_be_of_any_type(kind: type[np.integer]) -> None:
    columns = (np.array(values, kind) for values in ([0, 0], [4, 5], [3, 127]))
    given = Placed(*columns)
    stranger = strategies.Strategy("stranger", strategies.Choosing, lambda batch, _: given)
    placed, _ = strategies.place(stranger, EMOJI, strategies.Choosing())
    assert placed.counts.tolist() == [3, 127] and placed.positions.tolist() == [4, 5]
    assert {a.dtype for a in (placed.example, placed.positions, placed.counts)} == {np.dtype("i8")}


def test_all_that_there_is_may_be_asked_for_of_keys_of_every_type() -> None:
    # The ends of uint64 have no type in common with the counts: numpy 2.5 refuses to find one.
    lengths, most = np.array([3, 2]), np.array([3, 1])
    for kind in (np.uint64, np.int64, np.float32, np.float64):
        key = np.array([5, 4, 6, 9, 8], kind)
        assert _best(key, lengths, most).tolist() == [True, True, True, False, True]
