"""Files that survive a power cut: whole, fsynced, renamed into place."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# What a file in a version loses: an edit would reach all versions that share it.
_WRITE = 0o222

# What a file system without links answers (and one whose file has all the links it may have).
_NO_LINK = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EXDEV, errno.EMLINK}
# What one answers that keeps no modes (FAT, CIFS), or has nothing to fsync in a folder.
_NO_MODE = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
_NO_SYNC = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
_FICLONE = 0x40049409  # of linux/fs.h: the target shares the source's blocks until either changes


def sha256_of(path: Path) -> str:
    """The hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys, no spaces and UTF-8 as it is: equal values, equal bytes."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest(value: Any) -> str:
    """``sha256:…`` of a value's canonical JSON."""
    return "sha256:" + hashlib.sha256(canonical_json(value)).hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to; it takes ``path``'s place, fsynced, if the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if path.is_file():  # others of a group may write it, whatever this user's umask
            set_mode(temporary, stat.S_IMODE(path.stat().st_mode))
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")


def sync(path: Path) -> None:
    """Make a file's bytes, or a folder's names, reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Make everything under ``folder`` reach the disk, the folder itself last."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(parent, name))
        sync(Path(parent))


def link_or_copy(source: Path, target: Path) -> int:
    """Hard-link ``source`` to ``target``; where links are not to be had, copy. Bytes copied.

    A copy that shares its blocks with the source takes no room and counts as none.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
        return 0
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
    return _copy(source, target)


def link_read_only(source: Path, target: Path) -> int:
    """As `link_or_copy`, and nobody may write to ``target``; who may read it stays as it is."""
    status = source.stat()
    if status.st_mode & _WRITE and not _is_ours(status):
        # A link would have the mode of the other user's file, which only they can set.
        target.parent.mkdir(parents=True, exist_ok=True)
        copied = _copy(source, target)
    else:
        copied = link_or_copy(source, target)
    make_read_only(target)
    return copied


def new_folder(parent: Path, prefix: str) -> Path:
    """A new folder with a name of its own, for those whom the umask lets in.

    What ``tempfile.mkdtemp`` makes is for its owner alone, and a later chmod takes away the bit
    (setgid) that hands a folder's group on.
    """
    while True:
        folder = parent / f"{prefix}{secrets.token_hex(4)}"
        with suppress(FileExistsError):
            folder.mkdir()
            return folder


def usual_modes(folder: Path) -> None:
    """Give the files below ``folder``, all of them ours, the mode that a new file gets there.

    safetensors makes its files for their owner alone, whatever the umask.
    """
    files = [path for path in folder.rglob("*") if path.is_file()]
    # By making one: the umask can be asked only by changing it, which other threads would notice.
    probe = folder / f".mode-{secrets.token_hex(4)}"
    probe.touch(exist_ok=False)
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in files:
        set_mode(path, mode)


def make_read_only(path: Path) -> None:
    """Let nobody write to a file of ours; who may read it stays as it is."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & _WRITE:  # else it may be a link to another user's, whose mode only they can set
        set_mode(path, mode & ~_WRITE)


def set_mode(path: Path, mode: int) -> None:
    """Set the permissions of a file of ours, where the file system keeps any."""
    try:
        path.chmod(mode)
    except OSError as error:
        if error.errno not in _NO_MODE:
            raise


def _is_ours(status: os.stat_result) -> bool:
    """Whether we may set a file's mode: it is of this user, or we are root."""
    return sys.platform == "win32" or os.geteuid() in (0, status.st_uid)


def _copy(source: Path, target: Path) -> int:
    """Copy a file; the bytes that it took, none where the copy shares them with ``source``.

    It stands for a link, and is open to whom ``source`` is open, not to whom this umask leaves.
    """
    shared = _clone(source, target)
    if not shared:
        shutil.copyfile(source, target)
    set_mode(target, stat.S_IMODE(source.stat().st_mode))
    return 0 if shared else target.stat().st_size


def _clone(source: Path, target: Path) -> bool:
    """Whether ``target`` could be made to share the blocks of ``source`` (Btrfs, XFS, ZFS …)."""
    if sys.platform != "linux" or fcntl is None:
        return False
    with source.open("rb") as original, target.open("wb") as copy:
        try:
            fcntl.ioctl(copy.fileno(), _FICLONE, original.fileno())
        except OSError:  # whatever the reason, a plain copy is tried next and says what is wrong
            return False
    return True
