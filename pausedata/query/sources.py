"""Where the rows of each view come from: the shards that stand side by side, zipped."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pausedata.errors import DataError
from pausedata.query.scan import Rows
from pausedata.store.dataset import Table, Version, check_shards
from pausedata.store.tables import schema_of

_TEXT = pa.dictionary(pa.int32(), pa.string())  # few different values, or each many times
_BY_EXAMPLE = frozenset({"split", "id"})
_ADVICE = "`pausedata verify` says what is wrong."


class Stored:
    """A table as it is stored."""

    def __init__(self, version: Version, table: str) -> None:
        self._table = version.table(table)
        self.schema = schema_of(table).remove_metadata()
        self.stored = frozenset(self.schema.names)

    def __len__(self) -> int:
        return len(self._table.shards)

    def read(self, number: int, names: Sequence[str], rows: Rows | None) -> dict[str, pa.Array]:
        """Columns of a shard."""
        return _columns(self._table, number, names, rows)

    def read_stored(self, number: int, names: Sequence[str]) -> dict[str, pa.Array]:
        """The same: a row for each stored row."""
        return self.read(number, names, None)


class Examples:
    """The examples, and how many tokens each has."""

    schema = pa.schema(
        [
            ("split", _TEXT),  # first, since counting the rows by it opens no file
            *((f.name, f.type) for f in schema_of("examples") if f.name != "split"),
            ("n_prompt", pa.int32()),
            ("n_response", pa.int32()),
        ]
    )
    stored = frozenset(schema.names)
    _lists = {"n_prompt": "prompt_ids", "n_response": "response_ids"}

    def __init__(self, version: Version) -> None:
        self._examples, self._tokens = version.table("examples"), version.table("tokens")
        check_shards(self._examples, self._tokens)

    def __len__(self) -> int:
        return len(self._examples.shards)

    def read(self, number: int, names: Sequence[str], rows: Rows | None) -> dict[str, pa.Array]:
        """Columns of a shard."""
        shard = self._examples.shards[number]
        lengths = {name: column for name, column in self._lists.items() if name in names}
        own = [name for name in names if name not in lengths and name != "split"]
        columns = _columns(self._examples, number, [*own, *(["id"] if lengths else [])], rows)
        if lengths:
            beside = _beside(self._tokens, number, [*lengths.values()], rows, columns["id"])
            for name, column in lengths.items():
                columns[name] = pa.array(_lengths(beside[column]), pa.int32())
        count = shard.rows if rows is None else len(rows)
        return columns | {"split": _constant(shard.split, count)}

    def read_stored(self, number: int, names: Sequence[str]) -> dict[str, pa.Array]:
        """The same: a row for each example."""
        return self.read(number, names, None)


class Tokens:
    """A row for each response token, with its scores in ``run``; null where there is no run."""

    schema = pa.schema(
        [
            ("split", _TEXT), ("id", _TEXT), ("pos", pa.int32()), ("token_id", pa.int32()),
            ("token", _TEXT), ("char_start", pa.int32()), ("char_end", pa.int32()),
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
        if self._scores is not None:
            check_shards(self._scores, self._tokens)

    def __len__(self) -> int:
        return len(self._tokens.shards)

    def read(self, number: int, names: Sequence[str], rows: Rows | None) -> dict[str, pa.Array]:
        """Columns of a shard, a row for each token."""
        shard = self._tokens.shards[number]
        lists = {self._of_tokens[name] for name in names if name in self._of_tokens}
        scores = [name for name in names if name in self._of_scores]
        if self._scores is None and not lists:
            lists = {"response_ids"}  # which say how many tokens there are
        ids, parts = None, dict[str, pa.Array]()
        if lists or (self._scores is None and "id" in names):
            parts = _columns(self._tokens, number, ["id", *lists], rows)
            ids = parts["id"]
        if self._scores is not None:
            parts |= _beside(self._scores, number, ["n_tokens", *scores], rows, ids)
            ids, lengths = parts["id"], parts["n_tokens"].to_numpy().astype(np.int64)
        else:
            lengths = _lengths(parts[min(lists)])
        total = int(lengths.sum())
        columns: dict[str, pa.Array] = {"split": _constant(shard.split, total)}
        for name in names:
            if name == "id":
                columns[name] = _repeated(ids, lengths)
            elif name == "pos":
                starts = np.cumsum(lengths) - lengths
                within = np.arange(total) - np.repeat(starts, lengths)
                columns[name] = pa.array(within.astype(np.int32))
            elif name in self._of_tokens:
                flat = _flat(parts[self._of_tokens[name]], lengths, shard.path)
                columns[name] = self._vocabulary.texts(flat) if name == "token" else flat
            elif name in scores and self._scores is None:
                columns[name] = pa.nulls(total, self.schema.field(name).type)
            elif name in scores:
                assert self._scores is not None
                columns[name] = _flat(parts[name], lengths, self._scores.shards[number].path)
        return columns

    def read_stored(self, number: int, names: Sequence[str]) -> dict[str, pa.Array]:
        """``split`` and ``id`` of each example."""
        return _by_example(self._tokens, number)


class Pauses:
    """A row for each position of a placement, with the token that follows."""

    schema = pa.schema(
        [
            ("split", _TEXT), ("id", _TEXT), ("pos", pa.int32()), ("count", pa.int16()),
            ("token", _TEXT), ("logprob", pa.float32()),
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
        for table in (self._placement, *([self._scores] if self._scores else [])):
            check_shards(table, self._tokens)

    def __len__(self) -> int:
        return len(self._placement.shards)

    def read(self, number: int, names: Sequence[str], rows: Rows | None) -> dict[str, pa.Array]:
        """Columns of a shard, a row for each position."""
        shard = self._placement.shards[number]
        own = _columns(self._placement, number, ["id", "position", "count"], rows)
        lengths = _lengths(own["position"])
        position = _flat(own["position"], lengths, shard.path)
        columns: dict[str, pa.Array] = {
            "split": _constant(shard.split, len(position)),
            "id": _repeated(own["id"], lengths),
            "pos": position,
            "count": _flat(own["count"], lengths, shard.path),
        }
        if "token" in names:
            beside = _beside(self._tokens, number, ["response_ids"], rows, own["id"])
            chosen = _at(beside["response_ids"], position, lengths, shard.path)
            columns["token"] = self._vocabulary.texts(chosen)
        if "logprob" in names and self._scores is not None:
            beside = _beside(self._scores, number, ["logprob"], rows, own["id"])
            columns["logprob"] = _at(beside["logprob"], position, lengths, shard.path)
        elif "logprob" in names:
            columns["logprob"] = pa.nulls(len(position), pa.float32())
        return columns

    def read_stored(self, number: int, names: Sequence[str]) -> dict[str, pa.Array]:
        """``split`` and ``id`` of each example."""
        return _by_example(self._placement, number)


class Spans:
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
        check_shards(self._examples, self._tokens)

    def __len__(self) -> int:
        return len(self._tokens.shards)

    def read(self, number: int, names: Sequence[str], rows: Rows | None) -> dict[str, pa.Array]:
        """Columns of a shard."""
        needed = [column for name in names for column in self._of_tokens.get(name, [])]
        stored = _columns(self._tokens, number, ["id", *needed], rows)
        columns: dict[str, pa.Array] = {}
        for name in names:
            if name == "pd_response":
                beside = _beside(self._examples, number, ["response"], rows, stored["id"])
                columns[name] = beside["response"]
            elif name == "pd_added":
                columns[name] = self._added(stored, self._tokens.shards[number].path)
            else:
                columns[name] = stored[self._of_tokens[name][0]]
        return columns

    def _added(self, stored: dict[str, pa.Array], path: str) -> pa.ListArray:
        ids = stored["response_ids"]
        lengths = _lengths(ids)
        start, end = (
            _flat(stored[n], lengths, path).to_numpy() for n in ("char_start", "char_end")
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

    def read_stored(self, number: int, names: Sequence[str]) -> dict[str, pa.Array]:
        """The same: a row for each example."""
        return self.read(number, names, None)


class Cuts:
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
        for table in (self._placement, self._examples):
            check_shards(table, self._tokens)

    def __len__(self) -> int:
        return len(self._placement.shards)

    def read(self, number: int, names: Sequence[str], rows: Rows | None) -> dict[str, pa.Array]:
        """Columns of a shard."""
        own = {"pd_cut": "position", "pd_count": "count"}
        needed = [own[name] for name in names if name in own]
        stored = _columns(self._placement, number, ["id", *needed], rows)
        columns = {"pd_id": stored["id"]}
        if "pd_count" in names:
            columns["pd_count"] = stored["count"]
        if "pd_response" in names or "pd_cut" in names:
            beside = _beside(self._examples, number, ["response"], rows, stored["id"])
            columns["pd_response"] = beside["response"]
        if "pd_cut" in names:
            beside = _beside(self._tokens, number, ["char_start"], rows, stored["id"])
            columns["pd_cut"] = self._cut(
                stored["position"], beside["char_start"], columns["pd_response"], number
            )
        return columns

    def _cut(
        self, positions: pa.ListArray, starts: pa.ListArray, responses: pa.Array, number: int
    ) -> pa.ListArray:
        import pyarrow.compute as pc  # it takes a while, and nothing else needs it

        lengths, path = _lengths(positions), self._placement.shards[number].path
        begins = _at(starts, _flat(positions, lengths, path), lengths, path)
        characters = pc.utf8_length(responses)  # pyright: ignore[reportAttributeAccessIssue]
        ends = np.repeat(characters.to_numpy(), lengths)
        cuts = begins.fill_null(pa.array(ends, pa.int32()))
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), cuts)

    def read_stored(self, number: int, names: Sequence[str]) -> dict[str, pa.Array]:
        """The same: a row for each example."""
        return self.read(number, names, None)


class Vocabulary:
    """The tokens' texts, read when the first is asked for."""

    def __init__(self, version: Version) -> None:
        self._table = version.table("vocab")

    def texts(self, ids: pa.Array) -> pa.DictionaryArray:
        """The text of each id; null for those that are null or not in ``vocab``."""
        texts, known = self._by_id
        numbers = ids.fill_null(-1).to_numpy()
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= len(known) or texts.null_count):
            there = (numbers >= 0) & (numbers < len(known))
            there[there] = known[numbers[there]]
            ids = pa.array(numbers, mask=~there)
        return pa.DictionaryArray.from_arrays(ids, texts)

    @cached_property
    def _by_id(self) -> tuple[pa.Array, NDArray[np.bool_]]:
        """The texts in the order of ids, and whether each id has one."""
        names = ("token_id", "token")
        parts = [_columns(self._table, k, names, None) for k in range(len(self._table.shards))]
        texts = _whole(pa.chunked_array([part["token"] for part in parts], pa.string()))
        ids = np.concatenate([np.zeros(0, np.int32), *(p["token_id"].to_numpy() for p in parts)])
        places = np.full(int(ids.max(initial=-1)) + 1, -1, np.int64)
        places[ids] = np.arange(len(ids))
        by_id = texts.take(pa.array(places, mask=places < 0))
        return by_id, by_id.is_valid().to_numpy(zero_copy_only=False)


def _columns(
    table: Table, number: int, names: Sequence[str], rows: Rows | None
) -> dict[str, pa.Array]:
    """Columns of one shard as they are stored, of all rows or of ``rows``."""
    names = list(dict.fromkeys(names))
    if not names:
        return {}
    read = table.read(table.shards[number], names)
    if rows is not None:
        read = read.take(pa.array(rows))
    schema = schema_of(table.name)
    return {name: _whole(read.column(name).cast(schema.field(name).type)) for name in names}


def _beside(
    table: Table, number: int, names: Sequence[str], rows: Rows | None, ids: pa.Array | None
) -> dict[str, pa.Array]:
    """The same of a table that stands beside; DataError where it does not hold ``ids``."""
    columns = _columns(table, number, ["id", *names], rows)
    if ids is not None and not columns["id"].equals(ids):
        path = table.shards[number].path
        raise DataError(f"{path}: has other examples than the shards beside it. {_ADVICE}")
    return columns


def _by_example(table: Table, number: int) -> dict[str, pa.Array]:
    ids = _columns(table, number, ["id"], None)["id"]
    return {"id": ids, "split": _constant(table.shards[number].split, len(ids))}


def _whole(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _lengths(lists: pa.ListArray) -> NDArray[np.int64]:
    return np.diff(lists.offsets.to_numpy()).astype(np.int64)


def _constant(text: str | None, count: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(count, np.int32)), pa.array([text], pa.string())
    )


def _repeated(values: pa.Array, lengths: NDArray[np.int64]) -> pa.DictionaryArray:
    """Each value ``lengths`` times, stored once."""
    numbers = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    return pa.DictionaryArray.from_arrays(pa.array(numbers), values)


def _flat(lists: pa.Array, lengths: NDArray[np.int64], path: str) -> pa.Array:
    """The items of all lists one after another; nulls where there are no lists at all.

    DataError where a list is not as long as ``lengths`` says.
    """
    if lists.null_count == len(lists):
        return pa.nulls(int(lengths.sum()), lists.type.value_type)
    if lists.null_count or not np.array_equal(np.diff(lists.offsets.to_numpy()), lengths):
        raise DataError(f"{path}: a list is missing, or not as long as the others. {_ADVICE}")
    return lists.flatten()


def _at(lists: pa.Array, position: pa.Array, lengths: NDArray[np.int64], path: str) -> pa.Array:
    """The items at ``position`` (``lengths`` of them in each list); null for the end of a list."""
    offsets = lists.offsets.to_numpy().astype(np.int64)
    row = np.repeat(np.arange(len(lengths)), lengths)
    own, place = np.diff(offsets)[row], position.to_numpy()
    if ((place < 0) | (place > own)).any():
        raise DataError(f"{path}: a position lies beyond its response. {_ADVICE}")
    if lists.null_count:
        raise DataError(f"{path}: a list is missing beside it. {_ADVICE}")
    index = (offsets - offsets[0])[row] + place
    return lists.flatten().take(pa.array(index, mask=place >= own))
