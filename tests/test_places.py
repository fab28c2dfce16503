"""The choice among places in the order of the text, and the options common to all."""

from __future__ import annotations

import random

import numpy as np
import pytest
from texts import batch_of, characters

from pausedata.strategies import Batch
from pausedata.strategies.base import Choosing, Eligible
from pausedata.strategies.places import choose_places


def chosen(batch: Batch, places: list[tuple[int, int]], after: bool, **options: object) -> list:
    example = np.array([k for k, _ in places], np.int64)
    position = np.array([position for _, position in places], np.int64)
    placed = choose_places(batch, Choosing(**options), example, position, after=after)  # type: ignore
    return list(
        zip(placed.example.tolist(), placed.positions.tolist(), placed.counts.tolist(), strict=True)
    )


def test_by_hand() -> None:
    batch = batch_of([characters("abcdefg"), characters(""), characters("hi")])  # 8, 1, 3 tokens
    places = [(0, 0), (0, 1), (0, 1), (0, 4), (0, 6), (0, 8), (1, 1), (2, 0), (2, 3)]
    # Given twice, placed once; the position after the last token only after something.
    assert chosen(batch, places, after=False, tokens=2) == [
        (0, 0, 2), (0, 1, 2), (0, 4, 2), (0, 6, 2), (2, 0, 2),
    ]  # fmt: skip
    assert chosen(batch, places, after=True) == [
        (0, 0, 1), (0, 1, 1), (0, 4, 1), (0, 6, 1), (0, 8, 1), (1, 1, 1), (2, 0, 1), (2, 3, 1),
    ]  # fmt: skip
    # From left to right: 0; 1 is too near; 4; 6 is too near; 8. Each example begins anew.
    assert chosen(batch, places, after=True, min_gap=4) == [
        (0, 0, 1), (0, 4, 1), (0, 8, 1), (1, 1, 1), (2, 0, 1),
    ]  # fmt: skip
    assert chosen(batch, places, after=True, max_positions=1, min_gap=2) == [
        (0, 0, 1), (1, 1, 1), (2, 0, 1),
    ]  # fmt: skip
    # What is not eligible does not stand in the way of what is: 1 in place of 0.
    first = Eligible(without=["first"])
    assert chosen(batch, places, after=True, eligible=first, min_gap=4, max_positions=2) == [
        (0, 1, 1), (0, 6, 1), (1, 1, 1), (2, 3, 1),
    ]  # fmt: skip


@pytest.mark.parametrize("options", [{"tokens": 0}, {"max_positions": 0}])
def test_none_asked_for_is_none(options: dict[str, int]) -> None:
    assert chosen(batch_of([characters("abc")]), [(0, 1), (0, 4)], after=True, **options) == []


def test_no_place_and_no_example() -> None:
    for batch in (batch_of([]), batch_of([characters("abc")])):
        assert chosen(batch, [], after=True, min_gap=3, max_positions=2) == []


@pytest.mark.parametrize("gap", [None, 1, 2, 3, 7, 1000])
@pytest.mark.parametrize("most", [None, 3])
def test_as_the_slow_version_in_500_examples_each(gap: int | None, most: int | None) -> None:
    draw = random.Random(f"{gap} {most}")
    batch = batch_of([characters("x" * draw.randint(0, 60)) for _ in range(500)])
    begins = np.array([draw.random() < 0.8 for _ in batch.begins_character])
    batch = Batch(batch.ids, batch.offsets, begins)
    places = [
        (example, position)
        for example, n in enumerate(batch.lengths)
        for position in sorted(draw.randint(0, n) for _ in range(draw.choice([0, 1, 5, 40])))
    ]
    for after in (False, True):
        taken: dict[int, list[int]] = {example: [] for example in range(len(batch.ids))}
        for example, position in places:
            so_far = taken[example]
            last = position == batch.lengths[example]
            if not (after if last else begins[batch.offsets[example] + position]):
                continue
            if len(so_far) != most and (not so_far or position - so_far[-1] >= (gap or 1)):
                so_far.append(position)
        expected = [(k, position, 1) for k, here in taken.items() for position in here]
        options = {"min_gap": gap, "max_positions": most}
        assert chosen(batch, places, after, **options) == expected
