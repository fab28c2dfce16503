"""Running one query, whose rows come in batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb

from pausedata.query.messages import translated
from pausedata.query.session import Session
from pausedata.query.statements import check_read_only, is_query, split


@dataclass(frozen=True)
class Result:
    """A query's result, which is worked out when its rows are fetched, once.

    ``columns`` are unique names (a repeated one gets ``_1``, ``_2`` …), ``types`` DuckDB's types.
    A statement of an unsafe session that is no query has been run already: ``sql`` is None, and
    ``columns`` are empty where it gives no rows.
    """

    session: Session
    sql: str | None
    relation: Any
    columns: list[str]
    types: list[Any]

    def batches(self, rows: int = 2048) -> Iterator[list[tuple[Any, ...]]]:
        """The rows as Python values, up to ``rows`` at a time, as they are found."""
        if not self.columns:
            return
        with translated(self.session):
            if self.sql is None:
                yield self.relation.fetchall()
                return
            # Not from the relation, which would hold all rows.
            connection = self.session.connection.execute(self.sql)
            while batch := connection.fetchmany(rows):
                yield batch

    def arrow(self, rows: int = 65_536) -> Any:
        """The rows as a ``pyarrow.RecordBatchReader``, instead of ``batches``."""
        with translated(self.session):
            # DuckDB 1.4 has it under its older name alone.
            new = hasattr(duckdb.DuckDBPyRelation, "to_arrow_reader")
            relation = self.relation
            return relation.to_arrow_reader(rows) if new else relation.fetch_arrow_reader(rows)


def run(session: Session, sql: str) -> Result:
    """Prepare one query over the views: what is wrong with its words and names is a UsageError.

    So is what does not only read, unless the session is unsafe: then ``sql`` may be several
    statements of any kind, which are run, and the result is the last one's.
    """
    # Of its own, so that what runs on the connection goes on.
    parser = session.connection.cursor()
    if not session.unsafe:
        check_read_only(sql, parser)
        return _query(session, sql)
    *before, last = split(sql, parser)
    for statement in before:
        _execute(session, statement)
    return _query(session, last) if is_query(last, parser) else _execute(session, last)


def _query(session: Session, sql: str) -> Result:
    with translated(session):
        relation = session.connection.sql(sql)
    return Result(session, sql, relation, _unique(relation.columns), relation.types)


def _execute(session: Session, sql: str) -> Result:
    """Run a statement now, once."""
    connection = session.connection
    with translated(session):
        connection.execute(sql)
        # DuckDB 1.4 has it under its older name alone.
        new = hasattr(connection, "to_arrow_table")
        table = getattr(connection, "to_arrow_table" if new else "fetch_arrow_table")()
        relation = connection.from_arrow(table)
    given = bool(table.num_rows)  # DuckDB calls nothing 'Success' or 'Count', with no row
    columns = _unique(relation.columns) if given else []
    return Result(session, None, relation, columns, relation.types if given else [])


def _unique(names: list[str]) -> list[str]:
    taken: set[str] = set(names)
    unique: list[str] = []
    for name in names:
        chosen, number = name, 0
        while chosen in unique or (number and chosen in taken):
            number += 1
            chosen = f"{name}_{number}"
        unique.append(chosen)
    return unique
