"""Rows of at most ``max_length`` tokens: longer ones are an error, left out or cut, and counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pausedata.exporters.refused import overlong
from pausedata.exporters.sequences import Flags, Int, Sequences
from pausedata.exporters.tally import RowChange

NO_RESPONSE = "no_response_left"


@dataclass(frozen=True)
class Fitted:
    """Sequences that are short enough, and what happened to the others."""

    sequences: Sequences
    kept: Int  # the numbers of the examples that are left
    changes: list[RowChange] = field(default_factory=list)


def fit(
    sequences: Sequences,
    ids: Sequence[str],
    limit: int,
    policy: str,
    *,
    behind: int = 0,
    may_cut: bool = True,
) -> Fitted:
    """Examples of at most ``limit`` elements; Refused where longer ones are an error.

    ``truncate`` cuts a response's end and adds no EOS, which would teach the model to stop in the
    middle; a response of which no token is left is skipped. ``behind``: how many elements the
    trainer adds to each example; ``may_cut``: whether the format offers ``truncate``.
    """
    lengths = sequences.lengths + behind
    over = lengths > limit
    everything = np.arange(len(ids))
    if not over.any():
        return Fitted(sequences, everything)
    numbers = np.flatnonzero(over)
    if policy == "error":
        first = int(numbers[0])
        raise overlong(ids[first], int(lengths[first]), limit, len(numbers), len(ids), may_cut)
    if policy == "skip":
        changes = [RowChange(ids[k], "skipped", "overlong") for k in numbers.tolist()]
        return Fitted(sequences.take(np.flatnonzero(~over)), np.flatnonzero(~over), changes)
    shorter = sequences.only(_cut(sequences, over, limit))
    solid = ~(shorter.is_prompt | shorter.is_pause)
    before = np.concatenate([[0], np.cumsum(solid)])
    bare = over & (np.diff(before[shorter.offsets]) == 0)
    changes = [
        RowChange(ids[k], "skipped", NO_RESPONSE) if bare[k] else RowChange(ids[k], "truncated")
        for k in numbers.tolist()
    ]
    kept = np.flatnonzero(~bare)
    return Fitted(shorter.take(kept), kept, changes)


def _cut(sequences: Sequences, over: Flags, limit: int) -> Flags:
    """Which elements stay: of rows that are too long, those at the beginning: [elements]."""
    lengths = sequences.lengths
    within = np.arange(len(sequences.input_ids)) - np.repeat(sequences.offsets[:-1], lengths)
    cut = np.repeat(over, lengths)
    keep = ~cut | ((within < limit) & ~sequences.is_end)
    # A pause is before a token: none stays behind the last one that does.
    solid = np.where(keep & ~sequences.is_pause, np.arange(len(keep)), -1)
    last = np.maximum.accumulate(solid)[sequences.offsets[1:] - 1]
    return keep & (~cut | (np.arange(len(keep)) <= np.repeat(last, lengths)))
