"""Packing: several examples in one row, none of them split."""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np

from pausedata.exporters.sequences import Int, Sequences

# How many examples are packed at a time, in the order of the split: enough for rows that are nearly
# full, few enough for memory. It is fixed, so that no row depends on the dataset's shards.
WINDOW = 8_192


def pack(sequences: Sequences, length: int) -> Sequences:
    """The examples in rows of at most ``length`` elements, by best fit, the longest first.

    Rows are in the order of their first examples; examples keep their order within a row. No
    example may be longer than ``length``: those are cut or left out before.
    """
    bins = best_fit(sequences.lengths, length)
    order = np.array([example for row in bins for example in row], np.int64)
    return sequences.take(order).grouped(np.array([len(row) for row in bins], np.int64))


def best_fit(lengths: Int, length: int) -> list[list[int]]:
    """The numbers of the examples in each row: best-fit decreasing.

    Each example, the longest first, goes into the row with the least room that has enough; of
    rows with equal room, into the earliest.
    """
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (room left, bin), ascending
    for example in np.argsort(-lengths, kind="stable").tolist():
        need = int(lengths[example])
        at = bisect_left(room, (need, -1))
        if at == len(room):
            left, chosen = length, len(bins)
            bins.append([])
        else:
            left, chosen = room.pop(at)
        bins[chosen].append(example)
        insort(room, (left - need, chosen))
    return sorted(sorted(row) for row in bins)
