"""Read locks: they keep ``gc`` from deleting a version while pausedata reads it.

A read lock is a shared advisory lock on the version's ``manifest.json``, a file that no two
versions share. The system frees it when the process ends, however it ends. Readers never wait for a
lock, and where the file system keeps none they go on without.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from weakref import WeakValueDictionary

from pausedata.core.errors import DataError

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be deleted anyway
    fcntl = None

State = Literal["free", "held", "unknown"]

# `gc` has a manifest locked for as long as a rename takes; then the manifest is elsewhere.
_TRIES, _WAIT = 50, 0.01
_TAKEN = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}


class ReadLock:
    """A version kept from ``gc`` for as long as this object lives."""

    def __init__(self, manifest: Path, descriptor: int) -> None:
        self._manifest, self._descriptor = manifest, descriptor

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self._descriptor)  # bound early: as Python ends, `os` may be gone before this

    def __reduce__(self) -> tuple[object, ...]:
        """Unpickled in another process it locks there; a copy in this one is the same lock."""
        return take, (self._manifest,)


# One descriptor for each version in a process, however many Version objects are open.
_holds: WeakValueDictionary[tuple[int, int], ReadLock] = WeakValueDictionary()
_guard = threading.Lock()


def take(manifest: Path) -> ReadLock | None:
    """Lock the version that ``manifest`` is of; None where the file system keeps no locks.

    A version that is deleted meanwhile gives None too: its manifest cannot be read either.
    """
    if fcntl is None:
        return None
    for _ in range(_TRIES):
        with _guard:
            try:
                found = _holds.get(_identity(manifest.stat()))
                if found is not None:
                    return found
                descriptor = os.open(manifest, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return None
            hold = ReadLock(manifest, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in _TAKEN:
                    return None
            else:
                # Locked, but perhaps under another name by now.
                if _is_at(manifest, descriptor):
                    _holds[_identity(os.fstat(descriptor))] = hold
                    return hold
        time.sleep(_WAIT)
    return None


@contextmanager
def excluding(manifest: Path) -> Iterator[State]:
    """Keep others from locking a version while the block runs, if it is ``free``.

    It is ``held`` where a reader or writer has it, even in this process, and ``unknown`` where the
    file system keeps no locks. A version without a manifest cannot be opened, and so is free.
    """
    try:
        descriptor = os.open(manifest, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        yield "free"
        return
    except OSError:
        yield "unknown"
        return
    try:
        yield _exclude(descriptor)
    finally:
        os.close(descriptor)


def check_locks(lock: Path) -> None:
    """DataError where the file system keeps no locks: writers would not see each other there.

    ``lock`` is the file of one. Without this, filelock takes the presence of the file for the lock,
    and a dead process of another machine, or a copied file, would hold it for ever.
    """
    if fcntl is None:
        return
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:  # whoever takes the lock says what is wrong
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _TAKEN | {errno.EBADF}:  # EBADF: NFS locks what is open to write
            raise DataError(
                f"{lock}: this file system keeps no locks ({error.strerror}). A dataset can be "
                "read here, but not written: choose a folder on another, or mount it with locks."
            ) from None
    finally:
        os.close(descriptor)


def _exclude(descriptor: int) -> State:
    if fcntl is None:
        return "unknown"
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return "held" if error.errno in _TAKEN else "unknown"
    return "free"


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return _identity(path.stat()) == _identity(os.fstat(descriptor))
    except OSError:
        return False


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
