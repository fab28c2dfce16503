"""Token sequences with the pauses in their places: what formats of token ids are made from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from pausedata.store.tables import list_parts

Int = np.ndarray[Any, np.dtype[np.int64]]
Ids = np.ndarray[Any, np.dtype[np.int32]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Sequences:
    """Rows of tokens, one after another.

    Row ``i`` has the elements ``offsets[i]`` to ``offsets[i + 1]`` of every array of elements. A
    row is an example, or several that were packed: ``parts`` are the offsets of the examples.
    """

    offsets: Int  # [rows + 1], from 0
    parts: Int  # [examples + 1], from 0; every one of ``offsets`` is among them
    input_ids: Ids  # [elements]
    is_prompt: Flags  # [elements]
    is_pause: Flags  # [elements]
    is_end: Flags  # [elements]: appended to the response, as EOS is

    @property
    def lengths(self) -> Int:
        """The elements of each row: [rows]."""
        return np.diff(self.offsets)

    def positions(self) -> Int:
        """Each element's place in its example: [elements]."""
        return np.arange(len(self.input_ids)) - np.repeat(self.parts[:-1], np.diff(self.parts))

    def only(self, keep: Flags) -> Sequences:
        """The same rows without the elements where ``keep`` ([elements]) is false."""
        before = np.concatenate([[0], np.cumsum(keep)])
        return Sequences(
            before[self.offsets],
            before[self.parts],
            self.input_ids[keep],
            self.is_prompt[keep],
            self.is_pause[keep],
            self.is_end[keep],
        )

    def take(self, rows: Int) -> Sequences:
        """The rows of these numbers, in their order; of rows that are one example each."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        at = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return Sequences(
            offsets,
            offsets,
            self.input_ids[at],
            self.is_prompt[at],
            self.is_pause[at],
            self.is_end[at],
        )

    def grouped(self, sizes: Int) -> Sequences:
        """The same examples, ``sizes[i]`` of them in row ``i``."""
        return replace(self, offsets=self.parts[np.concatenate([[0], np.cumsum(sizes)])])


def insert_pauses(
    tokens: pa.Table, placement: pa.Table, pause_id: int, ends: Int | None = None
) -> Sequences:
    """Put ``count`` pauses before each ``position`` of the responses.

    ``tokens`` and ``placement`` are the same examples in the same order; ``ends`` is how many of
    each response's last tokens were appended to it ([examples]; None: none).
    """
    prompt_offsets, prompt_ids = list_parts(tokens, "prompt_ids")
    response_offsets, response_ids = list_parts(tokens, "response_ids")
    place_offsets, positions = list_parts(placement, "position")
    _, counts = list_parts(placement, "count")

    prompt_lengths, response_lengths = np.diff(prompt_offsets), np.diff(response_offsets)
    pauses_before = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])  # [places + 1]
    added = np.diff(pauses_before[place_offsets])
    offsets = np.concatenate([[0], np.cumsum(prompt_lengths + response_lengths + added)])

    # An example's places come in ascending order, and a pause after its last token belongs to it,
    # not to the next: so its pauses are counted from its own beginning on.
    base = offsets[:-1] + prompt_lengths - pauses_before[place_offsets[:-1]]
    before = np.repeat(base, np.diff(place_offsets)) + positions  # without the pauses before it
    is_pause = np.zeros(offsets[-1], bool)
    is_pause[np.repeat(before, counts) + np.arange(pauses_before[-1])] = True

    # A prompt has no pauses, and all of it stands before the rest.
    parts = np.stack([prompt_lengths, response_lengths + added], axis=1).ravel()
    is_prompt = np.repeat(np.tile([True, False], tokens.num_rows), parts)
    is_response = ~(is_prompt | is_pause)
    input_ids = np.full(offsets[-1], pause_id, np.int32)
    input_ids[is_prompt], input_ids[is_response] = prompt_ids, response_ids
    is_end = np.zeros(offsets[-1], bool)
    if ends is not None and ends.any():
        behind = np.repeat(response_offsets[1:], response_lengths) - np.arange(len(response_ids))
        is_end[is_response] = behind <= np.repeat(ends, response_lengths)
    return Sequences(offsets, offsets, input_ids, is_prompt, is_pause, is_end)
