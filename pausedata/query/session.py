"""A connection to DuckDB with the views of one or several datasets, shut off from all else."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from pausedata.errors import PausedataError, UsageError
from pausedata.query.macros import create_macros
from pausedata.query.views import VIEWS, create_views, identifier
from pausedata.store.dataset import Version

if TYPE_CHECKING:
    from pausedata.query.scan import Source

MAIN = "main"  # DuckDB's own schema: what stands there needs no prefix
_RESERVED = {MAIN, "temp", "system", "memory", "information_schema", "pg_catalog", *VIEWS}


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
    DuckDB allows by default.
    """

    version: Version
    attached: Mapping[str, Version] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    unsafe: bool = False

    def __post_init__(self) -> None:
        self.failures: list[PausedataError] = []  # of scans, whose kind DuckDB does not keep
        self._spill = _spill_folder(self.limits.spill)
        self.connection = duckdb.connect(config=self._config())
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
        self._spill.cleanup()

    def _add(self, version: Version, schema: str) -> None:
        create_views(self.connection, version, schema, self._scan)
        create_macros(self.connection, version, schema, self._scan)

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


def _spill_folder(under: Path | None) -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="pausedata-sql-", dir=under)
    except OSError as error:
        where = under or tempfile.gettempdir()
        raise UsageError(
            f"{where}: nothing can be written there ({error.strerror or error}). "
            "Give a folder for what does not fit into memory."
        ) from None
