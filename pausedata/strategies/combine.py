"""Placements joined: their union, their intersection, or what one has and the others lack."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from pausedata.core.names import Name
from pausedata.strategies.base import MOST_PAUSES, Batch, Choosing, Int, Placed, Strategy
from pausedata.strategies.choose import with_counts
from pausedata.strategies.places import choose_places


class Combine(Choosing):
    """Where other placements have pauses: in any of them, in all, or in the first alone."""

    of: list[Name] = Field(min_length=1, description="the placements, by name")
    how: Literal["union", "intersection", "difference"] = Field(
        default="union", description="in any; in all; in the first and in no other"
    )
    tokens: int | None = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default=None,
        ge=0,
        le=MOST_PAUSES,
        description="pauses at each place; null: the most that any has there, of an intersection "
        "the fewest, of a difference the first's",
    )

    @property
    def placements(self) -> tuple[str, ...]:
        """The placements that are joined."""
        return tuple(dict.fromkeys(self.of))


def place(batch: Batch, parameters: Combine) -> Placed:
    """The places of ``how``, in the order of the text, with the common options applied."""
    key, count, width = _joined(batch, parameters)
    among = choose_places(
        batch,
        parameters.model_copy(update={"tokens": 1}),
        key // width,
        key % width,
        after=True,
    )
    if parameters.tokens is not None:
        return with_counts(among.example, among.positions, parameters.tokens)
    kept = np.searchsorted(key, among.example * width + among.positions)
    return Placed(among.example, among.positions, count[kept])


def _joined(batch: Batch, parameters: Combine) -> tuple[Int, Int, int]:
    """One ascending key a place, example · width + position; the pauses there; the width."""
    placed = [batch.placed[name] for name in parameters.of]
    width = int(batch.lengths.max(initial=0)) + 1
    keys = [each.example * width + each.positions for each in placed]
    if parameters.how == "difference":
        alone = ~np.isin(keys[0], np.concatenate([np.zeros(0, np.int64), *keys[1:]]))
        return keys[0][alone], placed[0].counts[alone], width
    every, counts = np.concatenate(keys), np.concatenate([each.counts for each in placed])
    order = np.lexsort((counts, every))  # by place, and there the fewest pauses first
    places, first, times = np.unique(every[order], return_index=True, return_counts=True)
    if parameters.how == "union":
        return places, counts[order[first + times - 1]], width
    in_all = times == len(placed)
    return places[in_all], counts[order[first[in_all]]], width


STRATEGY = Strategy(
    "combine",
    Combine,
    place,
    formula="With P1 … Pk the places of the placements `of`: P1 ∪ … ∪ Pk, P1 ∩ … ∩ Pk, or "
    "P1 ∖ (P2 ∪ … ∪ Pk). The others are made first, and a change of one remakes this one.",
    known_before=True,  # where all of the placements are
    worked=(
        {"of": ["a", "b"]},
        {"of": ["a", "b"], "how": "intersection"},
        {"of": ["a", "b"], "how": "difference"},
    ),
)
