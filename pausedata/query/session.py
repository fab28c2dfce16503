"""A connection to DuckDB with the views of one or several datasets, shut off from all else."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from pausedata.errors import PausedataError, UsageError
from pausedata.progress import Progress, Silent
from pausedata.query.macros import create_macros
from pausedata.query.views import STORED, VIEWS, create_views, identifier, literal
from pausedata.store.dataset import Version

if TYPE_CHECKING:
    from pausedata.query.scan import Source

MAIN = "main"  # DuckDB's own schema: what stands there needs no prefix
_RESERVED = {MAIN, STORED, "temp", "system", "memory", "information_schema", "pg_catalog", *VIEWS}


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
    ``other.tokens`` and so on. Queries read no file, write none, load no extension and reach no
    network: DuckDB itself is given no access, pausedata reads the shards. ``unsafe`` gives it what
    DuckDB allows by default. With ``flat``, ``tokens`` is read from flat copies in the user's
    cache, which are made where they are not there yet; ``progress`` hears of it.
    """

    version: Version
    attached: Mapping[str, Version] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    unsafe: bool = False
    flat: bool = False
    progress: Progress = field(default_factory=Silent)

    def __post_init__(self) -> None:
        self.failures: list[PausedataError] = []  # of scans, whose kind DuckDB does not keep
        self._spill = _spill_folder(self.limits.spill)
        copies = [self._flat_copies(version) for version in self.versions()] if self.flat else []
        self.connection = duckdb.connect(config=self._config())
        # DuckDB draws it on standard output, also into a pipe.
        self.connection.execute("SET enable_progress_bar = false")
        if not self.unsafe:
            readable = [str(path) for copy in copies for files in copy.values() for path in files]
            listed = ", ".join(literal(path) for path in readable)
            self.connection.execute(f"SET allowed_paths = [{listed}]")
            self.connection.execute("SET enable_external_access = false")
        for name in self.attached:
            check_schema_name(name)
            self.connection.execute(f"CREATE SCHEMA {identifier(name)}")
        for name, version, copy in zip_longest([MAIN, *self.attached], self.versions(), copies):
            create_views(self.connection, version, name, self._scan, copy)
            create_macros(self.connection, version, name)
        if not self.unsafe:
            self.connection.execute("SET lock_configuration = true")

    def versions(self) -> list[Version]:
        """All versions that are read."""
        return [self.version, *self.attached.values()]

    def close(self) -> None:
        """Close the connection, and remove what it spilled."""
        self.connection.close()
        self._spill.cleanup()

    def _flat_copies(self, version: Version) -> dict[str | None, list[Path]]:
        from pausedata.query.flat import flat_copy

        return {run: flat_copy(version, run, self.progress) for run in version.runs or [None]}

    def _scan(self, source: Source) -> Any:
        from pausedata.query.scan import Scan

        return Scan(source, self.limits.threads or os.cpu_count() or 1, self.failures.append)

    def _config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            # A misspelled view must be an error, not a Python variable of that name.
            "python_enable_replacements": "false",
            # In memory, DuckDB's own default is `.tmp` in the current folder. With external access
            # off, this folder is the one that DuckDB may still use: so it is nobody else's.
            "temp_directory": self._spill.name,
        }
        if self.limits.memory is not None:
            config["memory_limit"] = self.limits.memory
        if self.limits.threads is not None:
            config["threads"] = str(self.limits.threads)
        if not self.unsafe:
            config |= {
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


def _spill_folder(under: Path | None) -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="pausedata-sql-", dir=under)
    except OSError as error:
        where = under or tempfile.gettempdir()
        raise UsageError(
            f"{where}: nothing can be written there ({error.strerror or error}). "
            "Give a folder for what does not fit into memory."
        ) from None
