"""Putting damaged files right: from another version that holds them whole, or made again.

A file that is put back has the recorded sha256, and takes the damaged one's place by rename in
every version that lists it. What cannot come out like that is made anew in a new version; the old
ones stay as they are and are marked in ``damaged.json``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pausedata.errors import DataError
from pausedata.progress import Progress
from pausedata.store import files
from pausedata.store.card import card
from pausedata.store.commit import commit_lock, point_at
from pausedata.store.dataset import (
    POINTER,
    Version,
    read_version,
    version_folder,
    version_numbers,
)
from pausedata.store.integrity import problems_of
from pausedata.store.manifest import FORMAT, FileEntry, Pointer
from pausedata.store.marks import MANIFEST, add_marks


def mend(
    base: Version, progress: Progress, tables: list[str] | None = None
) -> dict[str, dict[str, str]]:
    """Say what is damaged (of ``tables``) and put right what needs no work; what is left of it."""
    found = damage(base, tables)
    for paths in found.values():
        for path, why in paths.items():
            progress.warn(f"version {base.number}: {path}: {why}")
    if not found:
        return {}
    for path in restore(base, found):
        progress.say(f"{path}: put back, as it was")
    left = damage(base, tables)
    return {name: paths for name, paths in left.items() if name}


def fall_back(root: Path, progress: Progress) -> None:
    """Where the current version's manifest is lost, or the pointer, go on from the newest version
    that has one.

    Its shards may be whole, but what they are is not known any more. Raises DataError where no
    version is left.
    """
    with commit_lock(root):
        lost = _lost_manifest(root)
        if lost is None:
            return
        for number in reversed(version_numbers(root)):
            if number in lost:
                continue
            try:
                version = read_version(root, version_folder(root, number))
            except DataError as error:
                lost[number] = {MANIFEST: str(error)}
                continue
            for damaged, paths in lost.items():
                progress.warn(f"version {damaged}: {'; '.join(paths.values())}")
            progress.warn(f"going on from version {number}, the newest that is whole")
            add_marks(root, lost, version_numbers(root))
            point_at(root, version)
            return
    raise DataError(
        f"{root}: no version has a manifest that can be read, without which nobody knows what its "
        "shards are. Build into another --output."
    )


def _lost_manifest(root: Path) -> dict[int, dict[str, str]] | None:
    """The current version with what is wrong with its manifest; None where nothing is.

    Empty where the pointer itself is damaged. What a later release wrote is not damaged.
    """
    path = root / POINTER
    try:
        said = json.loads(path.read_text("utf-8"))
        if said.get("format", FORMAT) != FORMAT:
            return None
        pointer = Pointer.model_validate(said)
    except FileNotFoundError:
        return None
    except (ValueError, AttributeError):
        return {}
    try:
        raw = (version_folder(root, pointer.current) / MANIFEST).read_bytes()
    except OSError as error:
        return {pointer.current: {MANIFEST: f"{MANIFEST}: {error.strerror}"}}
    if hashlib.sha256(raw).hexdigest() == pointer.sha256:
        return None
    return {pointer.current: {MANIFEST: f"{MANIFEST}: its sha256 is not what {POINTER} records"}}


def damage(version: Version, tables: Sequence[str] | None = None) -> dict[str, dict[str, str]]:
    """The damaged files of each table (of ``tables``), with what is wrong with each.

    The empty name stands for the files that belong to no table.
    """
    entries = version.files()
    if tables is not None:
        entries = [entry for name in tables for entry in version.table(name).files()]
    found = problems_of(version.folder, entries)
    owners = {e.path: name for name, table in version.tables.items() for e in table.files()}
    by_table: dict[str, dict[str, str]] = {}
    for path, why in found.items():
        by_table.setdefault(owners.get(path, ""), {})[path] = why
    return by_table


def restore(version: Version, found: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Put back the damaged files that another version holds whole, and the card. Their paths."""
    restored = []
    others = [v for v in all_versions(version.root) if v.number != version.number]
    for entry in version.files():
        if not any(entry.path in paths for paths in found.values()):
            continue
        for other in others:
            same = [e for e in other.files() if (e.path, e.sha256) == (entry.path, entry.sha256)]
            if same and not problems_of(other.folder, same):
                put_back(version.root, entry, other.folder / entry.path)
                restored.append(entry.path)
                break
        else:
            if entry.path == "README.md" and _rewrite_card(version, entry):
                restored.append(entry.path)
    return restored


def put_back(root: Path, entry: FileEntry, donor: Path) -> None:
    """Give ``donor``'s bytes, which are what ``entry`` says, to every version that lost them."""
    with commit_lock(root):
        for version in all_versions(root):
            for listed in version.files():
                if (listed.path, listed.sha256) != (entry.path, entry.sha256):
                    continue
                target = version.folder / listed.path
                if not problems_of(version.folder, [listed]):
                    continue
                # Made outside the version, whose folder never holds what its manifest does not.
                temporary = root / "staging" / f"repair-{os.getpid()}"
                temporary.unlink(missing_ok=True)
                files.link_or_copy(donor, temporary)
                files.set_mode(temporary, files.READ_ONLY)
                files.sync(temporary)
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary.replace(target)
                files.sync(target.parent)


def all_versions(root: Path) -> list[Version]:
    """Every version whose manifest can be read, ascending."""
    found = []
    for number in version_numbers(root):
        try:
            found.append(read_version(root, version_folder(root, number)))
        except DataError:
            continue
    return found


def mark(root: Path, entries: list[FileEntry]) -> list[int]:
    """Mark every version in which one of ``entries`` is damaged. The versions' numbers."""
    wanted = {(entry.path, entry.sha256) for entry in entries}
    with commit_lock(root):
        found = {}
        for version in all_versions(root):
            listed = [e for e in version.files() if (e.path, e.sha256) in wanted]
            if problems := problems_of(version.folder, listed):
                found[version.number] = problems
        add_marks(root, found, version_numbers(root))
    return sorted(found)


def _rewrite_card(version: Version, entry: FileEntry) -> bool:
    """Write README.md again; whether it came out as it was, which a newer release may not do."""
    text = card(version.manifest.model_copy(update={"files": []}))
    temporary = version.root / "staging" / f"card-{os.getpid()}.md"
    temporary.write_text(text, encoding="utf-8")
    try:
        same = files.sha256_of(temporary) == entry.sha256
        if same:
            put_back(version.root, entry, temporary)
        return same
    finally:
        temporary.unlink(missing_ok=True)
