"""SQL from Python: relations of one dataset, and a connection for other tools."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import duckdb

from pausedata.query.messages import translated
from pausedata.query.notes import missing_names
from pausedata.query.session import Limits, Session
from pausedata.query.statements import parse, reading
from pausedata.store.dataset import open_version

if TYPE_CHECKING:
    from pausedata.store.dataset import Version

Parameters = Sequence[Any] | Mapping[str, Any]


class SharedVersion(Protocol):
    """A version of a dataset that somebody has opened."""

    @property
    def root(self) -> Path:
        """The dataset's folder."""
        ...

    @property
    def version(self) -> int:
        """The version's number."""
        ...


class Queries:
    """Queries to one version, from any thread. The session is made at the first."""

    def __init__(self, version: Version) -> None:
        self._version = version
        self._session: Session | None = None
        self._making = threading.Lock()
        self._own = threading.local()

    def ask(self, query: str, params: Parameters | None = None) -> duckdb.DuckDBPyRelation:
        """The rows that ``query`` gives, worked out whenever they are fetched."""
        with self._making:
            if self._session is None:
                self._session = Session(self._version)
        session = self._session
        connection = self._connection(session)
        statement = reading(parse(query, connection), parameters=True)
        with translated(session, statement.text):
            relation = connection.sql(statement.text, params=params)
        for note in missing_names(statement, session.versions()):
            warnings.warn(note, stacklevel=3)
        return relation

    def _connection(self, session: Session) -> duckdb.DuckDBPyConnection:
        """This thread's connection, since two threads cannot use one at the same time.

        One for all that a thread asks, so that its relations can be joined; but another where rows
        of the last are still being read.
        """
        connection = getattr(self._own, "connection", None)
        if connection is None or not _is_idle(connection):
            connection = self._own.connection = session.connection.cursor()
        return connection


def connect(
    path: str | Path,
    version: int | None = None,
    *,
    attached: Mapping[str, str | Path | SharedVersion] | None = None,
    memory: str | None = None,
    threads: int | None = None,
    spill: str | Path | None = None,
    safe: bool = False,
) -> duckdb.DuckDBPyConnection:
    """A connection to DuckDB with the views of the dataset at ``path``, for tools that take one.

    It can do what a connection of DuckDB's can: make tables, attach databases, read and write
    files. With ``safe`` it reaches no file and no network, and changes no setting; what it can make
    in memory, it still can. ``attached`` names other datasets (a path, or what ``pausedata.open``
    gave), whose views are then ``NAME.tokens`` and so on. ``memory`` ('4GB') and ``threads`` limit
    what a query uses, ``spill`` is the folder for what does not fit into memory. `gc` leaves the
    versions alone until the connection, its cursors and its relations are closed or gone. Errors
    are DuckDB's own, but for those of this call.
    """
    others = {
        name: open_version(other)
        if isinstance(other, str | Path)
        else open_version(other.root, other.version)
        for name, other in (attached or {}).items()
    }
    limits = Limits(memory, threads, Path(spill) if spill is not None else None)
    session = Session(open_version(path, version), others, limits, unsafe=not safe)
    if not safe:
        # As everywhere in DuckDB, a query can name a DataFrame.
        session.connection.execute("SET GLOBAL python_enable_replacements = true")
    return session.connection


def _is_idle(connection: duckdb.DuckDBPyConnection) -> bool:
    try:
        connection.execute("SELECT 1").fetchall()
    except duckdb.Error:
        return False
    return True
