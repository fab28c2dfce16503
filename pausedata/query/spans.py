"""What the functions of ``macros`` read: the texts of responses, and where things stand in them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pausedata.query.scan import Rows
from pausedata.query.side_by_side import (
    AlignedRows,
    beside,
    columns_of,
    items_at,
    items_of,
    lengths_of,
)
from pausedata.query.sources import Vocabulary
from pausedata.store.dataset import Version


class Spans(AlignedRows):
    """The responses and where their tokens lie in them, for the functions: a row an example.

    ``pd_added`` holds the texts of the tokens at the end that have no characters, an EOS for one.
    """

    schema = pa.schema(
        [
            ("pd_id", pa.string()), ("pd_response", pa.string()), ("pd_ids", pa.list_(pa.int32())),
            ("pd_start", pa.list_(pa.int32())), ("pd_end", pa.list_(pa.int32())),
            ("pd_added", pa.list_(pa.string())),
        ]
    )  # fmt: skip
    stored = frozenset(schema.names)
    _of_tokens = {
        "pd_id": ["id"], "pd_ids": ["response_ids"], "pd_start": ["char_start"],
        "pd_end": ["char_end"], "pd_added": ["response_ids", "char_start", "char_end"],
    }  # fmt: skip

    def __init__(self, version: Version, vocabulary: Vocabulary) -> None:
        self._examples, self._tokens = version.table("examples"), version.table("tokens")
        self._vocabulary = vocabulary
        super().__init__(self._tokens, self._examples)

    def read(self, number: int, names: Sequence[str], rows: Rows | None) -> dict[str, pa.Array]:
        """Columns of a shard."""
        needed = [column for name in names for column in self._of_tokens.get(name, [])]
        stored = columns_of(self._tokens, number, ["id", *needed], rows)
        columns: dict[str, pa.Array] = {}
        for name in names:
            if name == "pd_response":
                found = beside(self._examples, number, ["response"], rows, stored["id"])
                columns[name] = found["response"]
            elif name == "pd_added":
                columns[name] = self._added(stored, self._tokens.shards[number].path)
            else:
                columns[name] = stored[self._of_tokens[name][0]]
        return columns

    def _added(self, stored: dict[str, pa.Array], path: str) -> pa.ListArray:
        ids = stored["response_ids"]
        lengths = lengths_of(ids)
        start, end = (
            items_of(stored[n], lengths, path).to_numpy() for n in ("char_start", "char_end")
        )
        # From the ends backwards, since there are few: of each list, those found so far.
        found, behind, rows = np.zeros_like(lengths), np.cumsum(lengths), np.flatnonzero(lengths)
        while len(rows):
            token = behind[rows] - 1 - found[rows]
            rows = rows[start[token] == end[token]]
            found[rows] += 1
            rows = rows[found[rows] < lengths[rows]]
        offsets = np.concatenate([[0], np.cumsum(found)])
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], found)
        chosen = ids.flatten().take(pa.array(np.repeat(behind - found, found) + within))
        texts = self._vocabulary.texts(chosen).dictionary_decode()
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), texts)


class Cuts(AlignedRows):
    """The responses and where a placement's pauses stand in them, for the functions.

    Before the characters ``pd_cut`` [places], ascending, stand ``pd_count`` [places] pauses each.
    """

    schema = pa.schema(
        [
            ("pd_id", pa.string()), ("pd_response", pa.string()),
            ("pd_cut", pa.list_(pa.int32())), ("pd_count", pa.list_(pa.int16())),
        ]
    )  # fmt: skip
    stored = frozenset(schema.names)

    def __init__(self, version: Version, placement: str) -> None:
        self._placement = version.table(f"placements/{placement}")
        self._examples, self._tokens = version.table("examples"), version.table("tokens")
        super().__init__(self._tokens, self._placement, self._examples)

    def read(self, number: int, names: Sequence[str], rows: Rows | None) -> dict[str, pa.Array]:
        """Columns of a shard."""
        own = {"pd_cut": "position", "pd_count": "count"}
        needed = [own[name] for name in names if name in own]
        stored = columns_of(self._placement, number, ["id", *needed], rows)
        columns = {"pd_id": stored["id"]}
        if "pd_count" in names:
            columns["pd_count"] = stored["count"]
        if "pd_response" in names or "pd_cut" in names:
            found = beside(self._examples, number, ["response"], rows, stored["id"])
            columns["pd_response"] = found["response"]
        if "pd_cut" in names:
            found = beside(self._tokens, number, ["char_start"], rows, stored["id"])
            columns["pd_cut"] = self._cut(
                stored["position"], found["char_start"], columns["pd_response"], number
            )
        return columns

    def _cut(
        self, positions: pa.ListArray, starts: pa.ListArray, responses: pa.Array, number: int
    ) -> pa.ListArray:
        import pyarrow.compute as pc  # it takes a while, and nothing else needs it

        lengths, path = lengths_of(positions), self._placement.shards[number].path
        begins = items_at(starts, items_of(positions, lengths, path), lengths, path)
        characters = pc.utf8_length(responses)  # pyright: ignore[reportAttributeAccessIssue]
        ends = np.repeat(characters.to_numpy(), lengths)
        cuts = begins.fill_null(pa.array(ends, pa.int32()))
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), cuts)
