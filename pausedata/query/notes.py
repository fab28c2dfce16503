"""What a query that is right SQL may have wrong: names of runs, placements and splits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from pausedata.core.errors import listing, nearest
from pausedata.query.statements import Statement, nodes

_LABELS = {"run": "runs", "placement": "placements", "split": "splits"}


class UsedNames(Protocol):
    """What has runs, placements and splits: a version."""

    @property
    def runs(self) -> list[str]:
        """The names of the scoring runs."""
        ...

    @property
    def placements(self) -> list[str]:
        """The names of the placements."""
        ...

    @property
    def splits(self) -> list[str]:
        """The names of the splits."""
        ...


def missing_names(statement: Statement, versions: Iterable[UsedNames]) -> list[str]:
    """A sentence for each run, placement or split that is asked for and that no version has.

    DuckDB's own parser finds the comparisons (``=``, ``<>`` and ``IN``), so that texts, comments
    and other columns are none. It is no error: a query may mean it.
    """
    found = dict.fromkeys(pair for node in nodes(statement.tree) for pair in _compared(node))
    versions, notes = list(versions), []
    for label, name in found:
        there = list(dict.fromkeys(n for v in versions for n in getattr(v, _LABELS[label])))
        if name not in there:
            hint = nearest(name, there)
            notes.append(f"There is no {label} '{name}'.{hint} There: {listing(there)}.")
    return notes


def _compared(node: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """``(label, text)`` where a part of a parse compares a column ``run``, ``placement`` or
    ``split``, or gives ``pause_text`` a placement.
    """
    if node.get("function_name") == "pause_text":
        given = [argument["expression"] for argument in node["arguments"]]
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


def _label(node: Any) -> str | None:
    if not isinstance(node, dict) or node.get("class") != "COLUMN_REF":
        return None
    name = str((node.get("column_names") or [""])[-1]).lower()
    return name if name in _LABELS else None


def _text(node: Any) -> str | None:
    if not isinstance(node, dict) or node.get("class") != "CONSTANT":
        return None
    literal = node["literal"]
    return literal["text"] if literal.get("kind") == "STRING" else None
