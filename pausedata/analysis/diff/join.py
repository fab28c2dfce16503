"""Which rows of two tables belong to the same example: in one version by place, else by id."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pausedata.core.errors import DataError
from pausedata.store.dataset import Table, Version
from pausedata.store.tables import list_parts

Ints = NDArray[np.integer[Any]]
FEW = 5  # ids that are named where examples were added, removed or changed
_HELD = 2  # shards of a table in memory at once


@dataclass(frozen=True)
class JoinedRows:
    """Rows of a shard of A, and as many rows of a shard of B, of the same examples in order.

    None stands for all rows of the shard.
    """

    shard_a: int
    rows_a: Ints | None
    shard_b: int
    rows_b: Ints | None


@dataclass
class Found:
    """Examples of one sort: how many, and the first few ids."""

    count: int = 0
    ids: list[str] = field(default_factory=list)

    def add(self, ids: pa.Array | pa.ChunkedArray) -> None:
        """Count these as well."""
        self.count += len(ids)
        self.ids += [id.as_py() for id in ids[: max(0, FEW - len(self.ids))]]


@dataclass
class Joined:
    """The examples of two versions. ``pairs`` are those whose response's ids are the same: their
    positions and scores can be compared token by token.
    """

    examples_a: int
    examples_b: int
    pairs: list[JoinedRows] = field(default_factory=list)
    compared: int = 0  # examples in ``pairs``
    added: Found = field(default_factory=Found)
    removed: Found = field(default_factory=Found)
    changed: Found = field(default_factory=Found)  # in both, with other token ids
    moved: Found = field(default_factory=Found)  # in both, in another split


class Rows:
    """Rows of a table by shard and number; the last shards that were read are kept in memory."""

    def __init__(self, table: Table, columns: list[str]) -> None:
        self.table = table
        self._columns = columns
        self._held: OrderedDict[int, pa.Table] = OrderedDict()

    def take(self, shard: int, rows: Ints | None) -> pa.Table:
        """These rows of the shard, in this order."""
        if shard not in self._held:
            while len(self._held) >= _HELD:
                self._held.popitem(last=False)
            self._held[shard] = self.table.read(self.table.shards[shard], self._columns)
        self._held.move_to_end(shard)
        whole = self._held[shard]
        return whole if rows is None else whole.take(pa.array(rows))


class PairedRows:
    """Rows of two tables, of the same examples in the same order."""

    def __init__(self, a: Table, b: Table, columns: list[str]) -> None:
        """``columns`` are read besides the ids."""
        self._a, self._b = Rows(a, ["id", *columns]), Rows(b, ["id", *columns])

    def take(self, pair: JoinedRows) -> tuple[pa.Table, pa.Table]:
        """The rows of ``pair`` in A and in B; DataError unless they are of the same examples."""
        one = self._a.take(pair.shard_a, pair.rows_a)
        other = self._b.take(pair.shard_b, pair.rows_b)
        if not one.column("id").equals(other.column("id")):
            raise DataError(
                f"{self.paths(pair)} do not hold the examples that tokens has there. "
                "`pausedata verify` says what is wrong."
            )
        return one, other

    def paths(self, pair: JoinedRows) -> str:
        """The two shards, for an error."""
        a, b = self._a.table.shards[pair.shard_a], self._b.table.shards[pair.shard_b]
        return f"{a.path} and {b.path}"


class MostChanged:
    """Keeps the ``most`` examples that changed most, of all that are offered."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: list[tuple[float, int, int, int, int]] = []

    def offer(self, pair: JoinedRows, change: NDArray[Any]) -> None:
        """``change``: how much each example of ``pair`` changed; 0 where it did not."""
        order = np.argsort(-change, kind="stable")[: self._most]
        new = [
            (
                float(change[i]),
                pair.shard_a,
                int(i if pair.rows_a is None else pair.rows_a[i]),
                pair.shard_b,
                int(i if pair.rows_b is None else pair.rows_b[i]),
            )
            for i in order
            if change[i] > 0
        ]
        # Of equal changes the example that was offered first stays.
        self._held = heapq.nlargest(self._most, [*self._held, *new], key=lambda held: held[0])

    def places(self) -> Iterator[JoinedRows]:
        """One pair of rows for each, the most changed first."""
        for _, shard_a, row_a, shard_b, row_b in self._held:
            yield JoinedRows(shard_a, np.array([row_a]), shard_b, np.array([row_b]))


def join(a: Version, b: Version) -> Joined:
    """Find every example of ``a`` in ``b``. Memory: the ids, and the token ids of a few shards."""
    tokens_a, tokens_b = a.table("tokens"), b.table("tokens")
    same_rows = [(s.split, s.rows) for s in tokens_a.shards] == [
        (s.split, s.rows) for s in tokens_b.shards
    ]
    joined = Joined(tokens_a.entry.rows, tokens_b.entry.rows)
    if same_rows and tokens_a.entry.content == tokens_b.entry.content:
        joined.pairs = [JoinedRows(k, None, k, None) for k in range(len(tokens_a.shards))]
        joined.compared = tokens_a.entry.rows
    else:
        _join_by_id(tokens_a, tokens_b, joined)
    return joined


def _join_by_id(tokens_a: Table, tokens_b: Table, joined: Joined) -> None:
    ids_a, ids_b = _ids(tokens_a), _ids(tokens_b)
    place = pc.index_in(ids_a, value_set=ids_b)  # pyright: ignore[reportAttributeAccessIssue]
    there = place.is_valid().to_numpy(zero_copy_only=False)
    in_b = place.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    joined.removed.add(ids_a.filter(pa.array(~there)))
    new = np.ones(len(ids_b), bool)
    new[in_b[there]] = False
    joined.added.add(ids_b.filter(pa.array(new)))

    rows = PairedRows(tokens_a, tokens_b, ["prompt_ids", "response_ids"])
    ends = np.cumsum([shard.rows for shard in tokens_b.shards])
    first = 0
    for shard_a, shard in enumerate(tokens_a.shards):
        rows_a = np.flatnonzero(there[first : first + shard.rows])
        global_b = in_b[first + rows_a]
        shards_b = np.searchsorted(ends, global_b, side="right")
        first += shard.rows
        for shard_b in np.unique(shards_b):
            here = shards_b == shard_b
            start = ends[shard_b] - tokens_b.shards[shard_b].rows
            pair = JoinedRows(shard_a, rows_a[here], int(shard_b), global_b[here] - start)
            one, other = rows.take(pair)
            response = equal_lists(one, other, "response_ids")
            same = response & equal_lists(one, other, "prompt_ids")
            joined.changed.add(one.column("id").filter(pa.array(~same)))
            if shard.split != tokens_b.shards[shard_b].split:
                joined.moved.add(one.column("id"))
            if response.any():
                assert pair.rows_a is not None and pair.rows_b is not None
                kept = JoinedRows(
                    shard_a, pair.rows_a[response], pair.shard_b, pair.rows_b[response]
                )
                joined.pairs.append(kept)
                joined.compared += int(response.sum())


def equal_lists(one: pa.Table, other: pa.Table, column: str) -> NDArray[np.bool_]:
    """For each row, whether the two tables have the same list in ``column``."""
    offsets_a, values_a = list_parts(one, column)
    offsets_b, values_b = list_parts(other, column)
    lengths = np.diff(offsets_a)
    same = lengths == np.diff(offsets_b)
    rows = np.flatnonzero(same)
    row = np.repeat(rows, lengths[rows])
    within = np.arange(len(row)) - np.repeat(
        np.cumsum(lengths[rows]) - lengths[rows], lengths[rows]
    )
    unequal = values_a[offsets_a[row] + within] != values_b[offsets_b[row] + within]
    same[row[unequal]] = False
    return same


def _ids(tokens: Table) -> pa.ChunkedArray:
    chunks = [c for s in tokens.shards for c in tokens.read(s, ["id"]).column("id").chunks]
    return pa.chunked_array(chunks, pa.string())
