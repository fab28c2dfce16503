"""The sha256 of files, remembered for this user: hashing ten gigabytes once is enough."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

# Below this, reading a file anew in every process is quicker than keeping its hash on disk.
_KEEP_FROM_BYTES = 1 << 20
_KEEP_AT_MOST = 20_000
# Within a file system's clock tick a change can leave size and time as they were.
_SETTLED_AFTER_S = 2.0

_seen: dict[str, dict[str, Any]] = {}


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hex; of a large one from memory where it is unchanged.

    What counts as unchanged is the same device and inode, size and time of change (ns): a hard
    link in a dataset's next version is the file that it was.
    """
    return file_sha256s([path])[0]


def file_sha256s(paths: Sequence[Path], *, anew: bool = False) -> list[str]:
    """The sha256 of each file, as ``file_sha256`` gives it; those to be read are read together.

    ``anew`` reads every file, whatever is remembered of it: a disk can rot without a trace.
    """

    def hash(path: Path) -> tuple[str, str | None]:
        return _hash(path, anew)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing and reading let go of the GIL
        hashed = list(pool.map(hash, paths) if len(paths) > 1 else map(hash, paths))
    new = [key for _, key in hashed if key is not None]
    if new:
        _save(new)
    return [sha256 for sha256, _ in hashed]


def _hash(path: Path, anew: bool) -> tuple[str, str | None]:
    """A file's hash, and the key under which it is to be remembered where that is new."""
    key, before = _stamp(path)
    for memory in () if anew else (_seen, _load(_memory_file())):
        known = memory.get(key)
        if isinstance(known, dict) and {k: known.get(k) for k in before} == before:
            return str(known["sha256"]), None
    digest = _digest(path)
    settled = time.time() - before["mtime_ns"] / 1e9 > _SETTLED_AFTER_S
    if not settled or _stamp(path) != (key, before):
        return digest, None
    _seen[key] = {**before, "sha256": digest}
    return digest, key if before["size"] >= _KEEP_FROM_BYTES else None


def _stamp(path: Path) -> tuple[str, dict[str, int]]:
    """What names a file, and what changes with its bytes."""
    stat = path.stat()
    return f"{stat.st_dev}-{stat.st_ino}", {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _memory_file() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(cache).expanduser() / "pausedata" / "hashes.json"
    except RuntimeError:  # no home folder
        return Path(os.devnull)


@cache
def _load(file: Path) -> dict[str, Any]:
    """What earlier processes kept; what they keep meanwhile is not worth reading it again."""
    return _read(file)


def _read(file: Path) -> dict[str, Any]:
    try:
        memory = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return memory if isinstance(memory, dict) else {}


def _save(keys: Sequence[str]) -> None:
    """Add ``keys`` to the file. Of two writers at once one may lose its entries, never the file."""
    target = _memory_file()
    memory = {k: v for k, v in _read(target).items() if k not in set(keys)}
    memory |= {key: _seen[key] for key in keys}  # the newest last, so that the oldest are dropped
    kept = dict(list(memory.items())[-_KEEP_AT_MOST:])
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=target.parent, prefix=".hashes-", delete=False
        ) as file:
            json.dump(kept, file, indent=1)
        Path(file.name).replace(target)
    except OSError:  # a read-only home costs only time
        return
