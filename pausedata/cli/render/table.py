"""A query's result as a table in the terminal."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from pausedata.cli.render.visible import visible
from pausedata.query.values import converter, type_name

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from pausedata.query.run import Result

MOST_ROWS = 100  # on a terminal
MOST_COUNTED = 100_000  # rows left out are counted up to here, so that a preview ends soon
_MOST_CHARACTERS = 2_000  # of a cell, before it is cut to the terminal's width
_BLOCK_ROWS = 1_000  # away from a terminal, columns are as wide as so many rows need
_LEAST_WIDTH = 8  # a column of text that is cut to less says nothing
_FEW_ROWS = 3
_GAP = "  "
_TERMINALS = {"FORCE_COLOR", "TTY_COMPATIBLE"}  # what lets Rich take a pipe for a terminal
_NUMBERS = {
    "tinyint", "smallint", "integer", "bigint", "hugeint", "utinyint", "usmallint", "uinteger",
    "ubigint", "uhugeint", "float", "double", "decimal", "bignum",
}  # fmt: skip


def print_result(
    result: Result, stream: TextIO, width: int | None = None, most_rows: int = MOST_ROWS
) -> int:
    """Print ``result`` to ``stream`` as a table; how many rows it has, as far as they were counted.

    On a terminal, or where ``width`` is given, cells are cut to fit into so many columns, the first
    ``most_rows`` are shown, and a note says how many more there are. Where not even the columns'
    beginnings fit side by side, the last ones are left out, and named; a few rows are then blocks
    with a line for each column. Elsewhere, in a file or pipe, every row is there, and whole.
    """
    numeric = [type_name(kind) in _NUMBERS for kind in result.types]
    if width is None and not stream.isatty() and not _TERMINALS & os.environ.keys():
        return _print_all(result, stream, numeric)  # without Rich, which takes long to import
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream, width=width, highlight=False, markup=False, emoji=False)
    if width is None and not console.is_terminal:
        return _print_all(result, stream, numeric)
    rows, total = _first(result, most_rows)
    if _is_plan(result):
        stream.writelines(f"{row[1]}\n" for row in rows)
        return total
    texts = _texts(result, rows)
    names = [visible(name) for name in result.columns]
    widths = _fitted(_widths(names, texts), numeric, console.width)
    if widths is None and len(texts) <= _FEW_ROWS:
        _print_records(names, texts, console)
    else:
        hidden: list[str] = []
        if widths is None:
            names, texts, numeric, widths, hidden = _first_columns(
                names, texts, numeric, console.width
            )
        header, rule = _header(names, widths, numeric, stream)
        style = "" if console.no_color else "bold"
        console.print(Text(header, style=style), soft_wrap=True)
        stream.write(rule + "\n")
        stream.writelines(_line(row, widths, numeric) + "\n" for row in texts)
        if hidden:
            note = Text(f"too narrow for {', '.join(hidden)}: name the columns that you want")
            console.print(note)
    if left := total - len(rows):
        count = f"more than {MOST_COUNTED:,}" if left >= MOST_COUNTED else f"{left:,}"
        stream.write(f"{count} more row{'' if left == 1 else 's'}; -o FILE writes all\n")
    return total


def _first_columns(
    names: list[str], texts: list[list[str]], numeric: list[bool], room: int
) -> tuple[list[str], list[list[str]], list[bool], list[int], list[str]]:
    """As many columns as fit, and the names of the others."""
    for count in range(len(names) - 1, 0, -1):
        shown = [row[:count] for row in texts]
        widths = _fitted(_widths(names[:count], shown), numeric[:count], room)
        if widths is not None or count == 1:
            fitting = widths or [room]
            return names[:count], shown, numeric[:count], fitting, names[count:]
    raise AssertionError("a single column fits anywhere")


def _first(result: Result, most: int) -> tuple[list[tuple[Any, ...]], int]:
    """The first ``most`` rows, and how many there are (not counted on beyond MOST_COUNTED more)."""
    rows: list[tuple[Any, ...]] = []
    total = 0
    for batch in result.batches():
        rows += batch[: max(0, most - len(rows))]
        total += len(batch)
        if total - most >= MOST_COUNTED:
            break
    return rows, total


def _print_all(result: Result, stream: TextIO, numeric: list[bool]) -> int:
    """Every row, in columns as wide as the first rows need, wider ones where later rows do."""
    names = [visible(name) for name in result.columns]
    widths: list[int] = []
    total = 0
    for batch in result.batches(_BLOCK_ROWS):
        total += len(batch)
        if _is_plan(result):
            stream.writelines(f"{row[1]}\n" for row in batch)
            continue
        texts = _texts(result, batch, whole=True)
        first, widths = not widths, _widths(names, texts, widths)
        if first:
            stream.writelines(f"{line}\n" for line in _header(names, widths, numeric, stream))
        stream.writelines(_line(row, widths, numeric) + "\n" for row in texts)
    if not total and names:
        header = _header(names, _widths(names, []), numeric, stream)
        stream.writelines(f"{line}\n" for line in header)
    return total


def _print_records(names: list[str], rows: list[list[str]], console: Console) -> None:
    """A block for each row, a line for each column, cut to the terminal's width."""
    most = max(3, console.width // 2)
    own, dash = min(most, max(map(width_of, names))), _dash(console.encoding)
    for number, row in enumerate(rows, 1):
        console.file.write(f"{2 * dash} {number} ".ljust(min(console.width, 40), dash) + "\n")
        for name, text in zip(names, row, strict=True):
            room = max(1, console.width - own - len(_GAP))
            line = _padded(name, own, False) + _GAP + _cut(text, room)
            console.file.write(line.rstrip() + "\n")


def _texts(result: Result, rows: list[tuple[Any, ...]], whole: bool = False) -> list[list[str]]:
    """The values as they are shown, null as NULL; ``whole``, however long they are."""
    most = None if whole else _MOST_CHARACTERS
    columns = []
    for values, kind in zip(zip(*rows, strict=True), result.types, strict=bool(rows)):
        convert, decimals = converter(kind), _decimals(values)
        columns.append(
            [
                "NULL"
                if v is None
                else number(v, decimals)
                if isinstance(v, float)
                else _text(convert(v), most)
                for v in values
            ]
        )
    return [list(row) for row in zip(*columns, strict=True)]


def _decimals(values: Iterable[Any]) -> int:
    """The fewest decimals that show the floats of a column as they are, four at most.

    So what a query rounds to two places has two, and numbers stand below each other.
    """
    floats = {v for v in values if isinstance(v, float) and 0.001 <= abs(v) < 1e9}
    return next((d for d in range(1, 4) if all(round(v, d) == round(v, 4) for v in floats)), 4)


def _widths(names: list[str], rows: list[list[str]], least: Sequence[int] = ()) -> list[int]:
    """How wide each column is, in a terminal's cells: an emoji has two."""
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    found = [
        max([width_of(name), *map(width_of, column)])
        for name, column in zip(names, columns, strict=True)
    ]
    return [max(pair) for pair in zip(found, least, strict=True)] if least else found


def _fitted(widths: list[int], numeric: list[bool], room: int) -> list[int] | None:
    """Widths that fit into ``room``: the widest texts are cut first, numbers never.

    None where that would leave next to nothing of a text.
    """
    over = sum(widths) + len(_GAP) * (len(widths) - 1) - room
    if over <= 0:
        return widths
    texts = sorted(w for w, right in zip(widths, numeric, strict=True) if not right)
    # The largest width that the texts may have.
    most = max(texts, default=0)
    while most > _LEAST_WIDTH and sum(max(0, w - most) for w in texts) < over:
        most -= 1
    if sum(max(0, w - most) for w in texts) < over:
        return None
    return [w if right else min(w, most) for w, right in zip(widths, numeric, strict=True)]


def _header(
    names: list[str], widths: list[int], numeric: list[bool], stream: TextIO
) -> tuple[str, str]:
    whole = sum(widths) + len(_GAP) * (len(widths) - 1)
    return _line(names, widths, numeric), _dash(stream.encoding) * whole


def _dash(encoding: str | None) -> str:
    """What a rule is made of: a character that the encoding has bytes for, else it is escaped."""
    try:
        "─".encode(encoding or "utf-8")  # a stream in memory has none
    except UnicodeEncodeError:
        return "-"
    return "─"


def _line(texts: list[str], widths: list[int], numeric: list[bool]) -> str:
    cells = (_padded(t, w, r) for t, w, r in zip(texts, widths, numeric, strict=True))
    return _GAP.join(cells).rstrip(" ")


def _padded(text: str, width: int, right: bool) -> str:
    text = _cut(text, width)
    gap = " " * (width - width_of(text))
    return gap + text if right else text + gap


def _cut(text: str, width: int) -> str:
    if width_of(text) <= width:
        return text
    from rich.cells import set_cell_size

    return set_cell_size(text, width - 1).rstrip(" ") + "…"


def width_of(text: str) -> int:
    """How many of a terminal's cells a text takes: of an emoji two."""
    if text.isascii():
        return len(text)
    from rich import cells

    return cells.cell_len(text)


def _is_plan(result: Result) -> bool:
    """Whether it is what EXPLAIN gives: a drawing of DuckDB's own."""
    return [c.lower() for c in result.columns] == ["explain_key", "explain_value"]


def make_table(columns: Iterable[str], numeric: Iterable[bool], colour: bool = True) -> Table:
    """A Rich table whose cells are cut with … where they do not fit; numbers stand to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

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
    from rich.text import Text

    return Text(_text(value), no_wrap=True, overflow="ellipsis")


def _text(value: Any, most: int | None = _MOST_CHARACTERS) -> str:
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
        head = value[:most] if isinstance(value, list) else value
        text = visible(json.dumps(head, ensure_ascii=False))
    else:
        text = visible(str(value))
    return text if most is None or len(text) <= most else text[:most] + "…"


def number(value: float, decimals: int = 4) -> str:
    """So many decimals; four significant digits where that would show nothing, or far too much."""
    if not math.isfinite(value):
        return str(value)
    if value and (abs(value) < 0.001 or abs(value) >= 1e9):
        return f"{value:.4g}"
    return f"{value:.{decimals}f}"
