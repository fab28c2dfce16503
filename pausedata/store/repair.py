"""Putting damaged files right: from another version that holds them whole, or made again.

A file that is put back has the recorded sha256, and takes the damaged one's place by rename in
every version that lists it. What cannot come out like that is made anew in a new version; the old
ones stay as they are and are marked in ``damaged.json``.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pausedata.core.errors import DataError, NewerFormatError
from pausedata.core.progress import Progress
from pausedata.store import files
from pausedata.store.commit import commit_lock, point_at
from pausedata.store.dataset import KINDS, Version, read_version
from pausedata.store.integrity import problems_of
from pausedata.store.known_damage import MANIFEST, add_marks, marks
from pausedata.store.manifest import FORMAT, FileEntry, Pointer
from pausedata.store.opening import POINTER, recorded_sha256, version_folder, version_numbers

Key = tuple[str, str]  # a file's path in its version, and its sha256: the same in many versions
NAMED = 5  # damaged files of a version that are named; the others are counted


def mend(
    base: Version, progress: Progress, tables: list[str] | None = None
) -> dict[str, dict[str, str]]:
    """Put right what needs no work, saying so; the damaged files of ``base`` that are left.

    They come by table, with what is wrong with each. Looked at are the ``tables`` of ``base``, or
    where they are None every version: what cannot be put right in the older ones is marked.
    Raises DataError where a file is there and may not be read.
    """
    root, known = base.root, marks(base.root)
    versions = all_versions(root) if tables is None else [base]
    lost: set[Key] = set()
    for version in versions:
        entries = _entries(version, tables if version.number == base.number else None)
        expected = {} if version.number == base.number else known.get(version.number, {})
        entries = [entry for entry in entries if entry.path not in expected]
        found = problems_of(version.folder, entries)
        _require_permission(version, found)
        _warn(version, found, progress)
        lost |= {_key(entry) for entry in entries if entry.path in found}
    if lost:
        donors = _donors(root, lost)
        put_back(root, donors)
        restored = sorted({path for path, _ in donors})
        for path in restored[:NAMED]:
            progress.say(f"{path}: put back, as it was")
        if len(restored) > NAMED:
            progress.say(f"and {len(restored) - NAMED} more files")
    left = damage(base, tables) if lost else {}
    if tables is None:
        _mark_older(base, lost, left)
    return {name: paths for name, paths in left.items() if name}


def find_damage(base: Version, tables: list[str] | None = None) -> tuple[Version, set[str]]:
    """What ``mend`` would come to, with nothing written: ``base``, whose files are read from other
    versions where these alone have them whole; and the tables of which that leaves some damaged.
    """
    found = damage(base, tables)
    paths = {path for files in found.values() for path in files}
    lost = [entry for entry in _entries(base, tables) if entry.path in paths]
    _require_permission(base, {entry.path: "" for entry in lost})
    donors = _donors(base.root, {_key(entry) for entry in lost})
    # A file's path is in its version's folder: the donor's folder is what stands before it.
    elsewhere = {p: donor.parents[len(Path(p).parents) - 1] for (p, _), donor in donors.items()}
    left = {name for name, files in found.items() if name and not elsewhere.keys() >= files.keys()}
    return replace(base, elsewhere=elsewhere), left


def fall_back(root: Path, progress: Progress) -> None:
    """Where the current version's manifest is lost, or the pointer, go on from the newest version
    that has one.

    Its shards may be whole, but what they are is not known any more. Raises DataError where no
    version is left, and OSError where a file is there and cannot be read for now.
    """
    with commit_lock(root):
        found = find_fall_back(root)
        if found is None:
            return
        version, lost, why = found
        for line in why:
            progress.warn(line)
        add_marks(root, lost, version_numbers(root))
        point_at(root, version)


def find_fall_back(root: Path) -> tuple[Version, dict[int, dict[str, str]], list[str]] | None:
    """What ``fall_back`` would go on from, with nothing written; None where nothing is lost.

    The version, the damaged files of those that are lost, and a line on each, for people.
    """
    lost = _lost_manifest(root)
    if lost is None:
        return None
    for number in reversed(version_numbers(root)):
        if number in lost:
            continue
        try:
            version = read_version(root, version_folder(root, number))
        except NewerFormatError:
            raise
        except DataError as error:
            _manifest_bytes(root, number)  # one that cannot be read for now is not lost
            lost[number] = {MANIFEST: str(error)}
            continue
        why = []
        for damaged, paths in lost.items():
            gone = sorted(_tables_in(version_folder(root, damaged)) - set(version.tables))
            also = f" It also had {', '.join(gone)}: make them again." if gone else ""
            why.append(f"version {damaged}: {'; '.join(paths.values())}.{also}")
        return version, lost, [*why, f"going on from version {number}, the newest that is whole"]
    raise DataError(
        f"{root}: no version has a manifest that can be read, without which nobody knows what its "
        "shards are. Build into another --output."
    )


def damage(version: Version, tables: Sequence[str] | None = None) -> dict[str, dict[str, str]]:
    """The damaged files of each table (of ``tables``), with what is wrong with each.

    The empty name stands for the files that belong to no table.
    """
    found = problems_of(version.folder, _entries(version, tables))
    owners = {e.path: name for name, table in version.tables.items() for e in table.files()}
    by_table: dict[str, dict[str, str]] = {}
    for path, why in found.items():
        by_table.setdefault(owners.get(path, ""), {})[path] = why
    return by_table


def put_back(root: Path, donors: Mapping[Key, Path]) -> None:
    """Give the bytes of ``donors``, which are what the keys say, to all versions that lost them."""
    with commit_lock(root):
        for version in all_versions(root):
            listed = [entry for entry in version.files() if _key(entry) in donors]
            for path in problems_of(version.folder, listed):
                sha256 = next(entry.sha256 for entry in listed if entry.path == path)
                _replace(root, version.folder / path, donors[path, sha256])


def all_versions(root: Path) -> list[Version]:
    """Every version whose manifest can be read and was not marked as lost, ascending."""
    found, known = [], marks(root)
    for number in version_numbers(root):
        if MANIFEST in known.get(number, {}):
            continue
        try:
            found.append(read_version(root, version_folder(root, number)))
        except DataError:
            continue
    return found


def mark(root: Path, entries: list[FileEntry]) -> list[int]:
    """Mark every version in which one of ``entries`` is damaged. The versions' numbers."""
    wanted = {_key(entry) for entry in entries}
    with commit_lock(root):
        found = {}
        for version in all_versions(root):
            listed = [e for e in version.files() if _key(e) in wanted]
            if problems := problems_of(version.folder, listed):
                found[version.number] = problems
        add_marks(root, found, version_numbers(root))
    return sorted(found)


def _key(entry: FileEntry) -> Key:
    return entry.path, entry.sha256


def _entries(version: Version, tables: Sequence[str] | None) -> list[FileEntry]:
    if tables is None:
        return version.files()
    return [entry for name in tables for entry in version.table(name).files()]


def _warn(version: Version, found: Mapping[str, str], progress: Progress) -> None:
    for path, why in list(found.items())[:NAMED]:
        progress.warn(f"version {version.number}: {path}: {why}")
    if len(found) > NAMED:
        progress.warn(f"version {version.number}: and {len(found) - NAMED} more files")


def _require_permission(version: Version, found: Mapping[str, str]) -> None:
    """A file that may not be read is not damaged: making it again would only hide that."""
    for path in found:
        full = version.folder / path
        if full.is_file() and not os.access(full, os.R_OK):
            raise DataError(f"{full}: may not be read by you. Change its permissions.")


def _donors(root: Path, wanted: set[Key]) -> dict[Key, Path]:
    """A whole file for each of ``wanted`` that some version has."""
    found: dict[Key, Path] = {}
    for version in all_versions(root):
        entries = [e for e in version.files() if _key(e) in wanted and _key(e) not in found]
        damaged = problems_of(version.folder, entries)
        found |= {_key(e): version.folder / e.path for e in entries if e.path not in damaged}
    return found


def _replace(root: Path, target: Path, donor: Path) -> None:
    """Put a copy of ``donor``, or a link to it, in the place of whatever is at ``target``."""
    # Made outside the version, whose folder never holds what its manifest does not.
    temporary = root / "staging" / f"repair-{os.getpid()}"
    temporary.unlink(missing_ok=True)
    try:
        files.link_read_only(donor, temporary)
        files.sync(temporary)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():  # a rename does not take a folder's place
            target.rename(root / "staging" / f"gc-{secrets.token_hex(8)}")
        temporary.replace(target)
        files.sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _mark_older(base: Version, lost: set[Key], left: Mapping[str, Mapping[str, str]]) -> None:
    """Mark what of ``lost`` is lost to older versions for good, and manifests that are.

    What is ``left`` of ``base`` is made again, for all versions.
    """
    root, paths = base.root, {path for paths in left.values() for path in paths}
    again = {_key(entry) for entry in base.files() if entry.path in paths}
    found: dict[int, dict[str, str]] = {}
    for number in version_numbers(root):
        if number >= base.number:
            continue
        try:
            folder = version_folder(root, number)
            version = read_version(root, folder, recorded_sha256(root, number))
        except NewerFormatError:
            continue
        except DataError as error:
            _manifest_bytes(root, number)  # one that cannot be read for now is not lost
            found[number] = {MANIFEST: str(error)}
            continue
        entries = [entry for entry in version.files() if _key(entry) in lost - again]
        if problems := problems_of(version.folder, entries):
            found[number] = problems
    known = marks(root)
    if any(found[number].keys() - known.get(number, {}).keys() for number in found):
        with commit_lock(root):
            add_marks(root, found, version_numbers(root))


def _lost_manifest(root: Path) -> dict[int, dict[str, str]] | None:
    """The current version with what is wrong with its manifest; None where nothing is.

    Empty where the pointer itself is lost. What a later release wrote is not damaged.
    """
    path = root / POINTER
    if path.is_dir():
        raise DataError(f"{path}: is a folder. Move it away; `pausedata build` finds the versions.")
    try:
        said = json.loads(path.read_text("utf-8"))
        if said.get("format", FORMAT) != FORMAT:
            return None
        pointer = Pointer.model_validate(said)
    except (FileNotFoundError, NotADirectoryError):
        # Of a first version alone, that is a commit that was cut off: recovery finishes it.
        return None if version_numbers(root) in ([], [1]) else {}
    except (ValueError, AttributeError):
        return {}
    raw = _manifest_bytes(root, pointer.current)
    if raw is None:
        return {pointer.current: {MANIFEST: f"{MANIFEST}: missing"}}
    if hashlib.sha256(raw).hexdigest() == pointer.sha256:
        return None
    return {pointer.current: {MANIFEST: f"{MANIFEST}: its sha256 is not what {POINTER} records"}}


def _manifest_bytes(root: Path, number: int) -> bytes | None:
    """A manifest's bytes; None where there is none. OSError where it cannot be read for now."""
    try:
        return (version_folder(root, number) / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _tables_in(folder: Path) -> set[str]:
    """The runs, placements and exports of which a version has folders."""
    return {f"{kind}/{path.name}" for kind in KINDS for path in folder.glob(f"{kind}/*/")}
