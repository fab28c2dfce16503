"""A query's result as a table in the terminal."""

from __future__ import annotations

import datetime
import decimal
import json
import math
from collections.abc import Iterable
from typing import Any, TextIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pausedata.query.run import Result
from pausedata.query.values import converter
from pausedata.report.visible import visible

MOST_ROWS = 100
MOST_COUNTED = 100_000  # rows left out are counted up to here, so that a preview ends soon
_MOST_CHARACTERS = 2_000  # of a cell, before it is cut to the terminal's width
_NUMBERS = {
    "tinyint", "smallint", "integer", "bigint", "hugeint", "utinyint", "usmallint", "uinteger",
    "ubigint", "uhugeint", "float", "double", "decimal", "bignum",
}  # fmt: skip


def print_result(
    result: Result, stream: TextIO, width: int | None = None, most_rows: int = MOST_ROWS
) -> None:
    """Print ``result`` to ``stream``, ``width`` columns wide (None: as wide as the terminal)."""
    Console(file=stream, width=width, highlight=False).print(render_result(result, most_rows))


def render_result(result: Result, most_rows: int = MOST_ROWS) -> RenderableType:
    """The first ``most_rows`` rows of ``result`` as a Rich table, and how many more there are."""
    rows: list[tuple[Any, ...]] = []
    total = 0
    for batch in result.batches():
        rows += batch[: max(0, most_rows - len(rows))]
        total += len(batch)
        if total - most_rows >= MOST_COUNTED:
            break
    if [c.lower() for c in result.columns] == ["explain_key", "explain_value"]:
        return Text("\n".join(str(row[1]) for row in rows))  # a drawing of DuckDB's own
    numeric = [getattr(kind, "id", str(kind).lower()) in _NUMBERS for kind in result.types]
    table = make_table(result.columns, numeric)
    converts = [converter(kind) for kind in result.types]
    for row in rows:
        table.add_row(
            *(cell(v if isinstance(v, float) else c(v)) for v, c in zip(row, converts, strict=True))
        )
    left = total - len(rows)
    if not left:
        return table
    count = f"more than {MOST_COUNTED:,}" if left >= MOST_COUNTED else f"{left:,}"
    plural = "" if left == 1 else "s"
    return Group(table, Text(f"{count} more row{plural}; -o FILE writes all"))


def make_table(columns: Iterable[str], numeric: Iterable[bool], colour: bool = True) -> Table:
    """A Rich table whose cells are cut with … where they do not fit; numbers stand to the right."""
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        header_style="bold" if colour else "none",
    )
    for name, right in zip(columns, numeric, strict=True):
        table.add_column(
            Text(visible(name), no_wrap=True, overflow="ellipsis"),
            justify="right" if right else "left",
            # Rich narrows the columns that may wrap, the widest first, before it cuts a number.
            # (Cells never do wrap: each says so itself.)
            no_wrap=right,
            overflow="ellipsis",
        )
    return table


def cell(value: Any) -> Text:
    """A value as one line of text; data is never read as Rich's markup."""
    return Text(_text(value)[:_MOST_CHARACTERS], no_wrap=True, overflow="ellipsis")


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, int | decimal.Decimal | datetime.date | datetime.time):
        return str(value)
    if isinstance(value, list | dict):
        # Only the beginning can be seen: a list of a long response's scores is not formatted whole.
        head = value[:200] if isinstance(value, list) else value
        return visible(json.dumps(head, ensure_ascii=False))
    return visible(str(value))


def number(value: float) -> str:
    """Four decimals; four significant digits where that would show nothing, or far too much."""
    if not math.isfinite(value):
        return str(value)
    if value and (abs(value) < 0.001 or abs(value) >= 1e9):
        return f"{value:.4g}"
    return f"{value:.4f}"
