"""Token sequences with the pauses in their places: what formats of token ids are made from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from pausedata.store.tables import list_parts

Int = np.ndarray[Any, np.dtype[np.int64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Sequences:
    """Rows of tokens, one after another.

    Row ``i`` has the elements ``offsets[i]`` to ``offsets[i + 1]`` of every array of elements. A
    row is an example, or several that were packed: ``parts`` are the offsets of the examples.
    """

    offsets: Int  # [rows + 1], from 0
    parts: Int  # [examples + 1], from 0; every one of ``offsets`` is among them
    input_ids: Int  # [elements]
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
    counts = counts.astype(np.int64)
    examples = tokens.num_rows

    prompt_lengths, response_lengths = np.diff(prompt_offsets), np.diff(response_offsets)
    lengths = prompt_lengths + response_lengths
    place_example = np.repeat(np.arange(examples), np.diff(place_offsets))
    # The sequences without pauses, prompt after response after prompt.
    plain_offsets = np.concatenate([[0], np.cumsum(lengths)])
    # Where in that the pauses go: before the element of this index.
    before = (plain_offsets[:-1] + prompt_lengths)[place_example] + positions
    inserted = np.repeat(before, counts)

    plain = np.empty(plain_offsets[-1], np.int64)
    in_example = np.arange(plain_offsets[-1]) - np.repeat(plain_offsets[:-1], lengths)
    is_prompt = in_example < np.repeat(prompt_lengths, lengths)
    plain[is_prompt], plain[~is_prompt] = prompt_ids, response_ids
    is_end = np.zeros(len(plain), bool)
    if ends is not None:
        is_end = in_example >= np.repeat(lengths - ends, lengths)

    added = np.zeros(examples, np.int64)
    np.add.at(added, place_example, counts)
    offsets = np.concatenate([[0], np.cumsum(lengths + added)])
    # An example's places come in ascending order, and a pause after its last token belongs to it,
    # not to the next: so new indices are counted from the pauses, not from `before` alone.
    pause_at = inserted + np.arange(len(inserted))
    is_pause = np.zeros(offsets[-1], bool)
    is_pause[pause_at] = True
    input_ids = np.full(offsets[-1], pause_id, np.int64)
    input_ids[~is_pause] = plain
    flags = np.zeros((2, offsets[-1]), bool)
    flags[0, ~is_pause], flags[1, ~is_pause] = is_prompt, is_end
    return Sequences(offsets, offsets, input_ids, flags[0], is_pause, flags[1])
