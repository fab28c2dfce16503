"""``gc``: what of a dataset is no longer wanted, and its deletion.

A version is first renamed into ``staging/gc-…``, under the commit lock and with new readers kept
off, and deleted after that: a kill at any moment leaves whole versions, and a rest that the next
``gc`` finds. Staging goes the same way, under the lock of its own step.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import secrets
import stat
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from pausedata.core.errors import UsageError
from pausedata.store import files, read_locks
from pausedata.store.commit import COMMIT_LOCK, commit_lock, current_version
from pausedata.store.dataset import open_version
from pausedata.store.opening import POINTER, version_folder, version_numbers
from pausedata.store.pointer import read_pointer

HOUR = 3600.0
# Unfinished scores are hours of a GPU: they wait longer for someone to come back to them.
SCORES_AGE = 7 * 24 * HOUR
_UNITS = {"s": 1.0, "m": 60.0, "h": HOUR, "d": 24 * HOUR}

_CLOSED = "another user's, and closed to you"
Kind = Literal["version", "step", "commit", "gc", "lock", "temporary"]

_STEP = re.compile(r"(.+)-[0-9a-f]{16}")  # as `staging.stage_folder` names the folder of a step
_RESTS: list[tuple[str, Kind, str]] = [  # what a kill leaves, by name
    ("gc-*", "gc", "rest of a gc that was cut off"),
    ("commit-*", "commit", "rest of a commit that was cut off"),
    ("current-*", "commit", "rest of a commit that was cut off"),
    (f".{POINTER}.*.tmp", "commit", "rest of a commit that was cut off"),
    (".*.tmp", "temporary", "a file that was never finished"),
    ("repair-*", "temporary", "a file that was never finished"),
    ("*.lock", "lock", "lock of a step that is gone"),
]


@dataclass(frozen=True)
class Garbage:
    """One thing to delete: an old version, the unfinished work of a step, the rest of a kill."""

    kind: Kind
    name: str  # `version 3`, or a path in the dataset
    path: Path
    what: str
    age: float  # seconds
    bytes: int  # of its files, whichever else have them too

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "kind": self.kind,
            "name": self.name,
            "what": self.what,
            "age_seconds": round(self.age),
            "bytes": self.bytes,
        }


@dataclass
class GcPlan:
    """What ``gc`` would delete, and what it keeps and why."""

    root: Path
    current: int
    versions_age: float  # what is younger, in seconds, stays
    scores_age: float  # the same for unfinished scores
    items: list[Garbage] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    frees: int = 0  # bytes of the files that have no name but those to be deleted
    sees_holds: bool = True  # whether the file system says which versions are held

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "dataset": str(self.root),
            "current": self.current,
            "delete": [item.as_json() for item in self.items],
            "kept": self.kept,
            "frees_bytes": self.frees,
            "sees_holds": self.sees_holds,
        }


@dataclass
class Collected:
    """What ``gc`` deleted, what it kept after all, and what it could not delete."""

    deleted: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    freed: int = 0  # bytes

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "deleted": self.deleted,
            "kept": self.kept,
            "failed": self.failed,
            "freed_bytes": self.freed,
        }


def parse_age(text: str) -> float:
    """``90m``, ``12h``, ``7d``, ``30s`` or ``0``, in seconds."""
    match = re.fullmatch(r"([0-9]+)([smhd])|0+", text)
    if match is None:
        raise UsageError(f"--older-than {text}: give an age such as 0, 30s, 90m, 12h or 7d.")
    return float(match[1]) * _UNITS[match[2]] if match[1] else 0.0


def plan_gc(root: Path, older_than: float | None = None) -> GcPlan:
    """What ``collect`` would delete of the dataset at ``root``; nothing is changed.

    ``older_than`` is an age in seconds: an hour where it is None, seven days for unfinished scores.
    Raises UsageError where there is no dataset, and DataError where its current version cannot be
    read: an older one may have to stand in for it.
    """
    plan = GcPlan(
        root,
        open_version(root).number,
        versions_age=HOUR if older_than is None else older_than,
        scores_age=SCORES_AGE if older_than is None else older_than,
    )
    _plan_versions(plan)
    _plan_staging(plan)
    plan.frees = _only_there([_names(item.path) for item in plan.items])
    return plan


def collect(plan: GcPlan) -> Collected:
    """Delete what ``plan`` names, unless it is current, held or worked on by now."""
    result = Collected()
    if not plan.items:
        return result
    current_version(plan.root)  # a commit that was cut off is finished before anything goes
    taken = _take_out_versions(plan, result)
    for item in plan.items:
        taken += _take_out_rest(plan, item, result)
    # Out of sight for good, also after a power cut, before the first file goes.
    files.sync(plan.root / "versions")
    files.sync(plan.root / "staging")
    names = {item.name: _names(path) for item, path in taken}
    for item, path in taken:
        try:
            _delete(path)
        except OSError as error:
            result.failed[item.name] = f"{path}: {error.strerror or error}"
        else:
            result.deleted.append(item.name)
    result.freed = _only_there([names[name] for name in result.deleted])
    return result


# Versions


def _plan_versions(plan: GcPlan) -> None:
    for number in version_numbers(plan.root):
        folder = version_folder(plan.root, number)
        if number == plan.current or not folder.is_dir():
            continue
        if _is_closed(folder):
            plan.kept[f"version {number}"] = _CLOSED
            continue
        age, what = _described(folder)
        with read_locks.excluding(folder / "manifest.json") as state:
            plan.sees_holds &= state != "unknown"
        item = Garbage("version", f"version {number}", folder, what, age, _size(folder))
        why = _why_kept(plan, plan.current, item, state)
        if why is None:
            plan.items.append(item)
        else:
            plan.kept[item.name] = why


def _take_out_versions(plan: GcPlan, result: Collected) -> list[tuple[Garbage, Path]]:
    """Rename the plan's versions, and what commits left, into staging: no reader finds them now."""
    taken = []
    with commit_lock(plan.root):
        pointer = read_pointer(plan.root)
        assert pointer is not None
        for item in plan.items:
            if item.kind == "commit":  # nobody is committing: the lock is ours
                taken += _take_out(plan.root, item, result)
            if item.kind != "version":
                continue
            with read_locks.excluding(item.path / "manifest.json") as state:
                why = _why_kept(plan, pointer.current, item, state)
                if why is not None:
                    result.kept[item.name] = why
                    continue
                link = plan.root / "current"
                if link.is_symlink() and link.readlink().name == item.path.name:
                    link.unlink()  # it lagged: better none than one that leads nowhere
                taken += _take_out(plan.root, item, result)
    return taken


def _is_closed(path: Path) -> bool:
    """Whether a folder is another user's, whose umask lets this one not empty it.

    One's own that is read-only can be opened: `_delete` does.
    """
    shut = path.is_dir() and not os.access(path, os.R_OK | os.W_OK | os.X_OK)
    return shut and path.stat().st_uid != os.geteuid()


def _why_kept(plan: GcPlan, current: int, item: Garbage, state: read_locks.State) -> str | None:
    # A number above the current one would be given again once its folder is gone. It may also be
    # a version whose commit was cut off before the pointer was moved.
    if int(item.path.name) >= current:
        return "newer than the current version: deleted by a gc after the next commit"
    if state == "held":
        return "held by a pausedata reader or writer"
    if item.age < plan.versions_age:
        return "younger than --older-than"
    return None


def _described(folder: Path) -> tuple[float, str]:
    """A version's age in seconds, by its manifest or else by its folder, and what made it."""
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        created = datetime.datetime.fromisoformat(manifest["created"]).timestamp()
        return time.time() - created, str(manifest["command"])
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return time.time() - folder.stat().st_mtime, "damaged: its manifest cannot be read"


# Staging


def _plan_staging(plan: GcPlan) -> None:
    staging = plan.root / "staging"
    entries = sorted(staging.iterdir()) if staging.is_dir() else []
    for path in [*plan.root.glob(f".{POINTER}.*.tmp"), *entries]:
        if _is_closed(path):
            plan.kept[path.relative_to(plan.root).as_posix()] = _CLOSED
            continue
        described = _classify(path)
        age = _untouched(path)
        if described is None or age is None:  # pins, the commit lock, strangers; gone meanwhile
            continue
        kind, what = described
        name = path.relative_to(plan.root).as_posix()
        if age < _least_age(plan, path, kind):
            if kind == "step":
                plan.kept[name] = f"{what}: {_too_young(plan, path)}"
        elif _is_free(plan.root, path, kind):
            plan.items.append(Garbage(kind, name, path, what, age, _size(path)))
        elif kind == "step":
            plan.kept[name] = f"{what}: being worked on"


def _classify(path: Path) -> tuple[Kind, str] | None:
    for pattern, kind, what in _RESTS:
        if fnmatch(path.name, pattern):
            orphan = path.name != COMMIT_LOCK and not path.with_suffix("").exists()
            return (kind, what) if kind != "lock" or orphan else None
    step = _STEP.fullmatch(path.name)
    if step is None or not path.is_dir():
        return None
    kind, _, own = step[1].partition("-")
    table = f"{kind}/{own}" if kind in ("scores", "kept", "placements", "exports") else step[1]
    records = path / "records"
    done = sum(
        (path / record.relative_to(records).with_suffix("")).is_file()
        for record in records.rglob("*.json")
    )
    return "step", f"unfinished {table}, {done} shard{'' if done == 1 else 's'} finished"


def _take_out_rest(plan: GcPlan, item: Garbage, result: Collected) -> list[tuple[Garbage, Path]]:
    """What of a kill's rests or unfinished steps can go now, renamed out of the way of others."""
    if item.kind in ("gc", "temporary"):
        return [(item, item.path)]
    if item.kind not in ("step", "lock"):
        return []
    lock = item.path if item.kind == "lock" else _lock_of(item.path)
    with _try_lock(lock) as ours:
        folder = lock.with_suffix("")
        age = _untouched(folder)
        if item.kind == "lock":
            gone = ours and age is None
        else:
            gone = ours and age is not None and age >= _least_age(plan, folder, "step")
        if not gone:
            result.kept[item.name] = "worked on meanwhile"
            return []
        taken = _take_out(plan.root, item, result) if item.kind == "step" else [(item, item.path)]
        lock.unlink(missing_ok=True)  # while it is ours: whoever waits for it makes a new one
        return taken


def _is_free(root: Path, path: Path, kind: Kind) -> bool:
    """Whether no process is at it, as far as locks say; nothing is left behind by asking."""
    locks: dict[Kind, Path] = {
        "step": _lock_of(path),
        "commit": root / "staging" / COMMIT_LOCK,
        "lock": path,
    }
    lock = locks.get(kind)
    if lock is None or not lock.exists():
        return True
    with _try_lock(lock) as ours:
        return ours


@contextmanager
def _try_lock(path: Path) -> Iterator[bool]:
    """Hold the lock, if it is to be had at once, while the block runs."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except OSError:  # filelock's Timeout too
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _lock_of(folder: Path) -> Path:
    return folder.with_name(folder.name + ".lock")


def _least_age(plan: GcPlan, path: Path, kind: Kind) -> float:
    if kind == "step":
        return plan.scores_age if path.name.startswith("scores-") else plan.versions_age
    return plan.versions_age if kind == "temporary" else 0.0


def _too_young(plan: GcPlan, path: Path) -> str:
    if plan.scores_age != plan.versions_age and path.name.startswith("scores-"):
        return "scores are kept for seven days, unless --older-than is given"
    return "younger than --older-than"


def _untouched(path: Path) -> float | None:
    """Seconds since anything in ``path`` was last written; None where it is not there."""
    newest = max((status.st_mtime for _, status in _walk(path)), default=None)
    return None if newest is None else time.time() - newest


# Deleting


def _take_out(root: Path, item: Garbage, result: Collected) -> list[tuple[Garbage, Path]]:
    """Rename ``item`` to a place of its own under staging, to be deleted from there."""
    target = root / "staging" / f"gc-{item.path.name.lstrip('.')}-{secrets.token_hex(4)}"
    try:
        if item.path.is_dir() and not item.path.is_symlink():
            _make_writable(item.path)  # a folder that moves has its `..` written
        item.path.rename(target)
    except FileNotFoundError:  # another gc was faster
        return []
    except PermissionError as error:  # of another user, whose umask lets nobody else write to it
        result.kept[item.name] = f"{item.path}: {error.strerror}"
        return []
    return [(item, target)]


def _delete(path: Path) -> None:
    """Delete a file, a link or a folder with all that is in it, also where it is read-only."""
    if path.is_dir() and not path.is_symlink():
        _make_writable(path)
        with suppress(FileNotFoundError):
            for child in list(path.iterdir()):
                _delete(child)
            path.rmdir()
        return
    try:
        path.unlink(missing_ok=True)
    except PermissionError:
        # Some file systems refuse for a read-only file. One with other names keeps its mode: they
        # share it, and one of them may belong to a version that stays.
        if path.lstat().st_nlink > 1:
            raise
        path.chmod(0o600)
        path.unlink()


def _make_writable(folder: Path) -> None:
    with suppress(OSError):
        if folder.stat().st_mode & 0o700 != 0o700:
            folder.chmod(0o700)


def _walk(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """``path`` and all below it; what vanishes meanwhile is left out, links are not followed."""
    with suppress(FileNotFoundError):
        yield path, path.lstat()
        if path.is_dir() and not path.is_symlink():
            for child in list(path.iterdir()):
                yield from _walk(child)


def _size(path: Path) -> int:
    return sum(size for _, _, size in _names(path).values())


_Names = dict[tuple[int, int], tuple[int, int, int]]


def _names(path: Path) -> _Names:
    """For each file below ``path``, by device and inode: its names there, all its names, bytes."""
    found: _Names = {}
    for _, status in _walk(path):
        if not stat.S_ISDIR(status.st_mode):
            identity = (status.st_dev, status.st_ino)
            here = found.get(identity, (0, 0, 0))[0] + 1
            found[identity] = (here, status.st_nlink, status.st_size)
    return found


def _only_there(parts: Iterable[_Names]) -> int:
    """Bytes of the files that have all their names in ``parts``: they go with them."""
    here: Counter[tuple[int, int]] = Counter()
    facts = {}
    for part in parts:
        for identity, (names, links, size) in part.items():
            here[identity] += names
            facts[identity] = (links, size)
    return sum(size for identity, (links, size) in facts.items() if here[identity] >= links)
