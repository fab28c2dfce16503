"""A connection to DuckDB with the views of one or several datasets, shut off from all else."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import weakref
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from pausedata.errors import PausedataError, UsageError
from pausedata.query.macros import create_macros
from pausedata.query.messages import message
from pausedata.query.views import SCANS, VIEWS, create_views, identifier
from pausedata.store.dataset import Version

if TYPE_CHECKING:
    from pausedata.query.scan import Source

MAIN = "main"  # DuckDB's own schema: what stands there needs no prefix
_RESERVED = {MAIN, SCANS, "temp", "system", "memory", "information_schema", "pg_catalog", *VIEWS}


@dataclass(frozen=True)
class Limits:
    """What a query may use; None leaves it to DuckDB (four fifths of the memory, all cores)."""

    memory: str | None = None  # as DuckDB reads it: '4GB', '500MiB'
    threads: int | None = None
    spill: Path | None = None  # the folder in which large sorts and joins spill


@dataclass
class Session:
    """One connection over ``version``, and over ``attached`` datasets under their names.

    The views of ``version`` need no prefix; those of a dataset attached as ``other`` are
    ``other.tokens`` and so on. The connection's cursors see the same. Queries read no file, write
    none, load no extension and reach no network: DuckDB itself is given no access, pausedata reads
    the shards. ``unsafe`` gives it what DuckDB allows by default.

    The versions are held, and the folder for what is spilled is there, until the last connection
    to the database is closed or gone: a session may be let go of before its connection.
    """

    version: Version
    attached: Mapping[str, Version] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    unsafe: bool = False

    def __post_init__(self) -> None:
        # The latest of scans, whose kind DuckDB does not keep.
        self.failures: deque[PausedataError] = deque(maxlen=16)
        self._spill = _SpillFolder(self.limits.spill)
        self.connection = self._connect()
        self._add(self.version, MAIN)
        for name, version in self.attached.items():
            check_schema_name(name)
            self.connection.execute(f"CREATE SCHEMA {identifier(name)}")
            self._add(version, name)
        if not self.unsafe:
            self.connection.execute("SET lock_configuration = true")

    def versions(self) -> list[Version]:
        """All versions that are read."""
        return [self.version, *self.attached.values()]

    def close(self) -> None:
        """Close the connection, and remove what it spilled."""
        self.connection.close()
        self._spill.remove()

    def _add(self, version: Version, schema: str) -> None:
        create_views(self.connection, version, schema, self._scan)
        create_macros(self.connection, version, schema)

    def _scan(self, source: Source) -> Any:
        from pausedata.query.scan import Scan

        threads = self.limits.threads or os.cpu_count() or 1
        return Scan(source, threads, self.failures.append, keep=self._spill)

    def _connect(self) -> duckdb.DuckDBPyConnection:
        try:
            return duckdb.connect(config=self._config())
        except duckdb.Error as error:  # what is wrong with a limit
            raise UsageError(message(error)) from None

    def _config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            # A misspelled view must be an error, not a Python variable of that name.
            "python_enable_replacements": "false",
            # In memory, DuckDB's own default is `.tmp` in the current folder. With external access
            # off, this folder is the one that DuckDB may still use: so it is nobody else's.
            "temp_directory": str(self._spill.path),
        }
        if self.limits.memory is not None:
            config["memory_limit"] = self.limits.memory
        if self.limits.threads is not None:
            config["threads"] = str(self.limits.threads)
        if not self.unsafe:
            config |= {
                "enable_external_access": "false",
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
                "allow_community_extensions": "false",
                "allow_persistent_secrets": "false",
            }
        return config


def check_schema_name(name: str) -> None:
    """UsageError unless a dataset can be attached as ``name``."""
    if not re.fullmatch(r"[A-Za-z_]\w{0,62}", name, re.ASCII) or name.lower() in _RESERVED:
        raise UsageError(
            f"--attach: '{name}' cannot name a dataset: use letters, digits and '_', beginning "
            f"with a letter, and none of {', '.join(sorted(_RESERVED))}."
        )


class _SpillFolder:
    """A new folder below ``under``, there until it is removed or the last of its users is gone."""

    def __init__(self, under: Path | None) -> None:
        try:
            self.path = Path(tempfile.mkdtemp(prefix="pausedata-sql-", dir=under))
        except OSError as error:
            where = under or tempfile.gettempdir()
            raise UsageError(
                f"{where}: nothing can be written there ({error.strerror or error}). "
                "Give a folder for what does not fit into memory."
            ) from None
        self.remove = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
