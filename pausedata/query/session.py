"""A connection to DuckDB with the views of one or several datasets, shut off from all else."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from pausedata.core.errors import PausedataError, UsageError
from pausedata.core.progress import Progress, Silent
from pausedata.query.macros import create_macros
from pausedata.query.spill import SpillFolder
from pausedata.query.views import SCANS, VIEWS, create_views, identifier, literal

if TYPE_CHECKING:
    from pausedata.query.scan import RowSource
    from pausedata.store.dataset import Version

MAIN = "main"  # DuckDB's own schema: what stands there needs no prefix
_RESERVED = {MAIN, SCANS, "temp", "system", "memory", "information_schema", "pg_catalog", *VIEWS}
_MEMORY = re.compile(r"(\d+(\.\d+)?) ?[KMGT]i?B", re.IGNORECASE)
_MOST_THREADS = 1024


@dataclass(frozen=True)
class Limits:
    """What a query may use; None leaves it to DuckDB (four fifths of the memory, all cores).

    Raises UsageError for what DuckDB could not work with.
    """

    memory: str | None = None  # '4GB', '500MiB': what DuckDB itself may take, at least 10 MB
    threads: int | None = None
    spill: Path | None = None  # the folder in which large sorts and joins spill

    def __post_init__(self) -> None:
        if self.memory is not None and not _is_memory(self.memory):
            raise UsageError(
                f"memory is {self.memory!r}: give a number and a unit, as in '4GB' or '500MiB', "
                "10MB at least."
            )
        threads = self.threads
        if threads is not None and not (type(threads) is int and 1 <= threads <= _MOST_THREADS):
            raise UsageError(f"threads is {threads!r}: give a number from 1 to {_MOST_THREADS}.")


@dataclass
class Session:
    """One connection over ``version``, and over ``attached`` datasets under their names.

    The views of ``version`` need no prefix; those of a dataset attached as ``other`` are
    ``other.tokens`` and so on. The connection's cursors see the same. Queries read no file, write
    none, load no extension and reach no network: DuckDB itself is given no access, pausedata reads
    the shards. ``unsafe`` gives it what DuckDB allows by default. With ``flat``, ``tokens`` is read
    from flat copies in the user's cache, which are made where they are not there yet; ``progress``
    hears of it.

    The versions are held, and the folder for what is spilled is there, until the last connection
    to the database is closed or gone: a session may be let go of before its connection.
    """

    version: Version
    attached: Mapping[str, Version] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    unsafe: bool = False
    flat: bool = False
    progress: Progress = field(default_factory=Silent)

    def __post_init__(self) -> None:
        from pausedata.query.sources import Vocabulary

        # The latest of scans, whose kind DuckDB does not keep.
        self.failures: deque[PausedataError] = deque(maxlen=16)
        for name in self.attached:
            check_schema_name(name)
        self._spill = SpillFolder(self.limits.spill)
        try:
            copies = [self._flat_copies(v) for v in self.versions()] if self.flat else []
            self.connection = duckdb.connect(
                config=configuration(self.limits, self._spill.path, self.unsafe)
            )
            if not self.unsafe:
                readable = [path for copy in copies for files in copy.values() for path in files]
                listed = ", ".join(literal(str(path)) for path in readable)
                self.connection.execute(f"SET allowed_paths = [{listed}]")
                self.connection.execute("SET enable_external_access = false")
            for name in (SCANS, *self.attached):
                self.connection.execute(f"CREATE SCHEMA {identifier(name)}")
            self.connection.execute(f"SET schema = '{SCANS}'")
            for name, version, copy in zip_longest([MAIN, *self.attached], self.versions(), copies):
                vocabulary = Vocabulary(version)  # one for both: it is read once
                create_views(self.connection, version, name, vocabulary, self._scan, copy)
                create_macros(self.connection, version, name, vocabulary, self._scan)
            self.connection.execute(f"SET schema = '{MAIN}'")
            # DuckDB draws one where it takes Python for a prompt, on whatever is standard output.
            self.connection.execute("SET enable_progress_bar = false")
            if not self.unsafe:
                self.connection.execute("SET lock_configuration = true")
        except BaseException:
            self._spill.close()
            raise

    def versions(self) -> list[Version]:
        """All versions that are read."""
        return [self.version, *self.attached.values()]

    def close(self) -> None:
        """Close the connection, and remove what it spilled."""
        self.connection.close()
        self._spill.close()

    def _flat_copies(self, version: Version) -> dict[str | None, list[Path]]:
        from pausedata.query.flat import flat_copy

        return {run: flat_copy(version, run, self.progress) for run in version.runs or [None]}

    def _scan(self, name: str, source: RowSource) -> str:
        """Let DuckDB read ``source``, and give the name that it has in SQL.

        It belongs to the database, not to the connection as what is registered there: every cursor
        sees it, and it lives for as long as the database does.
        """
        from pausedata.query.scan import Scan

        threads = self.limits.threads or os.cpu_count() or 1
        scan = Scan(source, threads, self.failures.append, keep=self._spill)
        self.connection.from_arrow(scan).create_view(name)
        return f"{SCANS}.{identifier(name)}"


def configuration(limits: Limits, spill: Path, unsafe: bool = False) -> dict[str, Any]:
    """What DuckDB is started with, where it spills into ``spill``."""
    config: dict[str, Any] = {
        # A misspelled view must be an error, not a Python variable of that name.
        "python_enable_replacements": "false",
        # In memory, DuckDB's own default is `.tmp` in the current folder. With external access
        # off, this folder is the one that DuckDB may still use: so it is nobody else's.
        "temp_directory": str(spill),
    }
    if limits.memory is not None:
        config["memory_limit"] = limits.memory
    if limits.threads is not None:
        config["threads"] = str(limits.threads)
    if not unsafe:
        config |= {
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
            "allow_persistent_secrets": "false",
            # Their defaults, of the environment and the home folder, would show in the settings
            # (a proxy's with its password). Nothing that is allowed uses either.
            "http_proxy": "none",
            "secret_directory": "none",
            "show_behavior": "table",  # `SHOW x` would show the setting x otherwise
        }
    return config


def _is_memory(text: str) -> bool:
    """Whether ``text`` is an amount of memory with which DuckDB starts."""
    found = _MEMORY.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return False
    unit = text[found.end(1) :].strip().upper()
    return 10_000_000 <= float(found[1]) * 1000 ** ("KMGT".index(unit[0]) + 1) < 2**63


def check_schema_name(name: str) -> None:
    """UsageError unless a dataset can be attached as ``name``."""
    if not re.fullmatch(r"[A-Za-z_]\w{0,62}", name, re.ASCII) or name.lower() in _RESERVED:
        raise UsageError(
            f"'{name}' cannot name an attached dataset: use letters, digits and '_', beginning "
            f"with a letter, and none of {', '.join(sorted(_RESERVED))}."
        )
