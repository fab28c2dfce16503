"""What DuckDB scans instead of files: rows made of a version's shards, of the columns asked for.

DuckDB asks a ``pyarrow.dataset.Dataset`` for columns and a filter, and reads what comes as record
batches. A subclass that answers otherwise than from files is how Lance does it, too. So a query
touches the columns and shards that it needs, tables stand side by side without a join, lists become
rows without a copy, every shard is hashed before it is used, and DuckDB itself may open no file.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from numpy.typing import NDArray

from pausedata.core.errors import PausedataError

BATCH_ROWS = 262_144  # a thread of DuckDB's takes one batch at a time
AHEAD_BYTES = 256_000_000  # of files that are decoded at a time, a few times as much in memory
Rows = NDArray[np.int64]  # numbers of stored rows of a shard, ascending


class RowSource(Protocol):
    """Rows shard by shard. A stored row (an example) may give any number of rows."""

    @property
    def schema(self) -> pa.Schema:
        """The columns. The first should be cheap: DuckDB counts rows by it."""
        ...

    @property
    def stored(self) -> frozenset[str]:
        """The columns with one value for each stored row."""
        ...

    @property
    def largest(self) -> int:
        """Bytes of the largest shard's files."""
        ...

    def __len__(self) -> int:
        """How many shards there are."""
        ...

    def read(self, number: int, names: Sequence[str], rows: Rows | None) -> dict[str, pa.Array]:
        """The columns ``names`` of a shard, of all stored rows or of ``rows`` alone."""
        ...

    def read_stored(self, number: int, names: Sequence[str]) -> dict[str, pa.Array]:
        """Some of the columns ``stored``, a value for each stored row."""
        ...


class Scan(ds.Dataset):
    """A source as DuckDB takes it. ``failed`` gets what goes wrong, since DuckDB hides its kind.

    Up to ``threads`` shards are read ahead, in their order, fewer where they are large. ``keep`` is
    kept for as long as the scan is.
    """

    def __init__(
        self,
        source: RowSource,
        threads: int,
        failed: Callable[[PausedataError], None],
        keep: object = None,
    ) -> None:
        # The base class has no constructor of its own to call: it stands for files.
        self._source, self._failed, self._keep = source, failed, keep
        self._ahead = max(1, min(threads, AHEAD_BYTES // max(1, source.largest)))

    @property
    def schema(self) -> pa.Schema:
        """The source's columns."""
        return self._source.schema

    def scanner(
        self, columns: Sequence[str] | None = None, filter: Any = None, **options: Any
    ) -> Any:
        """What gives the rows on which ``filter`` is true, of ``columns`` in their order."""
        names = list(self.schema.names if columns is None else columns)
        schema = pa.schema([self.schema.field(name) for name in names])
        return _Reader(schema, self._batches(schema, filter))

    def _batches(self, schema: pa.Schema, filter: Any) -> Iterator[pa.RecordBatch]:
        """Batches in the shards' order, the next shards being read meanwhile."""
        with ThreadPoolExecutor(self._ahead) as pool:
            ahead: deque[Any] = deque()
            try:
                for number in range(len(self._source)):
                    ahead.append(pool.submit(self._shard, number, schema.names, filter))
                    if len(ahead) > self._ahead:
                        yield from _cut(ahead.popleft().result(), schema)
                while ahead:
                    yield from _cut(ahead.popleft().result(), schema)
            except PausedataError as error:
                # A copy: the traceback of this one holds the shards' rows.
                self._failed(type(error)(*error.args))
                raise
            finally:  # also where a LIMIT has enough
                pool.shutdown(wait=True, cancel_futures=True)

    def _shard(self, number: int, names: list[str], filter: Any) -> dict[str, pa.Array]:
        source = self._source
        if filter is None:
            return source.read(number, names, None)
        asked = [name for name in self.schema.names if _mentions(filter, name)]
        if source.stored.issuperset(asked):
            rows = np.flatnonzero(_true(filter, source.read_stored(number, asked)))
            return source.read(number, names, rows) if len(rows) else {}
        known = source.read(number, asked, None)
        kept = _true(filter, known)
        if not kept.any():
            return {}
        rest = [name for name in names if name not in known]
        known |= source.read(number, rest, None) if rest else {}
        mask = pa.array(kept)
        return {name: known[name].filter(mask) for name in names}


class _Reader:
    """As much of a ``pyarrow.dataset.Scanner`` as DuckDB uses."""

    def __init__(self, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        self.projected_schema = schema
        self._batches = batches

    def to_reader(self) -> pa.RecordBatchReader:
        """The rows, once."""
        return pa.RecordBatchReader.from_batches(self.projected_schema, self._batches)


def _cut(columns: dict[str, pa.Array], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    if columns:
        whole = pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)
        for start in range(0, whole.num_rows, BATCH_ROWS):
            yield whole.slice(start, BATCH_ROWS)


def _mentions(filter: Any, name: str) -> bool:
    """Whether an expression reads a column: it does not tell, but for its text.

    A value that looks like the column's name makes one be read that need not, and does no harm.
    """
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", str(filter)) is not None


def _true(filter: Any, columns: dict[str, pa.Array]) -> NDArray[np.bool_]:
    """For each row, whether ``filter`` is true: false and null are not."""
    table = pa.table(columns)
    answers = ds.Scanner.from_batches(
        table.to_batches(), schema=table.schema, columns={"kept": filter}, use_threads=False
    )
    kept = answers.to_table().column("kept").fill_null(False)
    return kept.to_numpy(zero_copy_only=False) if len(kept) else np.zeros(0, np.bool_)
