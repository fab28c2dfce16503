"""Renders prompts again, through another chat template; responses keep their tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pausedata.core.errors import UsageError
from pausedata.exporters.examples import Place, as_placement, read_places
from pausedata.exporters.reader import Reader
from pausedata.exporters.sequences import Int
from pausedata.store.tables import list_parts

Messages = list[dict[str, Any]]
_PROBE = "What7is7rendered"


@dataclass(frozen=True)
class RenderedChat:
    """Examples with prompts rendered anew, and with the end of a turn in place of EOS."""

    examples: pa.Table
    tokens: pa.Table
    messages: list[Messages]
    ends: Int  # how many of each response's tokens were appended: [examples]
    was: Int  # and how many were, before: [examples]

    def placed(self, placement: pa.Table) -> pa.Table:
        """``placement`` over these tokens.

        Pauses before a token of the text stay where they are, those after the last token stay
        last, and those among appended tokens stay among appended tokens.
        """
        if (self.ends == self.was).all():
            return placement
        offsets, _ = list_parts(self.tokens, "response_ids")
        lengths = np.diff(offsets)
        found: list[list[Place]] = []
        for places, last, now, was in zip(
            read_places(placement), lengths.tolist(), self.ends.tolist(), self.was.tolist(),
            strict=True,
        ):  # fmt: skip
            text = last - now
            moved: dict[int, int] = {}
            for position, count in places:
                if position >= text + was:
                    position = last
                elif position > text:
                    position = max(text, min(position, last - 1))
                moved[position] = moved.get(position, 0) + count
            found.append(sorted(moved.items()))
        return as_placement(found)


def render(
    examples: pa.Table,
    tokens: pa.Table,
    messages: list[Messages],
    ends: Int,
    system: str | None,
    reader: Reader,
) -> RenderedChat:
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
    if messages:
        _check_complete(messages[0], reader)
    columns = {"prompt_ids": reader.encode(prompts, special=False)}
    columns |= _with_ends(tokens, ends, reader.turn_end_ids)
    for name, values in columns.items():
        tokens = _replace(tokens, name, values)
    examples = _replace(examples, "prompt", prompts)
    now = np.where(ends > 0, len(reader.turn_end_ids), 0)
    return RenderedChat(examples, tokens, messages, now, ends)


def _check_complete(messages: Messages, reader: Reader) -> None:
    """UsageError where the template leaves out a message.

    To Jinja a misspelled name is an empty text, and some templates know no system message.
    """
    for k, message in enumerate(messages):
        if not isinstance(message.get("content"), str) or message["role"] == "assistant":
            continue  # some leave out the reasoning of earlier replies
        probed = [*messages[:k], {**message, "content": _PROBE}, *messages[k + 1 :]]
        if _PROBE not in reader.chat(probed, answered=False):
            raise UsageError(
                f"the chat template leaves out the {message['role']} message: what it says would "
                "not be in the rows. Mend the template, or name another (--chat-template)."
            )


def _with_ends(tokens: pa.Table, ends: Int, end_ids: list[int]) -> dict[str, list[list[int]]]:
    """Columns of responses that end in ``end_ids`` where something was appended to them."""
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
