"""Reading a dataset: resolve a version once, then read its tables shard by shard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from pydantic import ValidationError

from pausedata.errors import DataError, PausedataError, UsageError, listing, nearest
from pausedata.store.holds import Hold, take
from pausedata.store.manifest import FORMAT, READER, Manifest, Pointer, ShardEntry, TableEntry
from pausedata.store.shards import read_shard

POINTER = "pausedata.json"

_TRIES = 5  # a reader that loses the version it was going to open to `gc`, this often in a row


@dataclass(frozen=True)
class Table:
    """A table, committed or staged: its manifest entry and the folder its paths are relative to."""

    name: str
    entry: TableEntry
    folder: Path
    hold: Hold | None = field(default=None, compare=False, repr=False)  # its version's

    @property
    def shards(self) -> list[ShardEntry]:
        """The shards, by split and number."""
        return self.entry.shards

    def splits(self) -> list[str]:
        """The splits that the shards belong to, in order."""
        return list(dict.fromkeys(s.split for s in self.shards if s.split is not None))

    def paths(self, split: str | None = None) -> list[Path]:
        """The shards' files, of one split or of all."""
        return [self.folder / s.path for s in self.shards if split is None or s.split == split]

    def read(self, shard: ShardEntry, columns: list[str] | None = None) -> pa.Table:
        """The rows of one shard."""
        return read_shard(self.folder / shard.path, columns)


@dataclass(frozen=True)
class Version:
    """One immutable state of a dataset."""

    root: Path
    folder: Path
    manifest: Manifest
    sha256: str  # of manifest.json
    hold: Hold | None = field(default=None, compare=False, repr=False)  # keeps `gc` off it

    @property
    def number(self) -> int:
        """The version's number."""
        return self.manifest.version

    @property
    def tables(self) -> dict[str, Table]:
        """All tables, by name, in the manifest's order."""
        return {n: self.table(n) for n in self.manifest.tables}

    def table(self, name: str) -> Table:
        """The table ``name`` (``tokens``, ``scores/base`` …); UsageError where there is none."""
        if name in self.manifest.tables:
            return Table(name, self.manifest.tables[name], self.folder, self.hold)
        kind, _, own = name.partition("/")
        if own:
            there = self.manifest.names(kind)
            singular = {"scores": "run"}.get(kind, kind.removesuffix("s"))
            raise UsageError(
                f"version {self.number} has no {singular} '{own}'.{nearest(own, there)} "
                f"There: {listing(there)}."
            )
        raise UsageError(f"version {self.number} has no table '{name}'.")

    @property
    def splits(self) -> list[str]:
        """The names of the splits."""
        return list(self.manifest.rows)

    @property
    def runs(self) -> list[str]:
        """The names of the scoring runs."""
        return self.manifest.names("scores")

    @property
    def placements(self) -> list[str]:
        """The names of the placements."""
        return self.manifest.names("placements")

    @property
    def exports(self) -> list[str]:
        """The names of the exports."""
        return self.manifest.names("exports")

    def aligned(self, *names: str) -> Iterator[tuple[ShardEntry, list[pa.Table]]]:
        """The rows of several tables side by side, shard by shard (they hold the same ids)."""
        tables = [self.table(name) for name in names]
        for shards in zip(*(t.shards for t in tables), strict=True):
            yield shards[0], [t.read(s) for t, s in zip(tables, shards, strict=True)]


def open_version(path: str | Path, version: int | None = None) -> Version:
    """Open the dataset at ``path``: the current version, or the one numbered ``version``.

    Raises UsageError where there is no dataset or no such version, and DataError where the
    manifest is damaged or of a format that this release does not read.
    """
    root = Path(path)
    for left in reversed(range(_TRIES)):
        pointer = read_pointer(root)
        try:
            return _open(root, pointer, version)
        except PausedataError:
            # Where `gc` deleted the version between the two readings, the pointer had moved before.
            if not left or version is not None or read_pointer(root) == pointer:
                raise
    raise AssertionError("the last try returns or raises")


def _open(root: Path, pointer: Pointer | None, version: int | None) -> Version:
    if pointer is None:
        what = "no such folder" if not root.exists() else "not a pausedata dataset"
        started = (root / "staging").is_dir()
        todo = (
            "Its first build is unfinished: run `pausedata build` again."
            if started
            else "`pausedata build` makes one."
        )
        raise UsageError(f"{root}: {what} (no {POINTER}). {todo}")
    number = pointer.current if version is None else version
    folder = version_folder(root, number)
    if not folder.is_dir():
        there = ", ".join(str(n) for n in version_numbers(root))
        raise UsageError(f"{root}: no version {number}. There: {there or 'none'}.")
    return read_version(root, folder, pointer.sha256 if number == pointer.current else None)


def read_pointer(root: Path) -> Pointer | None:
    """What ``pausedata.json`` says, or None where there is none."""
    path = root / POINTER
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError:
        raise DataError(f"{path}: damaged: not UTF-8.") from None
    try:
        data = json.loads(text)
        check_format(data, path)
        return Pointer.model_validate(data)
    except (ValueError, ValidationError) as error:
        raise DataError(f"{path}: damaged: {_brief(error)}") from None


def read_version(root: Path, folder: Path, expected: str | None = None) -> Version:
    """The version in ``folder``, held; DataError where ``expected`` is not its manifest's hash."""
    path = folder / "manifest.json"
    hold = take(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from None
    sha256 = hashlib.sha256(raw).hexdigest()
    if expected is not None and sha256 != expected:
        raise DataError(
            f"{path}: its sha256 is not the one that {POINTER} records: it was changed "
            "or damaged after it was committed."
        )
    try:
        data = json.loads(raw)
        check_format(data, path)
        return Version(root, folder, Manifest.model_validate(data), sha256, hold)
    except (ValueError, ValidationError) as error:
        raise DataError(f"{path}: damaged: {_brief(error)}") from None


def check_format(data: object, path: Path) -> None:
    """Refuse what another release has to read, saying so."""
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")
    name, reader = data.get("format"), data.get("min_reader", 1)
    if not isinstance(reader, int):
        raise ValueError(f"min_reader is {reader!r}, not a number")
    if name == FORMAT and reader <= READER:
        return
    if isinstance(name, str) and name.startswith("pausedata/"):
        raise DataError(
            f"{path}: format {name}, reader {reader}; this release reads "
            f"{FORMAT}, reader {READER}. Upgrade: pip install -U pausedata"
        )
    raise ValueError(f"its format is {name!r}, not {FORMAT!r}")


def check_output(path: Path) -> None:
    """UsageError unless ``path`` can be written to without harm to a dataset."""
    if str(path) == "-" or (path.exists() and not path.is_file() and not path.is_dir()):
        raise UsageError(f"{path}: give the name of a file or folder to write.")
    for folder in path.resolve().parents:
        if (folder / POINTER).is_file():
            raise UsageError(
                f"{path}: is inside the dataset {folder.name}, whose files are never changed. "
                "Give a path outside it."
            )


def version_folder(root: Path, number: int) -> Path:
    """``versions/0003``."""
    return root / "versions" / f"{number:04d}"


def version_numbers(root: Path) -> list[int]:
    """The numbers of the versions that are there, ascending."""
    folder = root / "versions"
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit() and p.is_dir())


def _brief(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(s) for s in first['loc'])}: {first['msg']}"
    return str(error)
