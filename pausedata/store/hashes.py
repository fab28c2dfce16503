"""The sha256 of files, remembered for this user: hashing ten gigabytes once is enough."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from pausedata.core.cache import cache_folder
from pausedata.store.files import sha256_of as _digest

# Below this, reading a file anew in every process is quicker than keeping its hash on disk.
_KEEP_FROM_BYTES = 1 << 20
_KEEP_AT_MOST = 20_000
# Within a file system's clock tick a change can leave size and time as they were.
_SETTLED_AFTER_S = 2.0

_seen: dict[str, dict[str, Any]] = {}


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hex; a large file that is unchanged is not read again.

    What counts as unchanged is the same device and inode, size and time of change (ns): a hard
    link in a dataset's next version is the file that it was.
    """
    return file_sha256s([path], keep=True)[0]


def file_sha256s(paths: Sequence[Path], *, anew: bool = False, keep: bool = False) -> list[str]:
    """The sha256 of each file, as ``file_sha256`` gives it; those to be read are read together.

    ``anew`` reads every file, remembered or not: a disk can corrupt bytes and leave no trace.
    ``keep`` remembers them for later processes; who asks for one after another should not.
    """
    stamps = [_stamp(path) for path in paths]
    known = [None if anew else _known(*stamp) for stamp in stamps]
    todo = [i for i, sha256 in enumerate(known) if sha256 is None]
    if len(todo) > 1:
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing and reading let go of the GIL
            digests = list(pool.map(_digest, [paths[i] for i in todo]))
    else:
        digests = [_digest(paths[i]) for i in todo]
    new = []
    for i, digest in zip(todo, digests, strict=True):
        known[i] = digest
        key, stamp = stamps[i]
        settled = time.time() - stamp["mtime_ns"] / 1e9 > _SETTLED_AFTER_S
        if settled and _stamp(paths[i]) == (key, stamp):
            _seen[key] = {**stamp, "sha256": digest}
            new += [key] if stamp["size"] >= _KEEP_FROM_BYTES else []
    if new and keep:
        _save(new)
    return [sha256 for sha256 in known if sha256 is not None]


def _known(key: str, stamp: dict[str, int]) -> str | None:
    """The hash that is remembered of a file as it is now."""
    for memory in (_seen, _load(_memory_file())):
        known = memory.get(key)
        if isinstance(known, dict) and {k: known.get(k) for k in stamp} == stamp:
            return str(known["sha256"])
    return None


def _stamp(path: Path) -> tuple[str, dict[str, int]]:
    """What names a file, and what changes with its bytes."""
    stat = path.stat()
    return f"{stat.st_dev}-{stat.st_ino}", {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _memory_file() -> Path:
    return cache_folder() / "hashes.json"


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
        temporary = target.with_name(f".hashes-{secrets.token_hex(4)}")
        temporary.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        temporary.replace(target)
    except OSError:  # a read-only home costs only time
        return
