"""``damaged.json``: which versions are known to be damaged for good, and where.

A version is never changed, so it cannot say so itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pausedata.store import files

MARKS = "damaged.json"
MANIFEST = "manifest.json"


def marks(root: Path) -> dict[int, dict[str, str]]:
    """Version → path of a damaged file → what is wrong with it; empty where nothing is marked."""
    try:
        marked = json.loads((root / MARKS).read_text("utf-8"))
        return {int(number): dict(paths) for number, paths in marked.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def add_marks(root: Path, found: Mapping[int, Mapping[str, str]], there: list[int]) -> None:
    """Mark what was ``found`` as well; versions that are not ``there`` any more are dropped."""
    known = marks(root)
    kept = {n: known.get(n, {}) | dict(found.get(n, {})) for n in {*known, *found} if n in there}
    files.write_json(root / MARKS, {str(n): kept[n] for n in sorted(kept)})
