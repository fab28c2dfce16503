"""Prompts put through a chat template anew; the response keeps its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pausedata.exporters.reader import Reader
from pausedata.exporters.sequences import Int
from pausedata.store.tables import list_parts

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Rendered:
    """Examples and tokens with other prompts, and ends of turns in place of EOS."""

    examples: pa.Table
    tokens: pa.Table
    messages: list[Messages]
    ends: Int  # how many of each response's tokens were appended: [examples]


def render(
    examples: pa.Table,
    tokens: pa.Table,
    messages: list[Messages],
    ends: Int,
    system: str | None,
    reader: Reader,
) -> Rendered:
    """Every prompt through the reader's chat template; a plain text becomes the user's turn.

    ``system`` takes the place of a system message that is there.
    """
    prompts = examples.column("prompt").to_pylist()
    messages = [
        own or [{"role": "user", "content": prompt}]
        for own, prompt in zip(messages, prompts, strict=True)
    ]
    if system is not None:
        first = {"role": "system", "content": system}
        messages = [[first, *(m for m in own if m["role"] != "system")] for own in messages]
    prompts = [reader.chat(own, answered=False) for own in messages]
    columns = {"prompt_ids": reader.encode(prompts, special=False)}
    columns |= _with_ends(tokens, ends, reader.turn_end_ids)
    for name, values in columns.items():
        tokens = _replace(tokens, name, values)
    examples = _replace(examples, "prompt", prompts)
    return Rendered(examples, tokens, messages, np.where(ends > 0, len(reader.turn_end_ids), 0))


def _with_ends(tokens: pa.Table, ends: Int, end_ids: list[int]) -> dict[str, list[list[int]]]:
    """Responses that end in ``end_ids`` where something else was appended to them."""
    offsets, ids = list_parts(tokens, "response_ids")
    _, starts = list_parts(tokens, "char_start")
    _, stops = list_parts(tokens, "char_end")
    found: dict[str, list[list[int]]] = {"response_ids": [], "char_start": [], "char_end": []}
    for k in range(tokens.num_rows):
        first, last = int(offsets[k]), int(offsets[k + 1])
        text, added = last - int(ends[k]), len(end_ids) if ends[k] else 0
        behind = [int(stops[last - 1])] * added  # the text's length
        found["response_ids"].append(ids[first:text].tolist() + end_ids[:added])
        found["char_start"].append(starts[first:text].tolist() + behind)
        found["char_end"].append(stops[first:text].tolist() + behind)
    return found


def _replace(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    at = table.schema.get_field_index(name)
    field = table.schema.field(at)
    return table.set_column(at, field, pa.array(values, field.type))
