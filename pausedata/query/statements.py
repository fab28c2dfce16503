"""Statements as DuckDB parses them, and which of them only read, and only the dataset."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import duckdb

from pausedata.core.errors import UsageError
from pausedata.query.messages import message

_GAP = re.compile(r"(?:\s|--[^\r\n]*|/\*.*?\*/)*", re.DOTALL)
_EXPLAIN = re.compile(r"explain\b", re.IGNORECASE)
_ANALYZE = re.compile(r"(?:analy[sz]e|verbose)\b", re.IGNORECASE)
_OPTIONS = re.compile(r"\([\w ,]*\)", re.ASCII)
_WORD = re.compile(r'"((?:[^"]|"")*)"|(\w[\w$]*)')

# Without external access and with its configuration locked, DuckDB itself keeps a query off files,
# networks and settings. What it lets through is refused here: what shows settings and paths
# (duckdb_settings, duckdb_secrets, glob of the folder where it spills …), what runs SQL that is not
# seen here (query, json_execute_serialized_sql), and what makes things (*_external_resource …). Of
# table functions this lists those that are allowed, since every release adds some that are not.
_TABLE_FUNCTIONS = {
    "duckdb_columns", "duckdb_databases", "duckdb_functions", "duckdb_keywords", "duckdb_schemas",
    "duckdb_tables", "duckdb_types", "duckdb_views", "generate_series", "histogram",
    "histogram_values", "icu_calendar_names", "json_each", "json_tree", "pg_timezone_names",
    "pragma_collations", "pragma_show", "pragma_table_info", "pragma_version", "range", "repeat",
    "repeat_row", "test_all_types", "unnest",
}  # fmt: skip
# Of the rest nearly all compute a value from values. (DuckDB's own command line has getenv.)
# pg_settings is a view of duckdb_settings(); the other views show the catalogue.
_REFUSED = {
    "current_setting", "getenv", "json_execute_serialized_sql", "json_serialize_plan",
    "pg_settings", "write_log",
}  # fmt: skip
# The kinds of a query's parts: `WITH x AS (COPY … TO …) FROM x` is a SELECT, too, and DuckDB lets
# it write into the folder where it spills.
_NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
_VERBS = {
    "attach", "call", "checkpoint", "copy", "create", "delete", "detach", "drop", "execute",
    "export", "import", "insert", "install", "load", "merge", "pragma", "prepare", "set", "update",
    "vacuum",
}  # fmt: skip


@dataclass(frozen=True)
class Statement:
    """One statement, parsed once for all that looks at it.

    ``text`` begins with as many empty lines as make its lines' numbers right.
    """

    text: str
    kind: duckdb.StatementType
    has_parameters: bool
    connection: Any  # which parses, and runs nothing of it

    @property
    def is_query(self) -> bool:
        """Whether it gives rows and does nothing else, so far as DuckDB's parser can tell."""
        if self.kind == duckdb.StatementType.MULTI:  # a PIVOT, which DuckDB takes apart, as it is
            return _first_word(self.text).lower() not in _VERBS  # or what CREATE makes a table of
        return self.kind == duckdb.StatementType.SELECT  # so are DESCRIBE, SHOW and SUMMARIZE

    @cached_property
    def tree(self) -> Any:
        """DuckDB's own parse of a query; None where it gives none (a PIVOT, or no query)."""
        if self.kind != duckdb.StatementType.SELECT:
            return None
        # On a cursor of its own, so that what runs on the connection goes on.
        with self.connection.cursor() as parser:
            [[text]] = parser.execute("SELECT json_serialize_sql(?)", [self.text]).fetchall()
        try:
            parsed = json.loads(text)
        except RecursionError:
            raise UsageError("The query is nested too deeply.") from None
        return None if parsed["error"] else parsed["statements"]


def statements(text: str, connection: Any) -> list[Statement]:
    """The statements of ``text``, parsed by ``connection``.

    UsageError where there is none, or where DuckDB cannot tell them apart.
    """
    found, parsed = list[Statement](), _parsed(text, connection)
    # DuckDB gives them one right behind the other, with plain spaces in the place of odd ones, but
    # for what stands empty before the first.
    before = text.count("\n") - sum(statement.query.count("\n") for statement in parsed)
    for statement in parsed:
        own = "\n" * before + statement.query
        found.append(Statement(own, statement.type, bool(statement.named_parameters), connection))
        before += statement.query.count("\n")
    return found


def parse(sql: str, connection: Any) -> Statement:
    """The one statement of ``sql``; UsageError where it is none, or several."""
    found = statements(sql, connection)
    if len(found) > 1:
        raise UsageError(f"Give one statement, not {len(found)}.")
    return found[0]


def reading(statement: Statement, parameters: bool = False) -> Statement:
    """The statement as it may be run: one that reads (SELECT, DESCRIBE, SHOW, EXPLAIN …).

    UsageError where it does more, or where not all functions in it are harmless. This stands beside
    what the connection forbids (``Session``). It may have ``parameters`` (``?``, ``$name``) if that
    is so.
    """
    if statement.kind == duckdb.StatementType.EXPLAIN:
        # EXPLAIN ANALYZE runs what it explains: that has to be a query, too. It is put together
        # anew, so that what is run is what was looked at, however its beginning was read.
        start, explained = _explained(statement.text)
        inner = reading(parse(explained, statement.connection), parameters)
        return replace(statement, text=start + inner.text)
    if not statement.is_query:
        raise _no_query(_first_word(statement.text) or statement.kind.name)
    if statement.has_parameters and not parameters:
        raise UsageError("The query has parameters (? or $name): write the values in their places.")
    if statement.tree is None:
        _check_words(statement)
    else:
        _check_tree(statement)
    return statement


def is_complete(text: str) -> bool:
    """Whether ``text`` ends with a ``;`` that ends a statement: none in a text or comment."""
    if "\udc80" <= max(text, default="") <= "\udcff":
        return True  # bytes that are no text, which the parser refuses
    starts = [at for at, kind in duckdb.tokenize(text) if kind != duckdb.token_type.comment]
    return bool(starts) and text.encode()[starts[-1] : starts[-1] + 1] == b";"


def nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """All parts of a parse, in the order of the query."""
    todo = [tree]
    while todo:
        part = todo.pop()
        if isinstance(part, dict):
            yield part
            todo += reversed(part.values())
        elif isinstance(part, list):
            todo += reversed(part)


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


def _check_tree(statement: Statement) -> None:
    called = set[str]()
    for node in nodes(statement.tree):
        kind = str(node.get("type", ""))
        if (kind.endswith("_NODE") or "cte_map" in node) and kind not in _NODES:
            raise _no_query(kind.partition("_")[0])
        if kind == "TABLE_FUNCTION":
            called.add(node["function"]["function_name"].lower())
        for name in (node.get("function_name", ""), node.get("table_name", "")):
            if name.lower() in _REFUSED:
                raise _refused(name)
    _check_table_functions(called, statement.connection)


def _check_words(statement: Statement) -> None:
    """Check a PIVOT, of which DuckDB gives no tree, by its words: more is refused than by a tree,
    since a column's name cannot be told from a function's.
    """
    sql = statement.text
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
        if name in _REFUSED:
            raise _refused(name)
        names.add(name)
    _check_table_functions(names, statement.connection)


def _check_table_functions(names: set[str], connection: Any) -> None:
    """UsageError where DuckDB has a table function of such a name that is not allowed.

    Other names are the dataset's own, or slips, of which DuckDB says more.
    """
    if not (unknown := sorted(names - _TABLE_FUNCTIONS)):
        return
    with connection.cursor() as other:
        found = other.execute(
            "SELECT DISTINCT function_name FROM duckdb_functions() WHERE internal "
            "AND function_type IN ('table', 'table_macro', 'pragma') "
            "AND list_contains(?, lower(function_name)) ORDER BY ALL",
            [unknown],
        ).fetchall()
    for (name,) in found:
        raise _refused(name)


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
