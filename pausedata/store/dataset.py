"""Reading a dataset: resolve a version once, then read its tables shard by shard."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from pausedata.core.errors import (
    DataError,
    PausedataError,
    UsageError,
    listing,
    nearest,
)
from pausedata.store import not_downloaded
from pausedata.store.integrity import is_inside, require_placed, require_whole
from pausedata.store.manifest import (
    FileEntry,
    Manifest,
    Pointer,
    ShardEntry,
    TableEntry,
)
from pausedata.store.pointer import (
    POINTER,
    brief,
    check_format,
    existing_pointer,
    read_pointer,
    version_folder,
    version_numbers,
)
from pausedata.store.read_locks import ReadLock, take

if TYPE_CHECKING:
    import pyarrow as pa

# The kinds of table that there may be several of, and what one of them is called.
KINDS = {"scores": "run", "placements": "placement", "exports": "export", "gates": "gate"}

_TRIES = 5  # how often a reader may find that `gc` has just deleted the version that it was opening


@dataclass(frozen=True)
class Table:
    """A table, committed or staged: its manifest entry and the folder its paths are relative to."""

    name: str
    entry: TableEntry
    folder: Path
    hold: ReadLock | None = field(default=None, compare=False, repr=False)  # its version's
    absent: bool = False  # its files were not pulled

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

    def files(self) -> list[FileEntry]:
        """Every file of the table that is here: none where it was not pulled."""
        return [] if self.absent else self.entry.all_files()

    def need(self) -> None:
        """Fetch the files if they were not pulled; UsageError, which says how, where that fails."""
        if self.absent:
            not_downloaded.fetch(self.folder.parent.parent, self.name, self.entry)

    def check(self) -> None:
        """Raise DataError unless every file is what the manifest says, all at once.

        ``read`` checks the shard that it reads. Call this before the files are read in another way.
        """
        self.need()
        require_whole(self.folder, self.entry.all_files())

    def read(
        self, shard: ShardEntry, columns: list[str] | None = None, threads: bool = True
    ) -> pa.Table:
        """The rows of one shard; DataError where its file is not what the manifest says.

        Columns are decoded in ``threads``, unless several shards are read at the same time anyway.
        """
        from pausedata.store.shards import read_shard  # with it comes pyarrow

        self.need()
        require_placed(self.folder, [shard])
        # The bytes are hashed while the values are decoded: both are work outside Python.
        with ThreadPoolExecutor(1) as beside:
            checked = beside.submit(require_whole, self.folder, [shard])
            try:
                return read_shard(self.folder / shard.path, columns, threads)
            finally:
                checked.result()  # what it raises says more than what a reader stumbled over

    def read_all(self, split: str) -> Iterator[pa.Table]:
        """The rows of a split, shard by shard."""
        return (self.read(shard) for shard in self.shards if shard.split == split)


@dataclass(frozen=True)
class Version:
    """One immutable state of a dataset."""

    root: Path
    folder: Path
    manifest: Manifest
    sha256: str  # of manifest.json
    hold: ReadLock | None = field(default=None, compare=False, repr=False)  # keeps `gc` off it

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
            entry = self.manifest.tables[name]
            return Table(name, entry, self.folder, self.hold, name in self.absent)
        kind, _, own = name.partition("/")
        if own and kind in KINDS:
            there = self.manifest.names(kind)
            raise UsageError(
                f"version {self.number} has no {KINDS[kind]} '{own}'.{nearest(own, there)} "
                f"There: {listing(there)}."
            )
        # A run's, placement's or export's own name, without its kind, is the likeliest slip.
        meant = [table for table in self.manifest.tables if table.endswith(f"/{name}")]
        hint = f" Did you mean {' or '.join(f'{table!r}' for table in meant)}?" if meant else ""
        raise UsageError(
            f"version {self.number} has no table '{name}'."
            f"{hint or nearest(name, self.manifest.tables)}"
        )

    @cached_property
    def absent(self) -> frozenset[str]:
        """The tables that were not pulled when this was first asked."""
        try:
            pointer = read_pointer(self.root)
        except DataError:  # a damaged pointer: who opened the version knows
            pointer = None
        return not_downloaded.names(pointer, self.manifest) if pointer else frozenset()

    def files(self) -> list[FileEntry]:
        """Every file that the manifest names, but for those of tables that were not pulled."""
        tables = [entry for table in self.tables.values() for entry in table.files()]
        return [*tables, *self.manifest.loose_files()]

    @property
    def splits(self) -> list[str]:
        """The names of the splits."""
        return list(self.manifest.rows)

    @property
    def runs(self) -> list[str]:
        """The names of the scoring runs."""
        return self.manifest.names("scores")

    @property
    def default_run(self) -> str | None:
        """The recipe's own run where it is there, else the first; None where there is none."""
        own = (self.manifest.recipe.get("scoring") or {}).get("run")
        return own if own in self.runs else next(iter(self.runs), None)

    @property
    def placements(self) -> list[str]:
        """The names of the placements."""
        return self.manifest.names("placements")

    @property
    def exports(self) -> list[str]:
        """The names of the exports."""
        return self.manifest.names("exports")

    def token_texts(self, ids: Iterable[int]) -> dict[int, str]:
        """The text of each token id, from ``vocab``; ids that are not in it are left out."""
        import pyarrow as pa
        import pyarrow.compute as pc

        wanted = pa.array(sorted(set(ids)), pa.int32())
        texts: dict[int, str] = {}
        table = self.table("vocab")
        for shard in table.shards:
            rows = table.read(shard, ["token_id", "token"])
            rows = rows.filter(pc.field("token_id").isin(wanted))
            columns = (rows.column(name).to_pylist() for name in ("token_id", "token"))
            texts |= dict(zip(*columns, strict=True))
        return texts


def check_shards(table: Table, tokens: Table) -> None:
    """DataError unless the shards of ``table`` have as many rows each as those of ``tokens``."""
    if [s.rows for s in table.shards] != [s.rows for s in tokens.shards]:
        raise DataError(
            f"{table.name}: its shards are not those of tokens. "
            "`pausedata verify` says what is wrong."
        )


def open_version(path: str | Path, version: int | None = None) -> Version:
    """Open the dataset at ``path``: the current version, or the one numbered ``version``.

    Raises UsageError where there is no dataset or no such version, and DataError where the
    manifest is damaged or of a format that this release does not read.
    """
    root = Path(path)
    if version is not None and (not isinstance(version, int) or isinstance(version, bool)):
        raise UsageError(f"version is {version!r}: give a number.")
    for left in reversed(range(_TRIES)):
        pointer = existing_pointer(root)
        try:
            return _open(root, pointer, version)
        except PausedataError:
            # Where `gc` deleted the version between the two readings, the pointer had moved before.
            if not left or version is not None or read_pointer(root) == pointer:
                raise
    raise AssertionError("the last try returns or raises")


def _open(root: Path, pointer: Pointer, version: int | None) -> Version:
    number = pointer.current if version is None else version
    folder = version_folder(root, number)
    if not folder.is_dir():
        there = ", ".join(str(n) for n in version_numbers(root))
        raise UsageError(f"{root}: no version {number}. There: {there or 'none'}.")
    if number == pointer.current:
        return read_version(root, folder, pointer.sha256)
    return read_version(root, folder, recorded_sha256(root, number))


def recorded_sha256(root: Path, number: int) -> str | None:
    """The sha256 of the manifest of ``number``, as its child recorded it; None without one."""
    for later in version_numbers(root):
        if later > number:
            try:
                raw = (version_folder(root, later) / "manifest.json").read_bytes()
                parent = json.loads(raw)["parent"]
                if parent is not None and parent["version"] == number:
                    return parent["sha256"]
            except (OSError, ValueError, KeyError, TypeError):
                continue
    return None


def read_version(root: Path, folder: Path, expected: str | None = None) -> Version:
    """The version in ``folder``, kept from ``gc`` while it is in use.

    DataError where its manifest is damaged, or where ``expected`` is given and is not its sha256.
    """
    path = folder / "manifest.json"
    if not is_inside(os.path.realpath(root), path):
        raise DataError(f"{path}: a link leads out of the dataset: it is not followed.")
    hold = take(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from None
    sha256 = hashlib.sha256(raw).hexdigest()
    if expected is not None and sha256 != expected:
        raise DataError(
            f"{path}: its sha256 is not the one that was recorded: it was changed "
            "or damaged after it was committed."
        )
    try:
        data = json.loads(raw)
        check_format(data, path)
        return Version(root, folder, Manifest.model_validate(data), sha256, hold)
    except (ValueError, ValidationError) as error:
        raise DataError(f"{path}: damaged: {brief(error)}") from None


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


SHOWN = 12  # of the names that there are, in an error


def missing(table: str, tables: Iterable[str]) -> str:
    """An error's text: there is no such run or placement, and which there are."""
    kind, _, own = table.partition("/")
    there = [t.split("/", 1)[1] for t in tables if t.startswith(f"{kind}/")]
    more = f" and {len(there) - SHOWN} more" if len(there) > SHOWN else ""
    return (
        f"there is no {KINDS[kind]} '{own}'.{nearest(own, there)} "
        f"There: {listing(there[:SHOWN])}{more}."
    )
