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


def statements(text: str) -> list[str]:
    """The statements of ``text``, each after as many empty lines as make its lines' numbers right.

    UsageError where there is none, or where DuckDB cannot tell them apart.
    """
    found, at = list[str](), 0
    for statement in _extracted(text):
        at = text.index(statement.query, at)
        found.append("\n" * text.count("\n", 0, at) + statement.query)
        at += len(statement.query)
    return found


def is_complete(text: str) -> bool:
    """Whether ``text`` ends with a ``;`` that ends a statement: none in a text or comment."""
    starts = [at for at, kind in duckdb.tokenize(text) if kind != duckdb.token_type.comment]
    return bool(starts) and text.encode()[starts[-1] : starts[-1] + 1] == b";"


def check_read_only(sql: str) -> None:
    """UsageError unless ``sql`` is one statement that reads: SELECT, DESCRIBE, SHOW, EXPLAIN …"""
    found = _extracted(sql)
    if len(found) > 1:
        raise UsageError(f"Give one statement, not {len(found)}.")
    kind = found[0].type
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
    if found[0].named_parameters:
        raise UsageError("The query has parameters (? or $name): write the values in their places.")


def _extracted(text: str) -> list[duckdb.Statement]:
    try:
        found = duckdb.extract_statements(text)
    except duckdb.Error as error:
        raise UsageError(message(error)) from None
    if not found:
        raise UsageError("The query is empty. Try: SELECT * FROM tokens LIMIT 10")
    return found


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
