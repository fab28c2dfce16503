"""The folder in which what does not fit into memory is put, and that is gone afterwards."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import weakref
from contextlib import suppress
from pathlib import Path

from pausedata.core.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows, where nothing is left to find: a dead process's folders stay
    fcntl = None

_PREFIX = "pausedata-sql-"
_LOCK = "in-use"
_LEFT_AFTER_S = 86_400


class SpillFolder:
    """A new folder ``path`` under ``parent`` (None: the system's).

    It is removed by ``close()``, or when nothing uses this object any more. What a killed process
    left in ``parent`` is removed first. UsageError where nothing can be written there.
    """

    def __init__(self, parent: Path | None) -> None:
        under = Path(parent or tempfile.gettempdir())
        try:
            _remove_left(under)
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=under))
            self.close = weakref.finalize(self, _remove, self.path, _locked(self.path))
        except OSError as error:
            raise UsageError(
                f"{under}: nothing can be written there ({error.strerror or error}). "
                "Give a folder for what does not fit into memory (--spill)."
            ) from None


def _remove(folder: Path, lock: int | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if lock is not None:
        os.close(lock)


def _locked(folder: Path) -> int | None:
    """Lock a file in ``folder`` for as long as this process lives, however it ends."""
    if fcntl is None:
        return None
    new = folder / f"{_LOCK}.new"
    descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # a file system without locks: then nobody else takes the folder for left
        os.close(descriptor)
        return None
    new.rename(folder / _LOCK)  # locked before it has the name that others look at
    return descriptor


def _remove_left(under: Path) -> None:
    """Remove the folders in ``under`` whose processes were killed."""
    if fcntl is None:
        return
    for folder in under.glob(f"{_PREFIX}*"):
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:  # gone meanwhile, or not yet locked: or never, where that was cut short
            with suppress(OSError):
                if time.time() - folder.stat().st_mtime > _LEFT_AFTER_S:
                    shutil.rmtree(folder, ignore_errors=True)
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # in use
            pass
        finally:
            os.close(descriptor)
