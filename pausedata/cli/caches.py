"""The caches on this machine that pausedata uses, how large they are, and how they are emptied."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from pausedata.core.cache import cache_folder
from pausedata.core.errors import first_line

_SECONDS = 2.0  # after which the rest of a cache is not looked at


@dataclass(frozen=True)
class Cache:
    """One cache. ``bytes`` is None where it is not there, ``whole`` whether all was counted."""

    name: str
    path: str
    bytes: int | None
    whole: bool
    problem: str | None
    emptied_by: str


def caches() -> list[Cache]:
    """pausedata's own, and those of the Hugging Face libraries."""
    own = cache_folder()
    folders = [("pausedata", own, f"rm -r {own}")]
    try:
        from huggingface_hub.constants import HF_HUB_CACHE

        folders.append(("Hub", Path(HF_HUB_CACHE), "hf cache prune, hf cache rm"))
        home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface")
        datasets = os.environ.get("HF_DATASETS_CACHE") or home / "datasets"
        folders.append(("datasets", Path(datasets), f"rm -r {datasets}"))
    except Exception:  # a broken installation is what doctor is asked about
        pass
    return [_look(*folder) for folder in folders]


def _look(name: str, path: Path, emptied_by: str) -> Cache:
    try:
        path = path.expanduser()
        if not path.exists():
            problem = None if _can_be_made(path) else "it cannot be made"
            return Cache(name, str(path), None, True, problem, emptied_by)
        size, whole = _size(path)
        problem = None if os.access(path, os.W_OK) else "it cannot be written to"
        return Cache(name, str(path), size, whole, problem, emptied_by)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        return Cache(name, str(path), None, True, first_line(error), emptied_by)


def _can_be_made(path: Path) -> bool:
    above = next(folder for folder in path.absolute().parents if folder.exists())
    return above.is_dir() and os.access(above, os.W_OK)


def _size(folder: Path) -> tuple[int, bool]:
    """Bytes of the files, each once however many links it has, and whether all were counted."""
    seen: set[tuple[int, int]] = set()
    total, until = 0, time.monotonic() + _SECONDS
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                found = os.lstat(os.path.join(parent, name))  # noqa: PTH118
            except OSError:  # gone meanwhile
                continue
            if (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                total += found.st_size
        if time.monotonic() > until:
            return total, False
    return total, True
