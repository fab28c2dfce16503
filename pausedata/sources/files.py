"""Rows from files: JSONL, JSON, CSV and Parquet, by extension."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pausedata.core.errors import UsageError, nearest
from pausedata.sources.readers import Problem, parquet_rows, reader_for
from pausedata.sources.records import BadRow, OpenSource, Row
from pausedata.sources.spec import Source


class FilesSource(OpenSource):
    """The rows of several files, one after the other, as one split."""

    def __init__(self, source: Source, folder: Path) -> None:
        self.limit = source.limit
        self.paths = [_existing(name, folder) for name in source.files or []]
        self.readers = [reader_for(path) for path in self.paths]
        self._provenance: dict[str, Any] | None = None

    def rows(self, split: str) -> Iterator[Row | BadRow]:
        """The rows of all files; the index goes on from one file to the next."""
        index = 0
        for path, reader in zip(self.paths, self.readers, strict=True):
            for place, columns in reader(path):
                where = f"{path.name}{place}"
                if isinstance(columns, Problem):
                    yield BadRow(split, index, where, columns.reason, columns.detail)
                else:
                    yield Row(split, index, columns, where)
                index += 1
                if index == self.limit:
                    return

    def provenance(self) -> dict[str, Any]:
        """``{"files": [{"name", "sha256", "bytes"}]}`` with base names; hashed once."""
        if self._provenance is None:
            self._provenance = {"files": [fingerprint(p, p.name) for p in self.paths]}
        return self._provenance

    def count(self, split: str) -> int | None:
        """The rows where all files are Parquet, whose footers say; else None."""
        if any(path.suffix.lower() != ".parquet" for path in self.paths):
            return None
        rows = sum(parquet_rows(path) for path in self.paths)
        return rows if self.limit is None else min(rows, self.limit)


def fingerprint(path: Path, name: str) -> dict[str, Any]:
    """The file as provenance records it, under ``name``: its sha256 and its length in bytes."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    return {"name": name, "sha256": digest, "bytes": path.stat().st_size}


def _existing(name: str, folder: Path) -> Path:
    path = folder / Path(name).expanduser()
    if path.is_file():
        if os.access(path, os.R_OK):
            return path
        raise UsageError(f"source.files: '{name}' may not be read: {path}")
    if path.is_dir():
        raise UsageError(f"source.files: '{name}' is a folder. Name the files in it.")
    try:
        siblings = sorted(entry.name for entry in path.parent.iterdir() if entry.is_file())
    except OSError:
        raise UsageError(f"source.files: no '{name}': there is no folder {path.parent}.") from None
    raise UsageError(f"source.files: no file '{name}': {path}.{nearest(path.name, siblings)}")
