"""Which statements only read, and only the dataset."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

import duckdb

from pausedata.core.errors import UsageError
from pausedata.query.messages import message

_GAP = re.compile(r"(?:\s|--[^\r\n]*|/\*.*?\*/)*", re.DOTALL)
_EXPLAIN = re.compile(r"explain\b", re.IGNORECASE)
_ANALYZE = re.compile(r"(?:analy[sz]e|verbose)\b", re.IGNORECASE)
_OPTIONS = re.compile(r"\([\w ,]*\)", re.ASCII)
_PIVOTING = re.compile(r"(?:\(|with\b|from\b|select\b|pivot\b|pivot_wider\b)", re.IGNORECASE)
_WORD = re.compile(r'"((?:[^"]|"")*)"|(\w[\w$]*)')

# A list of what is allowed, since every release of DuckDB adds functions. All others are refused:
# those that read files (read_csv, glob, sniff_csv, parquet_metadata, read_duckdb …), change the
# database or its settings (checkpoint, enable_logging, enable_profiling, *_external_resource …),
# show settings, among them paths and a proxy's password of the environment (duckdb_settings,
# duckdb_extensions, duckdb_secrets, which_secret …), take addresses of memory for arguments
# (arrow_scan, pandas_scan, python_map_function, seq_scan …), or run SQL that is not seen here: a
# text (query, query_table), or a tree that no parser made (json_execute_serialized_sql).
_TABLE_FUNCTIONS = {
    "duckdb_columns", "duckdb_databases", "duckdb_functions", "duckdb_keywords", "duckdb_schemas",
    "duckdb_tables", "duckdb_types", "duckdb_views", "generate_series", "histogram",
    "histogram_values", "icu_calendar_names", "json_each", "json_tree", "pg_timezone_names",
    "pragma_collations", "pragma_show", "pragma_table_info", "pragma_version", "range", "repeat",
    "repeat_row", "test_all_types", "unnest",
}  # fmt: skip
# Of the rest nearly all compute a value from values. These look at the machine (DuckDB's own
# command line has getenv), or bind SQL that is not seen here, or write to DuckDB's log.
_FUNCTIONS = {
    "current_setting", "getenv", "json_execute_serialized_sql", "json_serialize_plan", "write_log",
}  # fmt: skip
_TABLES = {"pg_settings"}  # a view of duckdb_settings(); the other views show the catalogue
# The kinds of a query's parts. DuckDB 2.0 calls `WITH x AS (COPY … TO …) FROM x` a SELECT.
_NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
_VERBS = {
    "attach", "call", "checkpoint", "copy", "create", "delete", "detach", "drop", "execute",
    "export", "import", "insert", "install", "load", "merge", "pragma", "prepare", "set", "update",
    "vacuum",
}  # fmt: skip


def reading(sql: str, connection: Any = duckdb, parameters: bool = False) -> str:
    """``sql`` as it may be run: one statement that reads (SELECT, DESCRIBE, SHOW, EXPLAIN …).

    UsageError where it is none, or where not all functions in it are harmless. ``connection``
    parses it and runs nothing of it. This stands beside what the connection forbids (``Session``):
    that keeps DuckDB off files, but not off the folder where it spills. It may have ``parameters``
    (``?``, ``$name``) if that is so.
    """
    parsed = _parsed(sql, connection)
    pivot = _is_pivot(sql, parsed)
    if len(parsed) > 1 and not pivot:
        raise UsageError(f"Give one statement, not {len(parsed)}.")
    kind = parsed[0].type
    if kind == duckdb.StatementType.EXPLAIN:
        # EXPLAIN ANALYZE runs what it explains: that has to be a query, too. It is put together
        # anew, so that what is run is what was looked at, however its beginning was read.
        start, explained = _explained(sql)
        return start + reading(explained, connection, parameters)
    if kind != duckdb.StatementType.SELECT and not pivot:
        raise _no_query(_first_word(sql) or kind.name)
    if parsed[0].named_parameters and not parameters:
        raise UsageError("The query has parameters (? or $name): write the values in their places.")
    parts = None if pivot else tree(sql, connection)
    if parts is None:
        _check_words(sql, connection)
    else:
        _check_tree(parts, connection)
    return sql


def statements(text: str, connection: Any = duckdb) -> list[str]:
    """The statements of ``text``, each after as many empty lines as make its lines' numbers right.

    UsageError where there is none, or where DuckDB cannot tell them apart.
    """
    parsed = _parsed(text, connection)
    if _is_pivot(text, parsed):
        return [text]
    found, at = list[str](), 0
    try:
        for statement in parsed:
            at = text.index(statement.query, at)
            found.append("\n" * text.count("\n", 0, at) + statement.query)
            at += len(statement.query)
    except IndexError:  # of DuckDB 1, which takes a PIVOT apart
        raise UsageError("Give a PIVOT alone, not among other statements.") from None
    return found


def is_complete(text: str) -> bool:
    """Whether ``text`` ends with a ``;`` that ends a statement: none in a text or comment."""
    if "\udc80" <= max(text, default="") <= "\udcff":
        return True  # bytes that are no text, which the parser refuses
    starts = [at for at, kind in duckdb.tokenize(text) if kind != duckdb.token_type.comment]
    return bool(starts) and text.encode()[starts[-1] : starts[-1] + 1] == b";"


def is_query(sql: str, connection: Any) -> bool:
    """Whether a statement may be prepared now and run later, since it is a SELECT or a PIVOT."""
    statements = _parsed(sql, connection)
    return statements[0].type == duckdb.StatementType.SELECT or _is_pivot(sql, statements)


def _parsed(sql: str, connection: Any) -> list[Any]:
    try:
        statements = connection.extract_statements(sql)
    except duckdb.Error as error:
        raise UsageError(message(error)) from None
    except TypeError:
        if not isinstance(sql, str):
            raise
        raise UsageError("The query is not text in UTF-8.") from None
    if not statements:
        raise UsageError("The query is empty. Try: SELECT * FROM tokens LIMIT 10")
    return statements


def _is_pivot(sql: str, statements: list[Any]) -> bool:
    """Whether the text is one PIVOT, which DuckDB takes apart into several statements."""
    if not _PIVOTING.match(sql, _skip(sql)):
        return False
    kinds = [statement.type for statement in statements]
    if kinds == [duckdb.StatementType.MULTI]:
        return True
    # DuckDB 1 shows the parts, which have no text: the types of the columns, then the query.
    *types, last = kinds
    made = bool(types) and set(types) == {duckdb.StatementType.CREATE}
    return made and last == duckdb.StatementType.SELECT and statements[0].query == ""


def tree(sql: str, connection: Any) -> Any:
    """DuckDB's own parse of a query; None where it gives none (a PIVOT)."""
    [[text]] = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()
    try:
        parsed = json.loads(text)
    except RecursionError:
        raise UsageError("The query is nested too deeply.") from None
    return None if parsed["error"] else parsed["statements"]


def _check_tree(tree: Any, connection: Any) -> None:
    for node in _nodes(tree):
        kind = str(node.get("type", ""))
        if kind.endswith("_NODE") or "cte_map" in node:
            if kind not in _NODES:
                raise _no_query(kind.partition("_")[0])
        elif kind == "TABLE_FUNCTION":
            _check_table_function(node["function"]["function_name"], connection)
        elif "function_name" in node and node["function_name"].lower() in _FUNCTIONS:
            raise _refused(node["function_name"])
        elif str(node.get("table_name", "")).lower() in _TABLES:
            raise _refused(node["table_name"])


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    todo = [tree]
    while todo:
        part = todo.pop()
        if isinstance(part, dict):
            yield part
            todo += part.values()
        elif isinstance(part, list):
            todo += part


def _check_table_function(name: str, connection: Any) -> None:
    if name.lower() not in _TABLE_FUNCTIONS and _builtin([name], connection):
        raise _refused(name)


def _check_words(sql: str, connection: Any) -> None:
    """The same of what has no tree, by its words: stricter, since it knows no columns' names."""
    # Some count as spaces for DuckDB's parser, and as letters for what tells words apart.
    if odd := [
        c for c in sql if c not in "\t\r\n" and unicodedata.category(c)[0] in "ZC" and c != " "
    ]:
        raise UsageError(f"A PIVOT may hold no character U+{ord(odd[0]):04X}: write plain spaces.")
    text = sql.encode()  # DuckDB counts bytes
    names = set[str]()
    for start, kind in duckdb.tokenize(sql):
        word = _WORD.match(text[start:].decode())
        if word is None or kind in (duckdb.token_type.string_const, duckdb.token_type.comment):
            continue
        bare, name = word[2], (word[1] or word[2]).replace('""', '"').lower()
        if bare and name in _VERBS:
            raise _no_query(bare.upper())
        if name in _FUNCTIONS | _TABLES:
            raise _refused(name)
        names.add(name)
    for name in _builtin(sorted(names - _TABLE_FUNCTIONS), connection):
        raise _refused(name)


def _builtin(names: list[str], connection: Any) -> list[str]:
    """Which of ``names`` DuckDB itself has a table function for; the others are ours, or slips."""
    found = connection.execute(
        "SELECT DISTINCT function_name FROM duckdb_functions() WHERE internal "
        "AND function_type IN ('table', 'table_macro', 'pragma') "
        "AND list_contains(?, lower(function_name)) ORDER BY ALL",
        [[name.lower() for name in names]],
    )
    return [name for (name,) in found.fetchall()]


def _no_query(what: str) -> UsageError:
    return UsageError(
        f"{what} is not a query: `sql` only reads. Use SELECT, DESCRIBE, SHOW, "
        "SUMMARIZE or EXPLAIN; -o FILE writes the result."
    )


def _refused(name: str) -> UsageError:
    return UsageError(
        f"'{name}': a query sees the dataset alone, not this machine. --unsafe lifts that."
    )


def _explained(sql: str) -> tuple[str, str]:
    """The beginning of an EXPLAIN, in plain words, and the statement that it explains."""
    start, at = "EXPLAIN ", _skip(sql, _EXPLAIN.match(sql, _skip(sql)))
    if found := _ANALYZE.match(sql, at):
        start, at = start + "ANALYZE ", _skip(sql, found)
    # `(FORMAT json)` are options, `(SELECT 1)` is the query.
    found = _OPTIONS.match(sql, at)
    if found and (after := _skip(sql, found)) < len(sql.rstrip("; \n")):
        start, at = f"{start}{found[0]} ", after
    return start, sql[at:]


def _first_word(sql: str) -> str:
    found = re.compile(r"[A-Za-z]+").match(sql, _skip(sql))
    return found[0].upper() if found else ""


def _skip(sql: str, after: re.Match[str] | None = None) -> int:
    """The index of the first character behind a match that is no space or comment."""
    at = after.end() if after else 0
    gap = _GAP.match(sql, at)
    return gap.end() if gap else at
