"""``pausedata doctor``, for people: a line for each thing, in sections, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_LOGIN = {
    "none": "not logged in: public repositories can be read",
    "offline": "a token is set; offline by HF_HUB_OFFLINE",
    "unreachable": "a token is set; the Hub does not answer",
    "refused": "the token is refused",
    "unreadable": "the token cannot be read",
}


def lines(found: dict[str, Any]) -> Iterator[str]:
    """What ``doctor.examine`` found."""
    yield "installed"
    for name, version in found["versions"].items():
        yield _line(name, version or "not installed")
    yield from ("", "scoring")
    for backend in found["backends"]:
        yield _line("backend", f"{backend['name']}: {backend['state']}")
    yield _line("backend auto", f"{found['auto']['backend']}: {found['auto']['why']}")
    for plugin in found["plugins"]:
        source = f"{plugin['kind']} {plugin['name']}, {plugin['distribution']} {plugin['version']}"
        yield _line("plug-in", f"{source}: {plugin['state']}")
    yield from ("", "machine")
    yield _line("device", found["device"])
    for gpu in found["gpus"]:
        memory = f", {gpu['memory_gib']} GiB" if gpu["memory_gib"] is not None else ""
        yield _line("gpu", f"cuda:{gpu['index']}: {gpu['name']}{memory}")
    free = f", {found['memory_free_gib']} free" if found["memory_free_gib"] is not None else ""
    yield _line("machine", f"{found['cores']} cores, {found['memory_gib']} GiB{free}")
    yield _line("disk", f"{found['disk_free_gib']} GiB free here")
    yield from ("", "caches")
    for cache in found["caches"]:
        yield _line(cache["name"], _cache(cache))
    yield from ("", "Hugging Face Hub")
    hub = found["hub"]
    yield _line("login", f"{hub['user']}" if hub["state"] == "in" else _LOGIN[hub["state"]])
    if hub["endpoint"]:
        yield _line("endpoint", hub["endpoint"])
    if found["advice"]:
        yield from ("", "to do")
        yield from (f"advice: {advice}" for advice in found["advice"])


def _cache(cache: dict[str, Any]) -> str:
    problem = f"; {cache['problem']}" if cache["problem"] else ""
    if cache["bytes"] is None:
        return f"empty, {cache['path']}{problem}"
    more = "" if cache["whole"] else "more than "
    size = f"{more}{cache['bytes'] / 1e9:.2f} GB"
    return f"{size}, {cache['path']} (emptied by: {cache['emptied_by']}){problem}"


def _line(name: str, value: str) -> str:
    return f"{name:14} {value}"
