"""The hash of a model's weights, remembered: hashing ten gigabytes once is enough."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Below this, reading a file is quicker than looking its hash up.
_REMEMBER_FROM_BYTES = 1 << 20
_REMEMBER_AT_MOST = 1000
# Within a file system's clock tick a change can leave size and time as they were.
_SETTLED_AFTER_S = 2.0
# Trainers leave these beside the weights; they change no score.
_NOT_WEIGHTS = re.compile(r"(training_args|optimizer|scheduler|rng_state).*\.bin")

_seen: dict[str, dict[str, Any]] = {}


def weights_sha256(path: Path) -> str:
    """The sha256, in hex, of what decides a model's scores.

    Of a file that of its bytes; of a folder that of the canonical JSON of the sorted pairs
    ``[file name, sha256]`` over its weights (*.safetensors, *.bin), their index and the
    configuration. The tokenizer has a hash of its own.
    """
    if path.is_file():
        return file_sha256(path)
    return files_sha256(path, _changes_scores)


def files_sha256(folder: Path, wanted: Callable[[Path], bool]) -> str:
    """The hex sha256 of the canonical JSON of some files' sorted ``[name, sha256]``."""
    pairs = [[p.name, file_sha256(p)] for p in sorted(folder.iterdir()) if wanted(p)]
    canonical = json.dumps(pairs, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def is_weights(path: Path) -> bool:
    """Whether a file of a model's folder holds weights."""
    return (
        path.suffix in (".safetensors", ".bin")
        and path.is_file()
        and not _NOT_WEIGHTS.fullmatch(path.name)
    )


def _changes_scores(path: Path) -> bool:
    name = path.name
    return (
        is_weights(path)
        or name in ("config.json", "adapter_config.json")
        or name.endswith((".safetensors.index.json", ".bin.index.json"))
    )


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hex; of a large one from memory where it is unchanged.

    What counts as unchanged is the same resolved path, size, time of change (ns) and inode.
    """
    resolved = path.resolve()
    before = _stamp(resolved)
    if before["size"] < _REMEMBER_FROM_BYTES:
        return _digest(resolved)
    key = str(resolved)
    for memory in (_seen, _load()):
        known = memory.get(key)
        if isinstance(known, dict) and {k: known.get(k) for k in before} == before:
            _seen[key] = known
            return str(known["sha256"])
    digest = _digest(resolved)
    settled = time.time() - before["mtime_ns"] / 1e9 > _SETTLED_AFTER_S
    if settled and _stamp(resolved) == before:
        _seen[key] = {**before, "sha256": digest}
        _save(key)
    return digest


def _stamp(path: Path) -> dict[str, int]:
    stat = path.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "inode": stat.st_ino}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _memory_file() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "pausedata" / "hashes.json"


def _load() -> dict[str, Any]:
    try:
        memory = json.loads(_memory_file().read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):  # RuntimeError: no home folder
        return {}
    return memory if isinstance(memory, dict) else {}


def _save(key: str) -> None:
    """Add ``key`` to the file. Of two writers at once one may lose its entry, never the file."""
    memory = {k: v for k, v in _load().items() if k != key}
    memory[key] = _seen[key]  # the newest last, so that the oldest are dropped
    kept = dict(list(memory.items())[-_REMEMBER_AT_MOST:])
    try:
        target = _memory_file()
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=target.parent, prefix=".hashes-", delete=False
        ) as file:
            json.dump(kept, file, indent=1)
        Path(file.name).replace(target)
    except (OSError, RuntimeError):  # a read-only home costs only time
        return
