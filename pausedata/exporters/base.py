"""What every format starts from: token sequences with the pauses in their places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from pausedata.exporters.layout import Layout
from pausedata.store.tables import list_parts

Int = np.ndarray[Any, np.dtype[np.int64]]


class Options(BaseModel):
    """Base of every format's options: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Rows:
    """Examples with their pauses inserted, one sequence after another.

    Example ``i`` has the elements ``offsets[i]`` to ``offsets[i + 1]`` of every other array.
    """

    offsets: Int  # [examples + 1], from 0
    input_ids: Int  # [elements]
    is_prompt: np.ndarray[Any, np.dtype[np.bool_]]  # [elements]
    is_pause: np.ndarray[Any, np.dtype[np.bool_]]  # [elements]


@dataclass(frozen=True)
class Format:
    """A format: the Arrow rows it makes, and how they lie in the trainer's own files."""

    name: str
    options: type[Options]
    schema: pa.Schema
    rows: Callable[[Rows, Any], pa.Table]
    layout: Layout
    pause_label_masked: bool
    readers: str  # the trainers that read it


def insert_pauses(tokens: pa.Table, placement: pa.Table, pause_id: int) -> Rows:
    """Put ``count`` pauses before each ``position`` of the responses.

    ``tokens`` and ``placement`` are the same examples in the same order.
    """
    prompt_offsets, prompt_ids = list_parts(tokens, "prompt_ids")
    response_offsets, response_ids = list_parts(tokens, "response_ids")
    place_offsets, positions = list_parts(placement, "position")
    _, counts = list_parts(placement, "count")
    counts = counts.astype(np.int64)
    examples = tokens.num_rows

    prompt_lengths, response_lengths = np.diff(prompt_offsets), np.diff(response_offsets)
    place_example = np.repeat(np.arange(examples), np.diff(place_offsets))
    # The sequences without pauses, prompt after response after prompt.
    plain_offsets = np.concatenate([[0], np.cumsum(prompt_lengths + response_lengths)])
    # Where in that the pauses go: before the element of this index.
    before = (plain_offsets[:-1] + prompt_lengths)[place_example] + positions
    inserted = np.repeat(before, counts)

    is_prompt = np.zeros(plain_offsets[-1], bool)
    plain = np.empty(plain_offsets[-1], np.int64)
    slot = np.arange(plain_offsets[-1])
    in_example = slot - np.repeat(plain_offsets[:-1], prompt_lengths + response_lengths)
    is_prompt = in_example < np.repeat(prompt_lengths, prompt_lengths + response_lengths)
    plain[is_prompt], plain[~is_prompt] = prompt_ids, response_ids

    added = np.zeros(examples, np.int64)
    np.add.at(added, place_example, counts)
    offsets = np.concatenate([[0], np.cumsum(prompt_lengths + response_lengths + added)])
    # An example's places come in ascending order, and a pause after its last token belongs to it,
    # not to the next: so new indices are counted from the pauses, not from `before` alone.
    pause_at = inserted + np.arange(len(inserted))
    is_pause = np.zeros(offsets[-1], bool)
    is_pause[pause_at] = True
    input_ids = np.full(offsets[-1], pause_id, np.int64)
    input_ids[~is_pause] = plain
    prompt_flags = np.zeros(offsets[-1], bool)
    prompt_flags[~is_pause] = is_prompt
    return Rows(offsets, input_ids, prompt_flags, is_pause)
