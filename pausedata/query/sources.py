"""Where the rows of each view come from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pausedata.query.scan import Rows
from pausedata.query.side_by_side import (
    TEXT,
    AlignedRows,
    beside,
    by_example,
    columns_of,
    constant,
    items_at,
    items_of,
    lengths_of,
    repeated,
    whole,
)
from pausedata.store.dataset import Version
from pausedata.store.tables import schema_of

_BY_EXAMPLE = frozenset({"split", "id"})


class Stored(AlignedRows):
    """A table as it is stored."""

    def __init__(self, version: Version, table: str) -> None:
        self._table = version.table(table)
        super().__init__(self._table)
        self.schema = schema_of(table).remove_metadata()
        self.stored = frozenset(self.schema.names)

    def read(self, number: int, names: Sequence[str], rows: Rows | None) -> dict[str, pa.Array]:
        """Columns of a shard."""
        return columns_of(self._table, number, names, rows)


class Examples(AlignedRows):
    """The examples, and how many tokens each has."""

    schema = pa.schema(
        [
            ("split", TEXT),  # first, since counting the rows by it opens no file
            *((f.name, f.type) for f in schema_of("examples") if f.name != "split"),
            ("n_prompt", pa.int32()),
            ("n_response", pa.int32()),
        ]
    )
    stored = frozenset(schema.names)
    _lists = {"n_prompt": "prompt_ids", "n_response": "response_ids"}

    def __init__(self, version: Version) -> None:
        self._examples, self._tokens = version.table("examples"), version.table("tokens")
        super().__init__(self._tokens, self._examples)

    def read(self, number: int, names: Sequence[str], rows: Rows | None) -> dict[str, pa.Array]:
        """Columns of a shard."""
        shard = self._examples.shards[number]
        lengths = {name: column for name, column in self._lists.items() if name in names}
        own = [name for name in names if name not in lengths and name != "split"]
        columns = columns_of(self._examples, number, [*own, *(["id"] if lengths else [])], rows)
        if lengths:
            found = beside(self._tokens, number, [*lengths.values()], rows, columns["id"])
            for name, column in lengths.items():
                columns[name] = pa.array(lengths_of(found[column]), pa.int32())
        count = shard.rows if rows is None else len(rows)
        return columns | {"split": constant(shard.split, count)}


class Tokens(AlignedRows):
    """A row for each response token, with its scores in ``run``; null where there is no run."""

    schema = pa.schema(
        [
            ("split", TEXT), ("id", TEXT), ("pos", pa.int32()), ("token_id", pa.int32()),
            ("token", TEXT), ("char_start", pa.int32()), ("char_end", pa.int32()),
            ("logprob", pa.float32()), ("rank", pa.int32()), ("entropy", pa.float32()),
        ]
    )  # fmt: skip
    stored = _BY_EXAMPLE
    _of_tokens = {
        "token_id": "response_ids", "token": "response_ids", "char_start": "char_start",
        "char_end": "char_end",
    }  # fmt: skip
    _of_scores = ("logprob", "rank", "entropy")

    def __init__(self, version: Version, run: str | None, vocabulary: Vocabulary) -> None:
        self._tokens = version.table("tokens")
        self._scores = version.table(f"scores/{run}") if run is not None else None
        self._vocabulary = vocabulary
        super().__init__(self._tokens, self._scores)

    def read(self, number: int, names: Sequence[str], rows: Rows | None) -> dict[str, pa.Array]:
        """Columns of a shard, a row for each token."""
        shard = self._tokens.shards[number]
        lists = {self._of_tokens[name] for name in names if name in self._of_tokens}
        scores = [name for name in names if name in self._of_scores]
        if self._scores is None and not lists:
            lists = {"response_ids"}  # which say how many tokens there are
        ids, parts = None, dict[str, pa.Array]()
        if lists or (self._scores is None and "id" in names):
            parts = columns_of(self._tokens, number, ["id", *lists], rows)
            ids = parts["id"]
        if self._scores is not None:
            parts |= beside(self._scores, number, ["n_tokens", *scores], rows, ids)
            ids, lengths = parts["id"], parts["n_tokens"].to_numpy().astype(np.int64)
        else:
            lengths = lengths_of(parts[min(lists)])
        total = int(lengths.sum())
        columns: dict[str, pa.Array] = {"split": constant(shard.split, total)}
        for name in names:
            if name == "id":
                columns[name] = repeated(ids, lengths)
            elif name == "pos":
                within = np.arange(total, dtype=np.int32)
                within -= np.repeat((np.cumsum(lengths) - lengths).astype(np.int32), lengths)
                columns[name] = pa.array(within)
            elif name in self._of_tokens:
                flat = items_of(parts[self._of_tokens[name]], lengths, shard.path)
                columns[name] = self._vocabulary.texts(flat) if name == "token" else flat
            elif name in scores and self._scores is None:
                columns[name] = pa.nulls(total, self.schema.field(name).type)
            elif name in scores:
                assert self._scores is not None
                columns[name] = items_of(parts[name], lengths, self._scores.shards[number].path)
        return columns

    def read_stored(self, number: int, names: Sequence[str]) -> dict[str, pa.Array]:
        """``split`` and ``id`` of each example."""
        return by_example(self._tokens, number)


class PauseRows(AlignedRows):
    """A row for each position of a placement, with the token that follows."""

    schema = pa.schema(
        [
            ("split", TEXT), ("id", TEXT), ("pos", pa.int32()), ("count", pa.int16()),
            ("token", TEXT), ("logprob", pa.float32()),
        ]
    )  # fmt: skip
    stored = _BY_EXAMPLE

    def __init__(
        self, version: Version, placement: str, run: str | None, vocabulary: Vocabulary
    ) -> None:
        self._placement = version.table(f"placements/{placement}")
        self._tokens = version.table("tokens")
        self._scores = version.table(f"scores/{run}") if run is not None else None
        self._vocabulary = vocabulary
        super().__init__(self._tokens, self._placement, self._scores)

    def read(self, number: int, names: Sequence[str], rows: Rows | None) -> dict[str, pa.Array]:
        """Columns of a shard, a row for each position."""
        shard = self._placement.shards[number]
        own = columns_of(self._placement, number, ["id", "position", "count"], rows)
        lengths = lengths_of(own["position"])
        position = items_of(own["position"], lengths, shard.path)
        columns: dict[str, pa.Array] = {
            "split": constant(shard.split, len(position)),
            "id": repeated(own["id"], lengths),
            "pos": position,
            "count": items_of(own["count"], lengths, shard.path),
        }
        if "token" in names:
            found = beside(self._tokens, number, ["response_ids"], rows, own["id"])
            chosen = items_at(found["response_ids"], position, lengths, shard.path)
            columns["token"] = self._vocabulary.texts(chosen)
        if "logprob" in names and self._scores is not None:
            found = beside(self._scores, number, ["logprob"], rows, own["id"])
            columns["logprob"] = items_at(found["logprob"], position, lengths, shard.path)
        elif "logprob" in names:
            columns["logprob"] = pa.nulls(len(position), pa.float32())
        return columns

    def read_stored(self, number: int, names: Sequence[str]) -> dict[str, pa.Array]:
        """``split`` and ``id`` of each example."""
        return by_example(self._placement, number)


class Vocabulary:
    """The tokens' texts, read when the first is asked for."""

    def __init__(self, version: Version) -> None:
        self._table = version.table("vocab")

    def texts(self, ids: pa.Array) -> pa.DictionaryArray:
        """The text of each id; null for those that are null or not in ``vocab``."""
        texts, known = self._by_id
        numbers = (ids.fill_null(-1) if ids.null_count else ids).to_numpy()
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= len(known) or texts.null_count):
            there = (numbers >= 0) & (numbers < len(known))
            there[there] = known[numbers[there]]
            ids = pa.array(numbers, mask=~there)
        return pa.DictionaryArray.from_arrays(ids, texts, safe=False)  # they were looked at

    @cached_property
    def _by_id(self) -> tuple[pa.Array, NDArray[np.bool_]]:
        """The texts in the order of ids, and whether each id has one."""
        names = ("token_id", "token")
        parts = [columns_of(self._table, k, names, None) for k in range(len(self._table.shards))]
        texts = whole(pa.chunked_array([part["token"] for part in parts], pa.string()))
        ids = np.concatenate([np.zeros(0, np.int32), *(p["token_id"].to_numpy() for p in parts)])
        places = np.full(int(ids.max(initial=-1)) + 1, -1, np.int64)
        places[ids] = np.arange(len(ids))
        by_id = texts.take(pa.array(places, mask=places < 0))
        return by_id, by_id.is_valid().to_numpy(zero_copy_only=False)
