"""Tables whose shards stand side by side, zipped: without a join, and without a copy of a list."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pausedata.core.errors import DataError
from pausedata.query.scan import Rows
from pausedata.store.dataset import Table, check_shards
from pausedata.store.tables import schema_of

TEXT = pa.dictionary(pa.int32(), pa.string())  # few different values, or each many times
_ADVICE = "`pausedata verify` says what is wrong."


class AlignedRows(ABC):
    """What the sources (``query.scan.Source``) have in common; DataError where shards differ."""

    schema: pa.Schema
    stored: frozenset[str]

    def __init__(self, first: Table, *others: Table | None) -> None:
        tables = [first, *(table for table in others if table is not None)]
        for table in tables[1:]:
            check_shards(table, first)
        sizes = [
            sum(shard.bytes for shard in shards)
            for shards in zip(*(t.shards for t in tables), strict=True)
        ]
        self.largest, self._count = max(sizes, default=0), len(sizes)

    def __len__(self) -> int:
        return self._count

    @abstractmethod
    def read(self, number: int, names: Sequence[str], rows: Rows | None) -> dict[str, pa.Array]:
        """Columns of a shard."""

    def read_stored(self, number: int, names: Sequence[str]) -> dict[str, pa.Array]:
        """Columns of a whole shard, with one row for each stored row."""
        return self.read(number, names, None)


def columns_of(
    table: Table, number: int, names: Sequence[str], rows: Rows | None
) -> dict[str, pa.Array]:
    """Columns of one shard as they are stored, of all rows or of ``rows``."""
    names = list(dict.fromkeys(names))
    if not names:
        return {}
    read = table.read(table.shards[number], names, threads=False)  # others are read meanwhile
    if rows is not None:
        read = read.take(pa.array(rows))
    schema = schema_of(table.name)
    return {name: whole(read.column(name).cast(schema.field(name).type)) for name in names}


def beside(
    table: Table, number: int, names: Sequence[str], rows: Rows | None, ids: pa.Array | None
) -> dict[str, pa.Array]:
    """Columns of shard ``number`` of ``table``; DataError unless its examples are ``ids``."""
    columns = columns_of(table, number, ["id", *names], rows)
    if ids is not None and not columns["id"].equals(ids):
        path = table.shards[number].path
        raise DataError(f"{path}: has other examples than the shards beside it. {_ADVICE}")
    return columns


def by_example(table: Table, number: int) -> dict[str, pa.Array]:
    """``id`` and ``split`` of each example of a shard."""
    ids = columns_of(table, number, ["id"], None)["id"]
    return {"id": ids, "split": constant(table.shards[number].split, len(ids))}


def whole(column: pa.ChunkedArray) -> pa.Array:
    """The column in one piece, without a copy where it is in one."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def lengths_of(lists: pa.ListArray) -> NDArray[np.int64]:
    """How long each list is."""
    return np.diff(lists.offsets.to_numpy()).astype(np.int64)


def constant(text: str | None, count: int) -> pa.DictionaryArray:
    """``text`` so many times, stored once."""
    return pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(count, np.int32)), pa.array([text], pa.string()), safe=False
    )


def repeated(values: pa.Array, lengths: NDArray[np.int64]) -> pa.DictionaryArray:
    """Each value ``lengths`` times, stored once."""
    numbers = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    return pa.DictionaryArray.from_arrays(pa.array(numbers), values, safe=False)


def items_of(lists: pa.Array, lengths: NDArray[np.int64], path: str) -> pa.Array:
    """The items of all lists one after another; nulls where there are no lists at all.

    DataError where a list is not as long as ``lengths`` says.
    """
    if lists.null_count == len(lists):
        return pa.nulls(int(lengths.sum()), lists.type.value_type)
    if lists.null_count or not np.array_equal(np.diff(lists.offsets.to_numpy()), lengths):
        raise DataError(f"{path}: a list is missing, or not as long as the others. {_ADVICE}")
    return lists.flatten()


def items_at(
    lists: pa.Array, position: pa.Array, lengths: NDArray[np.int64], path: str
) -> pa.Array:
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
