"""Reading a dataset: resolve a version once, then read its tables shard by shard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pausedata.core.errors import DataError, UsageError, listing, nearest
from pausedata.store import not_downloaded
from pausedata.store.integrity import problems_of, require_placed, require_whole
from pausedata.store.manifest import FileEntry, Manifest, Pointer, ShardEntry, TableEntry
from pausedata.store.opening import POINTER, Opened, read_manifest, read_opened
from pausedata.store.pointer import read_pointer, valid
from pausedata.store.read_locks import ReadLock

if TYPE_CHECKING:
    import pyarrow as pa

# The kinds of table that there may be several of, and what one of them is called.
KINDS = {
    "scores": "run",
    "kept": "kept run",
    "placements": "placement",
    "exports": "export",
    "gates": "gate",
}
SHOWN = 12  # of the names that there are, in an error


@dataclass(frozen=True)
class Table:
    """A table, committed or staged: its manifest entry and the folder its paths are relative to."""

    name: str
    entry: TableEntry
    folder: Path
    hold: ReadLock | None = field(default=None, compare=False, repr=False)  # its version's
    absent: bool = False  # its files were not pulled
    # Folders of other versions, by path, for files that are damaged here and whole there.
    elsewhere: Mapping[str, Path] = field(default_factory=dict, compare=False, repr=False)

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

    def damaged(self) -> set[str]:
        """The paths of shards that cannot be read; none of a table that is yet to be fetched."""
        found: set[str] = set()
        for folder in {} if self.absent else dict.fromkeys(map(self._folder, self.shards)):
            found |= {*problems_of(folder, [s for s in self.shards if self._folder(s) == folder])}
        return found

    def _folder(self, shard: ShardEntry) -> Path:
        return self.elsewhere.get(shard.path, self.folder)

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
        folder = self._folder(shard)
        require_placed(folder, [shard])
        # The bytes are hashed while the values are decoded: both are work outside Python.
        with ThreadPoolExecutor(1) as beside:
            checked = beside.submit(require_whole, folder, [shard])
            try:
                return read_shard(folder / shard.path, columns, threads)
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
    # What it was opened by, so that a command reads it once.
    pointer: Pointer | None = field(default=None, compare=False, repr=False)
    elsewhere: Mapping[str, Path] = field(default_factory=dict, compare=False, repr=False)

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
            absent = name in self.absent
            return Table(name, entry, self.folder, self.hold, absent, self.elsewhere)
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
            pointer = self.pointer or read_pointer(self.root)
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

    def placed_from(self, placement: str) -> str | None:
        """The run that ``placement`` was made from; None where it needed none, or it is gone."""
        provenance = self.table(f"placements/{placement}").entry.provenance
        run = provenance.get("inputs", {}).get("run")
        return run if run in self.runs else None

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
            # A mask: an expression would import pyarrow.dataset to be worked out.
            known = pc.is_in(  # pyright: ignore[reportAttributeAccessIssue]
                rows.column("token_id"), value_set=wanted
            )
            rows = rows.filter(known)
            columns = (rows.column(name).to_pylist() for name in ("token_id", "token"))
            texts |= dict(zip(*columns, strict=True))
        return texts


def missing(table: str, tables: Iterable[str]) -> str:
    """That there is no such run or placement, and which there are."""
    kind, _, own = table.partition("/")
    there = [t.split("/", 1)[1] for t in tables if t.startswith(f"{kind}/")]
    more = f" and {len(there) - SHOWN} more" if len(there) > SHOWN else ""
    return (
        f"there is no {KINDS[kind]} '{own}'.{nearest(own, there)} "
        f"There: {listing(there[:SHOWN])}{more}."
    )


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
    return checked(read_opened(path, version))


def checked(opened: Opened) -> Version:
    """The version with every field of its manifest looked at; DataError where one is wrong."""
    path = opened.folder / "manifest.json"
    pointer = opened.pointer
    return Version(
        opened.root,
        opened.folder,
        valid(Manifest, opened.manifest, path),
        opened.sha256,
        opened.hold,
        None if pointer is None else valid(Pointer, pointer, opened.root / POINTER),
    )


def read_version(root: Path, folder: Path, expected: str | None = None) -> Version:
    """The version in ``folder``, held; DataError where ``expected`` is not its manifest's hash."""
    return checked(read_manifest(root, folder, expected))


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
