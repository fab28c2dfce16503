"""Examples as text: where pauses can stand in it, and the ids that it should give."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import Any

import numpy as np
import pyarrow as pa

from pausedata.exporters.base import Piece, TextRow
from pausedata.models.tokens import begins_character
from pausedata.store.tables import list_array, list_parts

Place = tuple[int, int]  # the position of a response token, and how many pauses stand before it


@dataclass(frozen=True)
class ExportExample:
    """One example, and what it takes to put pauses into its text."""

    id: str
    opening: str  # special tokens before the prompt that are not in its text
    prompt: str
    messages: list[dict[str, Any]]
    response: str  # of a truncated example what is left of it
    prompt_ids: list[int]
    response_ids: list[int]
    starts: list[int]  # where each response token begins in `response`
    begins: list[bool]  # whether each begins a character
    appended: int  # response tokens at the end that are not of the text: EOS, the end of a turn
    end: str  # these, as text

    @property
    def last(self) -> int:
        """The last position that text can express: after all of it, before what was appended."""
        return len(self.response_ids) - self.appended

    def can_stand(self, position: int) -> bool:
        """Whether text can express a pause at this position at all."""
        return 0 <= position <= self.last and (position == self.last or self.begins[position])

    def text(self, places: Sequence[Place], pause: str) -> TextRow:
        """The example as text, with ``places`` that ``can_stand``, ascending."""
        cuts = [
            len(self.response) if position == self.last else self.starts[position]
            for position, _ in places
        ]
        pieces: list[Piece] = []
        before = 0
        for cut, (_, count) in zip(cuts, places, strict=True):
            pieces += [Piece(self.response[before:cut], False), Piece(pause * count, True)]
            before = cut
        pieces.append(Piece(self.response[before:], False))
        kept = tuple(piece for piece in pieces if piece.text)
        return TextRow(self.id, self.opening, self.prompt, self.messages, kept, self.end)

    def ids(self, places: Sequence[Place], pause_id: int) -> list[int]:
        """The ids that the text should give: prompt, response and pauses."""
        made = list(self.prompt_ids)
        before = 0
        for position, count in places:
            made += self.response_ids[before:position] + [pause_id] * count
            before = position
        return made + self.response_ids[before:]


def read_examples(
    examples: pa.Table,
    tokens: pa.Table,
    messages: Sequence[list[dict[str, Any]]],
    ends: np.ndarray,
    specials: Mapping[int, str],
) -> Iterator[ExportExample]:
    """The examples of tables that hold the same ones; ``ends``: appended tokens of each.

    ``specials``: the special tokens' texts, by id.
    """
    offsets, response_ids = list_parts(tokens, "response_ids")
    _, starts = list_parts(tokens, "char_start")
    _, char_end = list_parts(tokens, "char_end")
    begins = begins_character(starts, char_end, offsets)
    prompt_offsets, prompt_ids = list_parts(tokens, "prompt_ids")
    texts = examples.select(["id", "prompt", "response"]).to_pydict()
    bounds = pairwise(offsets.tolist())
    prompts = pairwise(prompt_offsets.tolist())
    for k, ((first, last), (front, back)) in enumerate(zip(bounds, prompts, strict=True)):
        prompt, ids = prompt_ids[front:back].tolist(), response_ids[first:last].tolist()
        appended = ids[len(ids) - int(ends[k]) :]
        yield ExportExample(
            texts["id"][k],
            _opening(prompt, texts["prompt"][k], specials),
            texts["prompt"][k],
            messages[k],
            texts["response"][k][: int(char_end[last - 1]) if last > first else 0],
            prompt,
            ids,
            starts[first:last].tolist(),
            begins[first:last].tolist(),
            len(appended),
            "".join(specials.get(token, "") for token in appended),
        )


def _opening(ids: Sequence[int], text: str, specials: Mapping[int, str]) -> str:
    """The special tokens that ``ids`` begin with, as text, unless ``text`` begins with them."""
    found = "".join(specials[token] for token in takewhile(specials.__contains__, ids))
    return "" if text.startswith(found) else found


def read_places(placement: pa.Table) -> list[list[Place]]:
    """The places of each example."""
    offsets, positions = list_parts(placement, "position")
    _, counts = list_parts(placement, "count")
    pairs = list(zip(positions.tolist(), counts.tolist(), strict=True))
    return [pairs[a:b] for a, b in pairwise(offsets.tolist())]


def as_placement(places: list[list[Place]]) -> pa.Table:
    """Places as the columns of a placement."""
    offsets = np.concatenate([[0], np.cumsum([len(own) for own in places])]).astype(np.int64)
    flat = [place for own in places for place in own]
    return pa.table(
        {
            "position": list_array(offsets, [p for p, _ in flat], pa.int32()),
            "count": list_array(offsets, [c for _, c in flat], pa.int16()),
        }
    )


def read_messages(examples: pa.Table) -> list[list[dict[str, Any]]]:
    """The prompts as messages, of a dataset that was built from messages; else empty ones."""
    if "messages" not in examples.column_names:
        return [[] for _ in range(examples.num_rows)]
    return [json.loads(text) for text in examples.column("messages").to_pylist()]
