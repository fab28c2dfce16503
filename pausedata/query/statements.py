"""Which statements only read."""

from __future__ import annotations

import re

import duckdb

from pausedata.errors import UsageError
from pausedata.query.messages import message

_GAP = re.compile(r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)*", re.DOTALL)
_EXPLAIN = re.compile(r"explain\b", re.IGNORECASE)
_ANALYZE = re.compile(r"(?:analy[sz]e|verbose)\b", re.IGNORECASE)
_OPTIONS = re.compile(r"\([^()']*(?:'[^']*'[^()']*)*\)")
_PIVOTING = re.compile(r"(?:\(|with\b|from\b|select\b|pivot\b|pivot_wider\b)", re.IGNORECASE)


def check_read_only(sql: str, parameters: bool = False) -> None:
    """UsageError unless ``sql`` is one statement that reads: SELECT, DESCRIBE, SHOW, EXPLAIN …

    ``parameters`` says that it may have some (``?``, ``$name``).
    """
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise UsageError(message(error)) from None
    if not statements:
        raise UsageError("The query is empty. Try: SELECT * FROM tokens LIMIT 10")
    if len(statements) > 1:
        raise UsageError(f"Give one statement, not {len(statements)}.")
    kind = statements[0].type
    start = _skip(sql, 0)
    if kind == duckdb.StatementType.EXPLAIN:
        # EXPLAIN ANALYZE runs what it explains: that has to be a query, too.
        check_read_only(_explained(sql, start), parameters)
        return
    # DuckDB takes a PIVOT apart into several statements.
    pivot = kind == duckdb.StatementType.MULTI and _PIVOTING.match(sql, start)
    if kind != duckdb.StatementType.SELECT and not pivot:
        raise UsageError(
            f"{kind.name} is not a query: `sql` only reads. Use SELECT, DESCRIBE, SHOW, "
            "SUMMARIZE or EXPLAIN; -o FILE writes the result."
        )
    if statements[0].named_parameters and not parameters:
        raise UsageError("The query has parameters (? or $name): write the values in their places.")


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
