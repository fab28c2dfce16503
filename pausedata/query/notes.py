"""What a query that is right SQL may have wrong: names of runs, placements and splits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pausedata.core.errors import listing, nearest
from pausedata.query.session import Session
from pausedata.query.statements import tree

# label → what is there of it in a version
_LABELS = {
    "run": lambda version: version.runs,
    "placement": lambda version: version.placements,
    "split": lambda version: version.splits,
}
_MENTIONED = re.compile(r"\b(?:run|placement|split|pause_text)\b", re.IGNORECASE)


def missing_names(session: Session, sql: str) -> list[str]:
    """A sentence for each run, placement or split that ``sql`` compares with and that is not there.

    DuckDB's own parser finds the comparisons (``=``, ``<>`` and ``IN``), so that texts, comments
    and other columns are none. It is no error: a query may mean it.
    """
    if not _MENTIONED.search(sql):
        return []
    found = dict.fromkeys(_compared(tree(sql, session.connection.cursor())))
    notes = []
    for label, name in found:
        there = list(dict.fromkeys(n for v in session.versions() for n in _LABELS[label](v)))
        if name not in there:
            hint = nearest(name, there)
            notes.append(f"There is no {label} '{name}'.{hint} There: {listing(there)}.")
    return notes


def _compared(node: Any) -> Iterator[tuple[str, str]]:
    """``(label, text)`` for each comparison of a column ``run``, ``placement`` or ``split``, and
    for each placement of ``pause_text``.
    """
    if isinstance(node, list):
        for item in node:
            yield from _compared(item)
    if not isinstance(node, dict):
        return
    if node.get("function_name") == "pause_text":
        # DuckDB 1.4 calls them children.
        given = [a["expression"] for a in node.get("arguments") or []] or node.get("children") or []
        yield from (("placement", text) for a in given[1:] if (text := _text(a)) is not None)
    kind = node.get("type")
    sides: list[Any] = []
    if kind in ("COMPARE_EQUAL", "COMPARE_NOTEQUAL"):
        sides = [node.get("left"), node.get("right")]
    elif kind in ("COMPARE_IN", "COMPARE_NOT_IN"):
        sides = node.get("children") or []
    labels = [label for side in sides if (label := _label(side))]
    if len(labels) == 1:
        yield from ((labels[0], text) for side in sides if (text := _text(side)) is not None)
    for value in node.values():
        yield from _compared(value)


def _label(node: Any) -> str | None:
    if not isinstance(node, dict) or node.get("class") != "COLUMN_REF":
        return None
    name = str((node.get("column_names") or [""])[-1]).lower()
    return name if name in _LABELS else None


def _text(node: Any) -> str | None:
    if not isinstance(node, dict) or node.get("class") != "CONSTANT":
        return None
    if "literal" in node:
        literal = node["literal"]
        return literal["text"] if literal.get("kind") == "STRING" else None
    value = node.get("value") or {}  # as DuckDB 1.4 has it
    return value.get("value") if isinstance(value.get("value"), str) else None
