"""A commit of a repository: its files, and its manifest if that can be believed."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pausedata.core.errors import DataError
from pausedata.hub.client import RemoteFile, Repository
from pausedata.hub.remote import (
    MOST_BYTES,
    entries_of,
    parse_manifest,
    sha256_of,
    tables_present,
)
from pausedata.store.known_damage import MANIFEST
from pausedata.store.manifest import FileEntry, Manifest, TableEntry


@dataclass(frozen=True)
class Snapshot:
    """What a commit holds. Without a manifest it is no dataset of ours."""

    repo: str
    commit: str
    files: dict[str, RemoteFile] = field(default_factory=dict)
    raw: bytes = b""  # of the manifest
    manifest: Manifest | None = None

    def __str__(self) -> str:
        return f"{self.repo} at {self.commit[:12]}"

    @property
    def sha256(self) -> str | None:
        """The hash of the manifest."""
        return sha256_of(self.raw) if self.manifest else None

    @cached_property
    def _vouched(self) -> dict[str, str]:
        tables = self.manifest.tables if self.manifest else {}
        return {entry.path: entry.sha256 for entry in entries_of(tables, tables)}

    def has(self, entry: FileEntry, local: Path | None = None) -> bool:
        """Whether the file is there, and as ``entry`` says.

        ``local``: the same file here, if there is one; its bytes tell where no sha256 is known.
        """
        file = self.files.get(entry.path)
        if file is None or file.bytes != entry.bytes:
            return False
        if file.sha256 is None and local is not None and local.is_file():
            return file.is_same(entry.bytes, entry.sha256, local.read_bytes)
        # Git keeps small files under a hash of its own; the manifest of that commit tells theirs.
        return (file.sha256 or self._vouched.get(entry.path)) == entry.sha256

    def has_table(self, table: TableEntry) -> bool:
        """Whether all files of a table are there, and as it says."""
        return all(self.has(entry) for entry in table.all_files())

    def has_bytes(self, path: str, raw: bytes) -> bool:
        """Whether the file is there, with these bytes."""
        file = self.files.get(path)
        return file is not None and file.is_same(len(raw), sha256_of(raw), lambda: raw)

    def tables(self) -> tuple[list[str], list[str]]:
        """The tables that are there, and those of the manifest that were not pushed."""
        return tables_present(self.manifest, self.files, str(self)) if self.manifest else ([], [])

    def ours(self) -> list[str]:
        """The files that are there and that its manifest names."""
        return [path for path in self._vouched if path in self.files]


def snapshot(repository: Repository, commit: str) -> Snapshot:
    """List a commit's files and read its manifest.

    DataError where that is damaged, or names what it must not.
    """
    files = repository.files(commit)
    found = Snapshot(repository.repo, commit, files)
    if MANIFEST not in files:
        return found
    if files[MANIFEST].bytes > MOST_BYTES:
        raise DataError(
            f"{found}: its {MANIFEST} has {files[MANIFEST].bytes:,} bytes, too many. Nothing was "
            "written."
        )
    for _ in range(2):
        raw = repository.read(commit, MANIFEST)
        if found.has_bytes(MANIFEST, raw):
            manifest = parse_manifest(raw, str(found))
            return Snapshot(repository.repo, commit, files, raw, manifest)
    raise DataError(f"{found}: {MANIFEST} was damaged on its way, twice. Try again later.")
