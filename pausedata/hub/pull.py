"""``pull``: a version from the Hub, whole or some of its tables.

Files are fetched into staging, compared with the manifest's hashes, and only then linked into the
version's folder. A pull that was broken off goes on with what it has.

Files are fetched one by one, not by ``snapshot_download``: each is checked against the manifest
when it comes and fetched once more if it is damaged, only those that are nowhere here are asked
for, and a pull can be stopped between two of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pausedata.core import stopping
from pausedata.core.errors import ConflictError, DataError, UsageError
from pausedata.core.progress import Progress
from pausedata.hub.client import Repository
from pausedata.hub.reference import HubReference, is_cached
from pausedata.hub.remote import chosen_tables, entries_of, sha256_of
from pausedata.hub.snapshot import Snapshot, snapshot
from pausedata.store import files, not_downloaded
from pausedata.store.commit import commit_lock, point_at, prepare_folder, write_pointer
from pausedata.store.dataset import Version, open_version, read_version
from pausedata.store.integrity import problems_of
from pausedata.store.known_damage import MANIFEST
from pausedata.store.manifest import CARD, FileEntry, Manifest, Origin, Pointer, TableEntry
from pausedata.store.opening import POINTER, version_folder
from pausedata.store.pointer import read_pointer
from pausedata.store.repair import all_versions
from pausedata.store.staging import Stage, Staging, when_free

_LARGEST_CARD = 4 << 20
_THREADS = 4  # each fetches a file


@dataclass(frozen=True)
class Pulled:
    """What came, and what did not."""

    version: Version
    commit: str
    tables: list[str]
    absent: list[str]
    fetched_files: int
    fetched_bytes: int


def pull(
    reference: HubReference,
    root: Path,
    progress: Progress,
    only: Collection[str] | None = None,
) -> Pulled:
    """Fetch a version into ``root``: all its tables, or those that ``only`` names.

    ``root`` may be new, or hold an earlier or the same version of the same dataset, of which files
    that are there are not fetched again. Raises ConflictError where it has gone on by itself, and
    DataError where what came is not what the manifest says; then nothing is changed.
    """
    repository = Repository(reference.repo, progress)
    commit = repository.commit_of(reference.revision)
    remote = snapshot(repository, commit.sha)
    return when_free(lambda: pull_from(repository, remote, root, progress, only), progress)


def pull_from(
    repository: Repository,
    remote: Snapshot,
    root: Path,
    progress: Progress,
    only: Collection[str] | None = None,
) -> Pulled:
    """As `pull`, from a commit whose files are listed and whose manifest is read."""
    manifest = remote.manifest
    if manifest is None:
        raise UsageError(
            f"{remote}: is no dataset of pausedata's (no {MANIFEST}). `datasets.load_dataset` may "
            "read it, and a recipe's source.hub."
        )
    present, missing = remote.tables()
    asked = chosen_tables(only, present, str(remote))
    if only is None and missing:
        progress.say(f"not in the repository: {', '.join(missing)}")
    _check_place(root)
    _check_goes_on(root, remote, manifest, asked)
    prepare_folder(root)
    tables = _with_those_here(root, manifest, asked)
    entries = [*manifest.loose_files(), *entries_of(manifest.tables, tables)]
    staging = Staging(root)
    try:
        stage = staging.stage("pull", {"repo": remote.repo, "commit": remote.commit})
        what = remote.repo if only is None else f"{', '.join(only)} from {remote.repo}"
        count, size = _fetch(repository, remote, entries, stage, root, progress, what)
        version = _take_in(root, remote, manifest, asked, tables, entries, stage)
        staging.drop(stage)
    finally:
        staging.close()
    here = [name for name in version.tables if name not in version.absent]
    return Pulled(version, remote.commit, here, sorted(version.absent), count, size)


def _check_place(root: Path) -> None:
    for folder in root.absolute().parents:
        if (folder / POINTER).is_file():
            raise UsageError(
                f"{root}: is inside the dataset {folder.name}. Pull into a folder beside it."
            )


def _check_goes_on(root: Path, remote: Snapshot, manifest: Manifest, tables: list[str]) -> None:
    """ConflictError unless the commit's version can be taken in.

    It can where it is here already, where it follows on the current one, and where the tables that
    are wanted are ones that versions here name and lack.
    """
    number, repo = manifest.version, remote.repo
    folder = version_folder(root, number)
    if folder.is_dir():
        if read_version(root, folder).sha256 == remote.sha256:
            return
        raise ConflictError(
            f"{root}: has a version {number} of its own, which is not that of {repo}. Pull into "
            "another folder."
        )
    pointer = read_pointer(root)
    if pointer is None or _fills(pointer, manifest, tables):
        return
    parent = manifest.parent
    follows = parent is not None and parent.sha256 == pointer.sha256
    untouched = any(seen.sha256 == pointer.sha256 for seen in pointer.seen_at(repo))
    if number > pointer.current and (follows or untouched):
        return
    raise ConflictError(
        f"{root}: is at version {pointer.current}, and version {number} of {repo} does not follow "
        "on it. Pull into another folder."
    )


def _fills(pointer: Pointer, manifest: Manifest, tables: list[str]) -> bool:
    """Whether ``tables`` are ones that later versions here name too, and that are absent here."""
    return (
        manifest.version < pointer.current
        and bool(tables)
        and all(manifest.tables[n].content in pointer.absent.get(n, []) for n in tables)
    )


def _with_those_here(root: Path, manifest: Manifest, tables: list[str]) -> list[str]:
    """``tables``, and those others of the manifest that some version at ``root`` has already."""
    here = {
        (name, table.entry.content)
        for version in all_versions(root)
        for name, table in version.tables.items()
        if not table.absent
    }
    return [n for n, entry in manifest.tables.items() if n in tables or (n, entry.content) in here]


def _fetch(
    repository: Repository,
    remote: Snapshot,
    entries: list[FileEntry],
    stage: Stage,
    root: Path,
    progress: Progress,
    what: str,
) -> tuple[int, int]:
    """Have all ``entries`` in the stage; how many files came from the Hub, and their bytes."""
    todo = _link_local_files(entries, stage.folder, [root, *_siblings(root)])
    size = sum(entry.bytes for entry in todo)
    free = shutil.disk_usage(stage.folder).free
    if size > free:
        raise UsageError(
            f"{root}: {size:,} bytes are to be fetched, and {free:,} are free. Fetch less "
            "(--only), or choose a folder on another disk."
        )
    _fetch_card(repository, remote, stage)
    if not todo:
        return 0, 0

    def fetch(entry: FileEntry) -> int:
        for force in (False, True):
            path = repository.download(remote.commit, entry.path, stage.folder, force=force)
            if not path.is_symlink() and _is_whole(stage.folder, entry):
                return entry.bytes
        path.unlink(missing_ok=True)
        raise DataError(
            f"{entry.path}: what {repository.repo} sends is not what its manifest says, twice. "
            "Nothing was changed; try again, and tell its owner if it stays so."
        )

    title = f"fetching {what}"
    with (
        stopping.graceful_shutdown(),
        progress.step(title, size, "bytes") as advance,
        ThreadPoolExecutor(_THREADS) as pool,
    ):
        futures = [pool.submit(fetch, entry) for entry in todo]
        try:
            for future in futures:
                advance(future.result())
                stopping.raise_if_stopped()  # files under way are waited for below
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return len(todo), size


def _fetch_card(repository: Repository, remote: Snapshot, stage: Stage) -> None:
    """Have the card in the stage. One that is too large or damaged is left out: it is no data."""
    file = remote.files.get(CARD)
    if file is None or file.bytes > _LARGEST_CARD or (stage.folder / CARD).is_file():
        return
    raw = repository.read(remote.commit, CARD)
    if file.is_same(len(raw), sha256_of(raw), lambda: raw):
        (stage.folder / CARD).write_bytes(raw)


def _link_local_files(
    entries: list[FileEntry], folder: Path, roots: Iterable[Path]
) -> list[FileEntry]:
    """Link those of ``entries`` that datasets at ``roots`` have into ``folder``.

    Returns the others, and those in ``folder`` that are damaged.
    """
    wanted = {
        (entry.path, entry.sha256): entry for entry in entries if not (folder / entry.path).exists()
    }
    fetched = [entry for entry in entries if (entry.path, entry.sha256) not in wanted]
    for version in (version for root in roots for version in all_versions(root)):
        for entry in version.files():
            donor = version.folder / entry.path
            key = (entry.path, entry.sha256)
            if key in wanted and donor.is_file() and files.sha256_of(donor) == entry.sha256:
                files.link_or_copy(donor, folder / entry.path)
                del wanted[key]
    return [*wanted.values(), *(e for e in fetched if not _is_whole(folder, e))]


def _is_whole(folder: Path, entry: FileEntry) -> bool:
    path = folder / entry.path
    return path.stat().st_size == entry.bytes and files.sha256_of(path) == entry.sha256


def _siblings(root: Path) -> list[Path]:
    """Copies of other commits of the same repository, where ``root`` is in the cache."""
    return [p for p in root.parent.iterdir() if p != root and p.is_dir()] if is_cached(root) else []


def _take_in(
    root: Path,
    remote: Snapshot,
    manifest: Manifest,
    asked: list[str],
    tables: list[str],
    entries: list[FileEntry],
    stage: Stage,
) -> Version:
    """Make the commit's version, or complete the one that is here, and point at it.

    After a kill at any moment a table is here as a whole, or ``pausedata.json`` calls it absent.
    """
    number = manifest.version
    with commit_lock(root):
        _check_goes_on(root, remote, manifest, asked)  # others may have committed meanwhile
        target = version_folder(root, number)
        pointer = read_pointer(root)
        if pointer is not None and not target.is_dir() and _fills(pointer, manifest, asked):
            wanted = {name: manifest.tables[name] for name in asked}
            _fill(root, wanted, stage.folder)
            write_pointer(root, _noted(pointer, here=wanted, absent={}))
            return open_version(root)
        if target.is_dir():
            for path in problems_of(target, entries):  # missing, or damaged
                (target / path).unlink(missing_ok=True)
                _link_read_only(stage.folder, target, path)
            files.sync_tree(target)
        else:
            if pointer is not None:
                absent = {n: t for n, t in manifest.tables.items() if n not in tables}
                pointer = _noted(pointer, here={}, absent=absent)
                write_pointer(root, pointer)
            _make_version(root, remote, entries, stage, target)
        version = read_version(root, target)
        _fill(root, {name: manifest.tables[name] for name in tables}, target)
        here = {name: table for name, table in manifest.tables.items() if _is_here(target, table)}
        absent = {name: table for name, table in manifest.tables.items() if name not in here}
        known = pointer or Pointer(current=number, sha256=version.sha256)
        pointer = _noted(known, here, absent)
        if pointer.current > number:  # an older version, beside the one that readers see
            write_pointer(root, pointer)
        else:
            origin = Origin(
                repo=remote.repo, commit=remote.commit, version=number, sha256=version.sha256
            )
            point_at(root, version, pointer.model_copy(update={"origin": origin}))
    return open_version(root, number)


def _make_version(
    root: Path, remote: Snapshot, entries: list[FileEntry], stage: Stage, target: Path
) -> None:
    """Rename a whole folder to ``target``, as a commit does."""
    staged = files.new_folder(root / "staging", "commit-")
    for entry in entries:
        _link_read_only(stage.folder, staged, entry.path)
    if (stage.folder / CARD).is_file():
        _link_read_only(stage.folder, staged, CARD)
    (staged / MANIFEST).write_bytes(remote.raw)
    files.make_read_only(staged / MANIFEST)
    files.sync_tree(staged)
    target.parent.mkdir(exist_ok=True)
    staged.rename(target)
    files.sync(target.parent)


def _noted(
    pointer: Pointer, here: Mapping[str, TableEntry], absent: Mapping[str, TableEntry]
) -> Pointer:
    """``pointer``, with a note of which tables are here, and which are not."""
    for name, entry in here.items():
        pointer = not_downloaded.without(pointer, name, entry.content)
    for name, entry in absent.items():
        pointer = not_downloaded.with_(pointer, name, entry.content)
    return pointer


def _is_here(folder: Path, table: TableEntry) -> bool:
    return all(
        (folder / entry.path).is_file() and (folder / entry.path).stat().st_size == entry.bytes
        for entry in table.all_files()
    )


def _fill(root: Path, tables: Mapping[str, TableEntry], source: Path) -> None:
    """Link the files of ``tables`` from ``source`` into all versions with the same tables."""
    for version in all_versions(root):
        for name, entry in tables.items():
            own = version.manifest.tables.get(name)
            if own is None or own.content != entry.content:
                continue
            for file in own.all_files():
                if not (version.folder / file.path).exists():
                    _link_read_only(source, version.folder, file.path)


def _link_read_only(stage: Path, folder: Path, path: str) -> None:
    """Link a fetched file into a version; it stays in the stage too, in case of a kill."""
    files.make_read_only(stage / path)  # first: a kill must leave no writable file in a version
    files.link_read_only(stage / path, folder / path)
