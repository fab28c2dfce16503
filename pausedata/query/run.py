"""Running one query, whose rows come in batches."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb

from pausedata.query.messages import Connected, translated
from pausedata.query.session import Session
from pausedata.query.statements import Statement, parse, reading
from pausedata.query.values import as_python, portable

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 8_192


@dataclass
class Result:
    """A query's result, which is worked out when its rows are fetched, once.

    ``columns`` are unique names (a repeated one gets ``_1``, ``_2`` …), ``types`` DuckDB's types.
    ``limit`` is how many rows are given at most; ``more`` says afterwards whether it left any out,
    ``done`` whether all rows were fetched.
    """

    session: Connected
    relation: Any  # None for a statement that gives no rows and is done
    columns: list[str]
    types: list[Any]
    limit: int | None = None
    more: bool = False
    done: bool = False

    def batches(self, rows: int = 2048) -> Iterator[list[tuple[Any, ...]]]:
        """The rows as Python values, up to ``rows`` at a time, as they are found.

        Dates, times, decimals and other types that Arrow and Python have otherwise are texts.
        """
        convert = [as_python(kind) for kind in self.types]
        for batch in self.arrow(rows, as_text=True):
            columns = [
                [f(value) for value in column.to_pylist()] if f else column.to_pylist()
                for f, column in zip(convert, batch.columns, strict=True)
            ]
            yield list(zip(*columns, strict=True))

    def arrow(self, rows: int = BATCH_ROWS, as_text: bool = False) -> pa.RecordBatchReader:
        """The rows as record batches of up to ``rows``, instead of ``batches``.

        With ``as_text``, what JSON has no type for, and integers of more than 64 bits, are texts.
        The query runs beside, one batch ahead, so that Ctrl-C can stop it at any time.
        """
        import pyarrow as pa

        relation = self.relation
        if relation is None:
            return pa.RecordBatchReader.from_batches(pa.schema([]), iter([]))
        if self.limit is not None:
            relation = relation.limit(self.limit + 1)
        kinds = [portable(kind) for kind in self.types] if as_text else []
        if any(kinds):
            relation = relation.project(
                ", ".join(
                    f"CAST(#{number} AS {kind})" if kind else f"#{number}"
                    for number, kind in enumerate(kinds, 1)
                )
            )
        worker = ThreadPoolExecutor(1, thread_name_prefix="query")
        try:
            with translated(self.session):
                reader = self.wait(worker.submit(relation.to_arrow_reader, rows))
        except BaseException:
            worker.shutdown()
            raise
        schema = pa.schema(
            [f.with_name(n) for f, n in zip(reader.schema, self.columns, strict=True)]
        )
        return pa.RecordBatchReader.from_batches(schema, self._read(reader, schema, worker))

    def _read(self, reader: Any, schema: Any, worker: ThreadPoolExecutor) -> Iterator[Any]:
        import pyarrow as pa

        left = self.limit
        ahead = worker.submit(next, reader, None)
        try:
            while True:
                with translated(self.session):
                    batch = self.wait(ahead)
                if batch is None:
                    self.done = True
                    return
                if left is not None:
                    self.more = batch.num_rows > left
                    batch = batch.slice(0, left)
                    left -= batch.num_rows
                if not self.more:
                    ahead = worker.submit(next, reader, None)
                if batch.num_rows:
                    yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)
                if self.more:
                    return
        finally:  # also where the rows are not wanted any longer
            if not ahead.done():
                self.session.connection.interrupt()
            worker.shutdown()
            reader.close()

    def wait(self, future: Future[Any]) -> Any:
        """What ``future`` gives; a signal stops DuckDB, which does not see it by itself."""
        try:
            return future.result()
        except BaseException:
            # More than once: an interrupt that comes before the query begins is lost.
            while not future.done():
                self.session.connection.interrupt()
                futures.wait([future], timeout=0.05)
            raise


def run(session: Session, query: Statement | str, limit: int | None = None) -> Result:
    """Prepare one query over the views: what is wrong with its words and names is a UsageError.

    So is what does not only read, unless the session is unsafe: then a statement that is no query
    is run, once. ``limit`` is the most rows that are given (None: all).
    """
    connection = session.connection
    statement = parse(query, connection) if isinstance(query, str) else query
    if not session.unsafe:
        statement = reading(statement)
        begin(connection)
    with translated(session, statement.text):
        relation = connection.sql(statement.text)
        # What is no query was run, and its few rows are kept; DuckDB calls no rows 'Success'.
        if not statement.is_query and not relation.limit(1).fetchall():
            return Result(session, None, [], [])
    return Result(session, relation, unique(relation.columns), relation.types, limit)


def begin(connection: duckdb.DuckDBPyConnection) -> None:
    """Begin a transaction in which nothing can be written: if something slipped by, in spite of
    ``reading``, what later queries are answered from stays as it is.
    """
    end(connection)
    connection.execute("BEGIN TRANSACTION READ ONLY")


def end(connection: duckdb.DuckDBPyConnection) -> None:
    """End the transaction of the query before, if there was one."""
    with suppress(duckdb.Error):
        connection.rollback()


def unique(names: list[str]) -> list[str]:
    """The names, a repeated one with ``_1``, ``_2`` … behind it."""
    taken: set[str] = set(names)
    unique: list[str] = []
    for name in names:
        chosen, number = name, 0
        while chosen in unique or (number and chosen in taken):
            number += 1
            chosen = f"{name}_{number}"
        unique.append(chosen)
    return unique
