"""The memory of this machine, and sizes for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def readable(size: float) -> str:
    """Bytes in GiB, or in MiB below one, for people."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"


def available() -> int | None:
    """Bytes of this machine's memory, swap included, that can be had now; None: nothing says.

    In a container no more than its limit.
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        known = {name: int(rest.split()[0]) << 10 for name, _, rest in _fields(lines)}
        free = known["MemAvailable"] + known["SwapFree"]
    except (OSError, ValueError, KeyError, IndexError):
        return _by_psutil()
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return free
    return min(free, int(limit)) if limit.isdecimal() else free


def _fields(lines: list[str]) -> list[tuple[str, str, str]]:
    return [line.partition(":") for line in lines]


def _by_psutil() -> int | None:
    """As `available`, where there is no /proc; psutil comes with the transformers extra."""
    try:
        import psutil
    except ImportError:
        return None
    found: Any = psutil
    return found.virtual_memory().available + found.swap_memory().free
