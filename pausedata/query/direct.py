"""Queries over tables that are read as they are stored: by DuckDB's own reader, without pyarrow.

Importing pyarrow, and pydantic for the manifest, takes a cold process three times as long as DuckDB
does. So a query is looked at first: what it reads may need neither.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import duckdb

from pausedata.core.errors import DataError, PausedataError
from pausedata.query.messages import translated
from pausedata.query.run import Result, begin, end, run, unique
from pausedata.query.session import Limits, Session, configuration
from pausedata.query.spill import SpillFolder
from pausedata.query.statements import Statement, nodes, reading
from pausedata.query.values import LARGE_INTEGERS, as_python, portable, type_name
from pausedata.query.views import LABELS, VIEWS, literal, nothing, read_files, select, union
from pausedata.store.integrity import require_whole

if TYPE_CHECKING:
    from pausedata.store.opening import Opened

# What a view shows as it is stored: a table, or all tables of a kind.
_STORED = {
    "examples": "examples", "tokens_nested": "tokens", "vocab": "vocab", "scores": "scores",
    "placements": "placements", "gates": "gates",
}  # fmt: skip
# Above this, hashing tables takes longer than importing pyarrow, with which no more is read than a
# query needs.
_MOST_BYTES = 64_000_000
_PLAIN_FUNCTIONS = {"generate_series", "range", "unnest"}  # they look at their values alone
_INNER_PATH = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*")
_PATTERN = re.compile(r"[*?\[\]{}\\]")  # DuckDB takes a path with one of these for many files
_OTHERS = "examples: has other examples than tokens. `pausedata verify` says what is wrong."


class Direct:
    """Answers queries to a dataset: each by DuckDB alone where it can, or else by a session.

    ``session`` makes that one, with all views, when the first query needs it. As there, DuckDB has
    no access to files, but for the shards of small tables; and a query that names anything but
    views (a file, a function that reads, the catalogue) is not run here.
    """

    def __init__(self, opened: Opened, limits: Limits, session: Callable[[], Session]) -> None:
        self.opened, self._make_session = opened, session
        self.attached = dict[str, Any]()
        self.failures = deque[PausedataError]([DataError(_OTHERS)])  # what a view may raise
        self._made = set[str]()
        self._spill = SpillFolder(limits.spill)
        try:
            self.connection = duckdb.connect(config=configuration(limits, self._spill.path))
            allowed = ", ".join(map(literal, chain(*map(self._paths, self._tables))))
            self.connection.execute(
                f"SET allowed_paths = [{allowed}]; SET enable_external_access = false; "
                "SET enable_progress_bar = false; SET lock_configuration = true"
            )
        except BaseException:
            self._spill.close()
            raise

    def run(self, statement: Statement, limit: int | None = None) -> Result:
        """Prepare one query, as ``query.run.run`` does."""
        return self._run(reading(statement), limit) or run(self._session, statement, limit)

    def versions(self) -> list[Opened]:
        """The version that is read."""
        return [self.opened]

    def close(self) -> None:
        """Close what was opened, and remove what it spilled."""
        self.connection.close()
        self._spill.close()
        if "_session" in self.__dict__:
            self._session.close()

    @cached_property
    def _session(self) -> Session:
        return self._make_session()

    def _run(self, statement: Statement, limit: int | None) -> Result | None:
        """The query's result; None where it reads more than small tables as they are stored."""
        views = self._views_named(statement.tree)
        tables = {table for view in views or () for table in self._tables_of(view)}
        files = [file for table in tables for file in self._tables.get(table, [])]
        small = sum(file.bytes for file in files) <= _MOST_BYTES
        if views is None or not small or not tables <= self._tables.keys():
            return None
        try:
            require_whole(self.opened.folder, files)
            end(self.connection)  # in which no view could be made
            for view in views - self._made:
                self.connection.execute(f"CREATE VIEW {view} AS {self._body(view)}")
                self._made.add(view)
            begin(self.connection)
            relation = self.connection.sql(statement.text)
        except (duckdb.Error, DataError):
            return None  # the session says what is wrong, with all that it knows, if it reads it
        found = DirectResult(self, relation, unique(relation.columns), relation.types, limit)
        found.sql = statement.text
        return found

    def _views_named(self, tree: Any) -> set[str] | None:
        """The stored views that a query names; None where it may look at anything else."""
        if tree is None:
            return None
        named, own = set[str](), set[str]()  # `own` are those that WITH makes
        for node in nodes(tree):
            kind = node.get("type")
            if kind == "BASE_TABLE":
                if node["schema_name"] or node["catalog_name"]:
                    return None
                named.add(node["table_name"].lower())
            elif kind == "TABLE_FUNCTION":
                if node["function"]["function_name"].lower() not in _PLAIN_FUNCTIONS:
                    return None
            elif kind == "SHOW_REF":
                return None
            if "cte_map" in node:
                own |= {entry["key"].lower() for entry in node["cte_map"]["map"]}
        # Where a name of WITH does not hold, DuckDB may take it for a shard's path, and read that.
        if not named <= _STORED.keys() | own or not all(map(str.isidentifier, own)):
            return None
        return named & _STORED.keys()

    def _tables_of(self, view: str) -> list[str]:
        if view == "examples":
            return ["examples", "tokens"]  # which say how many tokens there are
        kind = _STORED[view]
        return [f"{kind}/{name}" for name in self.opened.names(kind)] if view in LABELS else [kind]

    @cached_property
    def _tables(self) -> dict[str, list[File]]:
        """The files of the small tables that are here."""
        absent = (self.opened.pointer or {}).get("absent", {})
        pattern = _PATTERN.search(os.path.realpath(self.opened.folder))
        if pattern or not isinstance(absent, dict):
            return {}
        tables = dict[str, list[File]]()
        for name, entry in self.opened.manifest["tables"].items():
            files = _files(entry) if name.partition("/")[0] in _STORED.values() else None
            if files and name not in absent and sum(file.bytes for file in files) <= _MOST_BYTES:
                tables[name] = files
        return tables

    def _paths(self, table: str) -> list[str]:
        folder = os.path.realpath(self.opened.folder)
        return [f"{folder}/{file.path}" for file in self._tables[table]]

    def _body(self, view: str) -> str:
        if view == "examples":
            return select(VIEWS[view], {}, self._examples())
        if view not in LABELS:
            return select(VIEWS[view], {}, read_files(self._paths(_STORED[view])))
        kind = _STORED[view]
        parts = [
            select(VIEWS[view], {LABELS[view]: name}, read_files(self._paths(f"{kind}/{name}")))
            for name in self.opened.names(kind)
        ]
        return union(parts) if parts else nothing(VIEWS[view])

    def _examples(self) -> str:
        """The examples beside their tokens, which stand in the same order."""
        if [f.rows for f in self._tables["examples"]] != [f.rows for f in self._tables["tokens"]]:
            raise self.failures[0]

        def length(column: str) -> str:
            return f"CASE WHEN id = pd_id THEN len({column}) ELSE error({literal(_OTHERS)}) END"

        return (
            f"(SELECT *, {length('pd_prompt')}::INTEGER AS n_prompt, "
            f"{length('pd_response')}::INTEGER AS n_response "
            f"FROM {read_files(self._paths('examples'))} POSITIONAL JOIN "
            "(SELECT id AS pd_id, prompt_ids AS pd_prompt, response_ids AS pd_response "
            f"FROM {read_files(self._paths('tokens'))}))"
        )


class DirectResult(Result):
    """A result whose rows DuckDB gives as Python's values, where Arrow's would be the same."""

    sql: str

    def batches(self, rows: int = 2048) -> Iterator[list[tuple[Any, ...]]]:
        """The rows as Python values, up to ``rows`` at a time, as they are found."""
        if any(portable(kind) and type_name(kind) not in LARGE_INTEGERS for kind in self.types):
            yield from super().batches(rows)
            return
        convert = [as_python(kind) for kind in self.types]
        connection, left = self.session.connection, self.limit
        with ThreadPoolExecutor(1, thread_name_prefix="query") as worker:  # so that Ctrl-C is heard
            with translated(self.session):
                self.wait(worker.submit(connection.execute, self.sql))
            while not self.more:
                with translated(self.session):
                    found = self.wait(worker.submit(connection.fetchmany, rows))
                if not found:
                    self.done = True
                    return
                if left is not None:
                    self.more = len(found) > left
                    found, left = found[:left], left - len(found)
                if any(convert):
                    found = [
                        tuple(f(v) if f else v for f, v in zip(convert, row, strict=True))
                        for row in found
                    ]
                if found:
                    yield found


class File(NamedTuple):
    """A shard, as the manifest has it."""

    path: str
    bytes: int
    sha256: str
    rows: int


def _files(entry: Any) -> list[File] | None:
    """The shards of a table; None where the manifest says something of them that is not usual."""
    try:
        files = [File(s["path"], s["bytes"], s["sha256"], s["rows"]) for s in entry["shards"]]
    except (KeyError, TypeError):
        return None
    usual = all(
        list(map(type, file)) == [str, int, str, int] and _INNER_PATH.fullmatch(file.path)
        for file in files
    )
    return files if usual else None
