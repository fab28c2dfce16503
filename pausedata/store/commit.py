"""Committing a version: stage a whole folder, rename it to the next number, move the pointer."""

from __future__ import annotations

import datetime
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from pausedata.core.errors import ConflictError, DataError, UsageError
from pausedata.core.version import __version__
from pausedata.store import files
from pausedata.store.dataset import Table, Version, read_version
from pausedata.store.known_damage import MANIFEST, MARKS, marks
from pausedata.store.manifest import CARD, FORMAT, Manifest, Parent, PauseEntry, Pointer, SplitRows
from pausedata.store.opening import POINTER, version_folder, version_numbers
from pausedata.store.pointer import read_pointer
from pausedata.store.read_locks import check_locks

OURS = {POINTER, "current", "versions", "staging", "CARD.md", MARKS}
COMMIT_LOCK = "commit.lock"  # in staging/


@dataclass(frozen=True)
class Change:
    """What a commit changes: tables made or remade, tables taken out, and the header's new parts.

    A part of the header that is None stays as the parent has it. ``finish`` is given the new
    version's number and completes the tables where their files have to name it.
    """

    command: str
    tables: dict[str, Table]
    removed: frozenset[str] = frozenset()
    finish: Callable[[int], dict[str, Table]] | None = None
    name: str | None = None
    recipe: dict[str, Any] | None = None
    pins: dict[str, str] | None = None
    pause: PauseEntry | None = None
    rows: dict[str, SplitRows] | None = None


@dataclass(frozen=True)
class Committed:
    """A version that was just made."""

    version: Version
    copied: int = field(default=0)  # bytes that had to be copied where links were not to be had


def prepare_folder(root: Path) -> None:
    """Make sure that ``root`` is a dataset, or a folder that may become one."""
    if str(root).startswith("hf:/"):
        raise UsageError(f"{root}: is no folder; `pausedata push` writes to the Hub.")
    if root.is_symlink() and not root.exists():
        raise UsageError(f"{root}: is a link to nothing. Choose another --output, or remove it.")
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root}: is a file; a dataset is a folder. Choose another --output.")
    strangers = (
        sorted(p.name for p in root.iterdir() if not _is_ours(p.name)) if root.exists() else []
    )
    if strangers and not (root / POINTER).exists() and not version_numbers(root):
        raise UsageError(
            f"{root}: holds something else ({', '.join(strangers[:3])}"
            f"{' …' if len(strangers) > 3 else ''}). Choose another --output, or empty it."
        )
    (root / "staging").mkdir(parents=True, exist_ok=True)
    check_locks(root / "staging" / COMMIT_LOCK)


def _is_ours(name: str) -> bool:
    # A kill while the pointer is written leaves that file under its temporary name.
    return name in OURS or name.startswith(f".{POINTER}.")


def current_version(root: Path) -> Version | None:
    """The version that a writer starts from; a commit that was cut off is finished first."""
    if read_pointer(root) is None and not version_numbers(root):
        return None
    with commit_lock(root):
        return _recover(root)


def commit(
    root: Path, base: Version | None, change: Change, card: Callable[[Manifest], str]
) -> Committed:
    """Make the next version out of the current one and ``change``.

    ``base`` is the version that the change was worked out from. Where others committed since, the
    change is made on top of theirs if what it rests on is still the same; else ConflictError.
    """
    with commit_lock(root):
        parent = _recover(root)
        if parent is not None or base is not None:
            _check_still_applies(base, parent, change)
        for stale in (root / "staging").glob("commit-*/"):  # of a killed commit: we hold the lock
            shutil.rmtree(stale, ignore_errors=True)
        for stale in root.glob(f".{POINTER}.*.tmp"):
            stale.unlink(missing_ok=True)
        number = max([0, *version_numbers(root), parent.number if parent else 0]) + 1
        staged = files.new_folder(root / "staging", "commit-")
        try:
            copied = _fill(staged, number, parent, change, card)
            target = version_folder(root, number)
            target.parent.mkdir(exist_ok=True)
            try:
                staged.rename(target)
            except OSError as error:
                if target.exists():
                    raise ConflictError(
                        f"{root}: version {number} was taken by another writer "
                        "meanwhile. Run the command again."
                    ) from error
                raise
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
        files.sync(target.parent)
        return Committed(point_at(root, read_version(root, target)), copied)


@contextmanager
def commit_lock(root: Path) -> Iterator[None]:
    """Held only while a commit is made; the system frees it when its process dies."""
    (root / "staging").mkdir(parents=True, exist_ok=True)
    check_locks(root / "staging" / COMMIT_LOCK)
    with FileLock(root / "staging" / COMMIT_LOCK):
        yield


def _recover(root: Path) -> Version | None:
    """The current version, after moving the pointer to a whole successor that a kill left."""
    pointer = read_pointer(root)
    current = (
        read_version(root, version_folder(root, pointer.current), pointer.sha256)
        if pointer
        else None
    )
    number = (pointer.current if pointer else 0) + 1
    if not version_folder(root, number).is_dir() or MANIFEST in marks(root).get(number, {}):
        return current
    try:
        successor = read_version(root, version_folder(root, number))
    except DataError:  # no version of ours: nobody ever saw it, and its number is not used again
        return current
    made_from = successor.manifest.parent
    if (made_from.sha256 if made_from else None) != (current.sha256 if current else None):
        return current
    return point_at(root, successor)


def point_at(root: Path, version: Version, pointer: Pointer | None = None) -> Version:
    """Make ``version`` the one that readers see; the caller holds the commit lock.

    What else ``pausedata.json`` is to say is in ``pointer``; else what it says stays.
    """
    if pointer is None:
        with suppress(DataError):  # damaged: this is what puts it right
            pointer = read_pointer(root)
    at = {"current": version.number, "sha256": version.sha256}
    write_pointer(root, pointer.model_copy(update=at) if pointer else Pointer(**at))
    link = root / "current"
    temporary = root / "staging" / f"current-{os.getpid()}"
    try:  # a convenience for shells: a file system without symbolic links does without it
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(Path("versions") / version.folder.name)
        temporary.replace(link)
    except OSError:
        temporary.unlink(missing_ok=True)
    return version


def write_pointer(root: Path, pointer: Pointer) -> None:
    """Replace ``pausedata.json``; the caller holds the commit lock."""
    files.write_json(root / POINTER, {"format": FORMAT} | pointer.model_dump(exclude_defaults=True))


def _check_still_applies(base: Version | None, parent: Version | None, change: Change) -> None:
    """Raise ConflictError if another writer changed what this change makes or rests on."""
    if base is not None and parent is not None and base.sha256 == parent.sha256:
        return
    rests_on = {"examples", "tokens", *change.tables, *change.removed}
    for table in change.tables.values():
        rests_on |= set(table.entry.provenance.get("made_from", []))
    for name in sorted(rests_on):
        before = base.manifest.tables.get(name) if base else None
        now = parent.manifest.tables.get(name) if parent else None
        if (before.content if before else None) != (now.content if now else None):
            raise ConflictError(
                f"'{name}' was changed by another writer meanwhile. Nothing was "
                "committed; run the command again to work from what is there now."
            )
    # And the other way round: what others made from a table that this change makes or removes.
    ours = {*change.tables, *change.removed}
    for name, entry in (parent.manifest.tables if parent else {}).items():
        before = base.manifest.tables.get(name) if base else None
        rests_on_ours = ours & set(entry.provenance.get("made_from", []))
        if name not in ours and entry != before and rests_on_ours:
            raise ConflictError(
                f"'{name}' was made from '{min(rests_on_ours)}' by another writer meanwhile. "
                "Nothing was committed; run the command again to work from what is there now."
            )


def _fill(
    staged: Path,
    number: int,
    parent: Version | None,
    change: Change,
    card: Callable[[Manifest], str],
) -> int:
    """Link every file of the new version into ``staged`` and write its manifest. Bytes copied."""
    tables = {n: t for n, t in (parent.tables if parent else {}).items() if n not in change.removed}
    tables |= change.finish(number) if change.finish else change.tables
    copied = 0
    for name in sorted(tables, key=_table_order):
        table = tables[name]
        for entry in table.files():
            if name not in change.tables and not (table.folder / entry.path).is_file():
                continue  # the parent lost it: the table is as damaged in this version as in that
            copied += files.link_read_only(table.folder / entry.path, staged / entry.path)

    def kept(part: str) -> Any:
        ours = getattr(change, part)
        return getattr(parent.manifest, part) if ours is None and parent else ours

    manifest = Manifest(
        # What a later release added stays, as do its tables and the keys of their entries.
        **((parent.manifest.model_extra or {}) if parent else {}),
        min_reader=parent.manifest.min_reader if parent else 1,
        name=kept("name"),
        version=number,
        parent=Parent(version=parent.number, sha256=parent.sha256) if parent else None,
        created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        created_by=f"pausedata {__version__}",
        command=change.command,
        recipe=kept("recipe"),
        pins=kept("pins") or {},
        pause=kept("pause"),
        rows=kept("rows"),
        tables={name: tables[name].entry for name in sorted(tables, key=_table_order)},
    )
    # Written last, and in place: nobody reads this folder before it is renamed.
    (staged / CARD).write_text(card(manifest), encoding="utf-8")
    text = manifest.model_dump_json(indent=1, by_alias=True)
    (staged / "manifest.json").write_text(text + "\n", encoding="utf-8")
    for name in (CARD, "manifest.json"):
        files.make_read_only(staged / name)
    files.sync_tree(staged)
    return copied


def _table_order(name: str) -> int:
    """The pipeline's order, and within it that of making: manifests read from source to export.

    Behind them what a later release made.
    """
    kinds = ["examples", "vocab", "tokens", "scores", "kept", "placements", "exports"]
    kind = name.split("/")[0]
    return kinds.index(kind) if kind in kinds else len(kinds)
