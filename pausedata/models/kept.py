"""Folders that are made once and found again whole: what the cache of models is made of.

A folder is made beside its place and renamed into it, under a lock, so that what is there is
whole; a note in it, ``pausedata.json``, says what it was made from and how large its files are.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pausedata.core.errors import DataError, UsageError, first_line
from pausedata.core.progress import ignore_message
from pausedata.store.files import sync, sync_tree, usual_modes, write_json
from pausedata.store.read_locks import check_locks

NOTE = "pausedata.json"
_FORMAT = "pausedata-cache/1"  # of another format than this, a folder is made again

Say = Callable[[str], None]


class NoCacheError(UsageError):
    """The cache has no room or cannot be written to; callers that can do without it go on."""


@dataclass(frozen=True)
class Making:
    """How a folder of ``name`` is made, in words for people: 'converting', 'its conversion'.

    ``origin`` goes into the note (no path); ``need``: the bytes that the folder will take.
    """

    name: str
    origin: dict[str, Any]
    need: int
    doing: str
    product: str


def keep_folder(
    folder: Path, making: Making, make: Callable[[Path], None], say: Say = ignore_message
) -> Path:
    """``folder``, which ``make`` fills unless it is whole already.

    ``say`` hears where another process is at it, which is waited for. NoCacheError where there is
    no room for it, or it cannot be written.
    """
    if is_whole(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder, making, say):
            if not is_whole(folder):  # another process may have made it meanwhile
                _make(folder, making, make)
    except OSError as error:
        raise not_written(folder, error.strerror or first_line(error)) from error
    return folder


def made_from(folder: Path) -> dict[str, Any] | None:
    """What the note in ``folder`` says it was made from; None unless it is whole.

    Whole: every file that the note names is there and of its size.
    """
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        whole = note["format"] == _FORMAT and all(
            (folder / name).stat().st_size == size for name, size in note["files"].items()
        )
        return dict(note["made_from"]) if whole else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def is_whole(folder: Path) -> bool:
    """Whether ``folder`` was made to the end, and nothing of it is missing or cut."""
    return made_from(folder) is not None


def not_written(folder: Path, reason: str) -> NoCacheError:
    """The error for a cache in which ``folder`` cannot be made."""
    return NoCacheError(
        f"the cache of models, {folder.parent}, cannot be written: {reason}. Set PAUSEDATA_CACHE "
        "to a folder that can."
    )


def _make(folder: Path, making: Making, make: Callable[[Path], None]) -> None:
    """Make ``folder`` beside its place and rename it into it; the caller holds its lock."""
    temporary = _beside(folder, "tmp")
    _sweep(folder)
    free = shutil.disk_usage(folder.parent).free
    if free < making.need:
        raise NoCacheError(
            f"{making.name}: {making.product} takes {making.need / 1e9:.1f} GB, {free / 1e9:.1f} "
            f"GB are free in {folder.parent}. Make room there, or set PAUSEDATA_CACHE to another "
            "folder."
        )
    temporary.mkdir()
    try:
        make(temporary)
        usual_modes(temporary)
        files = {p.name: p.stat().st_size for p in sorted(temporary.iterdir())}
        note = {"format": _FORMAT, "made_from": making.origin, "files": files}
        write_json(temporary / NOTE, note)
        sync_tree(temporary)
        temporary.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Delete what is damaged at ``folder``, and what killed processes left beside it."""
    if folder.exists():
        shutil.rmtree(folder)
    own = _beside(folder, "tmp")
    for left in folder.parent.glob(".*.tmp"):
        if left == own:
            shutil.rmtree(left)
            continue
        with contextlib.suppress(Timeout), FileLock(left.with_suffix(".lock"), timeout=0):
            shutil.rmtree(left, ignore_errors=True)


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(f".{folder.name}.{suffix}")


@contextlib.contextmanager
def _locked(folder: Path, making: Making, say: Say) -> Iterator[None]:
    """Keep other processes from making ``folder`` meanwhile; the lock ends with the process."""
    path = _beside(folder, "lock")
    try:
        check_locks(path)
    except DataError as error:
        raise not_written(folder, "this file system keeps no locks") from error
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another process is {making.doing} {making.name}: waiting for it …")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
