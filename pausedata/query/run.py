"""Running one query that reads, with errors that teach."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb

from pausedata.errors import DataError, PausedataError, UsageError, nearest
from pausedata.query.views import UNUSED, VIEWS, connect
from pausedata.store.dataset import Version

_MOST = 300  # characters of DuckDB's own words that are shown
_GAP = re.compile(r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)*", re.DOTALL)
_EXPLAIN = re.compile(r"explain\b", re.IGNORECASE)
_ANALYZE = re.compile(r"(?:analy[sz]e|verbose)\b", re.IGNORECASE)
_OPTIONS = re.compile(r"\([^()']*(?:'[^']*'[^()']*)*\)")
_PIVOTING = re.compile(r"(?:\(|with\b|from\b|select\b|pivot\b|pivot_wider\b)", re.IGNORECASE)
_NO_COLUMN = re.compile(r'Referenced (?:column|table) "(.+?)" not found|a column named "(.+?)"')
_NO_EXTENSION = re.compile(r"required extension '(\w+)")
_NO_VIEW = re.compile(r"Table with name (.+?) does not exist")


@dataclass(frozen=True)
class Result:
    """A result that is fetched in batches.

    ``columns`` are unique names (a repeated one gets ``_1``, ``_2`` …), ``types`` DuckDB's types.
    """

    connection: duckdb.DuckDBPyConnection
    sql: str
    version: Version
    columns: list[str]
    types: list[Any]

    def batches(self, rows: int = 2048) -> Iterator[list[tuple[Any, ...]]]:
        """The rows as Python values, up to ``rows`` at a time; can be read once."""
        with translated(self.sql, self.version, self.connection):
            while batch := self.connection.fetchmany(rows):
                yield batch

    def arrow(self, rows: int = 65_536) -> Any:
        """The rows as a ``pyarrow.RecordBatchReader``, instead of ``batches``."""
        with translated(self.sql, self.version, self.connection):
            # Run again as a relation: Arrow from what `execute` began holds all rows in memory.
            relation: Any = self.connection.cursor().sql(self.sql)
            # DuckDB 1.4 has it under its older name alone.
            old = not hasattr(duckdb.DuckDBPyRelation, "to_arrow_reader")
            return relation.fetch_arrow_reader(rows) if old else relation.to_arrow_reader(rows)


def check_read_only(sql: str) -> None:
    """UsageError unless ``sql`` is one statement that reads: SELECT, DESCRIBE, SHOW, EXPLAIN …"""
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise UsageError(_message(error)) from None
    if not statements:
        raise UsageError("The query is empty. Try: SELECT * FROM tokens LIMIT 10")
    if len(statements) > 1:
        raise UsageError(f"Give one statement, not {len(statements)}.")
    kind = statements[0].type
    start = _skip(sql, 0)
    if kind == duckdb.StatementType.EXPLAIN:
        # EXPLAIN ANALYZE runs what it explains: that has to be a query, too.
        check_read_only(_explained(sql, start))
        return
    # DuckDB takes a PIVOT apart into several statements.
    pivot = kind == duckdb.StatementType.MULTI and _PIVOTING.match(sql, start)
    if kind != duckdb.StatementType.SELECT and not pivot:
        raise UsageError(
            f"{kind.name} is not a query: `sql` only reads. Use SELECT, DESCRIBE, SHOW, "
            "SUMMARIZE or EXPLAIN; -o FILE writes the result."
        )
    if statements[0].named_parameters:
        raise UsageError("The query has parameters (? or $name): write the values in their places.")


def run(version: Version, sql: str) -> Result:
    """Run one query over the views of ``version``. Raises UsageError where the query is wrong."""
    check_read_only(sql)
    connection = connect(version, sql)
    with translated(sql, version, connection):
        try:
            connection.execute(sql)
        except duckdb.Error as error:
            if UNUSED not in str(error):
                raise
            connection = connect(version)
            connection.execute(sql)
        described = connection.description or []
    return Result(
        connection, sql, version, _unique([d[0] for d in described]), [d[1] for d in described]
    )


@contextmanager
def translated(sql: str, version: Version, connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """DuckDB's errors as ours: one to three lines."""
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise PausedataError(
            f"The query needs more memory than there is ({_shortened(str(error))}). "
            "Select fewer columns or rows."
        ) from None
    except duckdb.InternalException:
        raise  # a defect of DuckDB's: the traceback is what helps
    except duckdb.Error as error:
        text = str(error)
        folder = str(version.folder.absolute())
        if isinstance(error, duckdb.IOException | duckdb.InvalidInputException) and folder in text:
            raise DataError(
                f"{_shortened(text)}\n`pausedata verify` says what is damaged."
            ) from None
        raise UsageError(_message(error, connection)) from None


def _message(error: duckdb.Error, connection: duckdb.DuckDBPyConnection | None = None) -> str:
    """What is wrong in one line, then DuckDB's line of the query with its caret."""
    text, _, place = str(error).partition("\n\nLINE ")
    # The overloads of a function can be dozens.
    what = _shortened(text.partition("Candidate functions:")[0])
    if column := _NO_COLUMN.search(text):
        what = _no_column(column[1] or column[2], text, connection)
    elif view := _NO_VIEW.search(text):
        name = view[1].strip('"')
        what = f"No view '{name}'.{nearest(name, VIEWS)} There: {', '.join(VIEWS)}."
    elif extension := _NO_EXTENSION.search(text):
        what = f"This needs DuckDB's extension '{extension[1]}', which `sql` does not download."
    return what + (f"\nLINE {place.rstrip()}" if place else "")


def _no_column(name: str, text: str, connection: duckdb.DuckDBPyConnection | None) -> str:
    """Names the columns nearest to ``name``: DuckDB's candidates are those of the query's views."""
    _, _, listed = text.partition("Candidate bindings:")
    hint = nearest(name, re.findall(r'"([^"]+)"', listed))
    homes: dict[str, list[str]] = {}
    for view in VIEWS if connection is not None else ():
        assert connection is not None
        for column in connection.table(view).columns:
            homes.setdefault(column, []).append(view)
    if name in homes:
        return f"No column '{name}' here; it is in {', '.join(homes[name])}." + hint
    hint = hint or nearest(name, homes)
    return f"No column '{name}'." + (hint or " `DESCRIBE tokens` lists a view's columns.")


def _explained(sql: str, start: int) -> str:
    """The statement that an EXPLAIN explains."""
    word = _EXPLAIN.match(sql, start)
    at = _skip(sql, word.end() if word else start)
    if found := _ANALYZE.match(sql, at):
        at = _skip(sql, found.end())
    # `(FORMAT json)` are options, `(SELECT 1)` is the query.
    if (found := _OPTIONS.match(sql, at)) and _skip(sql, found.end()) < len(sql.rstrip("; \n")):
        at = found.end()
    return sql[at:]


def _skip(sql: str, at: int) -> int:
    """The index of the first character at or after ``at`` that is no space or comment."""
    gap = _GAP.match(sql, at)
    return gap.end() if gap else at


def _shortened(text: str) -> str:
    """DuckDB's words on one line, without its name for the kind of error."""
    line = " ".join(re.sub(r"^[A-Z][\w -]*Error: ", "", text.strip()).split())
    return line if len(line) <= _MOST else line[: _MOST - 1] + "…"


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
