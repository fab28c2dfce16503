"""Columns of figures side by side, with or without bars, split to fit the terminal's width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from pausedata.cli.render.visible import visible

_GAP = 2  # columns of the terminal between two of ours
_SHORTEST_BAR, _LONGEST_BAR = 8, 30
_EIGHTHS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True)
class Column:
    """One column: a figure for each row, and, where there are bars, each one's length."""

    head: str
    figures: Sequence[str]
    lengths: Sequence[float] | None = None


class ParallelColumns:
    """A Rich renderable: ``labels``, columns that name the rows, and ``columns``, all equally wide.

    Bars have one scale: the longest of all takes the room that there is. Where the stream's
    encoding has no blocks they are of ASCII characters. A head that is too long is folded.
    """

    def __init__(self, labels: Sequence[Column], columns: Sequence[Column]) -> None:
        self._labels, self._columns = labels, columns

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The parts, each with its heads, and an empty line between two."""
        lefts = [max(map(len, [label.head, *label.figures])) for label in self._labels]
        room = options.max_width - sum(lefts) - _GAP * (len(lefts) - 1)
        number = max(len(figure) for column in self._columns for figure in column.figures)
        with_bars = self._columns[0].lengths is not None
        least = number + 1 + _SHORTEST_BAR if with_bars else number
        natural = max([least, *(cell_len(visible(column.head)) for column in self._columns)])
        width = min(natural, max(least, room - _GAP))
        each = min(max(1, room // (_GAP + width)), len(self._columns))
        bar = 0
        if with_bars:  # the room that is left is theirs
            width = max(width, min(room // each - _GAP, number + 1 + _LONGEST_BAR))
            bar = min(width - number - 1, _LONGEST_BAR)
        most = max((n for c in self._columns for n in c.lengths or []), default=0) or 1
        blocks = _can_be_printed(_EIGHTHS, options.encoding)
        for first in range(0, len(self._columns), each):
            shown = self._columns[first : first + each]
            if first:
                yield Text("")
            widths = [*lefts, *(width for _ in shown)]
            heads = [
                *([label.head] for label in self._labels),
                *(chop_cells(visible(column.head), width) for column in shown),
            ]
            for k in range(max(map(len, heads))):
                line = [lines[k] if k < len(lines) else "" for lines in heads]
                yield Text(_line(line, widths, len(lefts), with_bars), "bold", no_wrap=True)
            for k in range(len(self._labels[0].figures)):
                line = [label.figures[k] for label in self._labels]
                for column in shown:
                    cell = f"{column.figures[k]:>{number}}"
                    if column.lengths is not None:
                        cell += " " + draw_bar(column.lengths[k] / most, bar, blocks)
                    line.append(cell)
                yield Text(_line(line, widths, len(lefts), with_bars), no_wrap=True)


def draw_bar(share: float, width: int, blocks: bool = True) -> str:
    """A bar that is ``width`` long at 1; any value above 0 is visible."""
    if not blocks:
        whole = round(share * width)
        return "#" * whole if whole or not share else "."
    eighths = max(round(8 * share * width), 1 if share else 0)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _line(cells: Sequence[str], widths: Sequence[int], labels: int, with_bars: bool) -> str:
    """Labels and bars stand to the left of their columns, figures alone to the right."""
    padded = []
    for k, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        space = " " * max(0, width - cell_len(cell))
        padded.append(cell + space if k < labels or with_bars else space + cell)
    return (" " * _GAP).join(padded).rstrip()


def _can_be_printed(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
