"""Text of a terminal laid out by hand: whole characters as people see them, in lines that fit.

Rich would wrap a line in the midst of a pause token, and break an emoji whose code points belong to
different tokens. Where marks stand for colours, they have to stand under what they are of.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from pausedata.cli.render.visible import NEWLINE, visible_characters

_JOINER = "\u200d"
_CIRCLE = "◌"  # under a combining character that has no other to stand on


@dataclass(frozen=True)
class StyledText:
    """A stretch of text with one look.

    ``mark`` is what stands under each of its cells, where it says anything. Where a character
    belongs to several pieces it has the look of the one with the greatest ``weight``. What is
    ``whole`` is safe to print already, and stands on one line.
    """

    text: str
    style: Style | None = None
    mark: str = ""
    weight: float = 0.0
    whole: bool = False


@dataclass
class Cell:
    """What stands together: one character as a person sees it, or a piece that is whole."""

    text: str
    width: int  # columns of the terminal
    piece: StyledText
    ends_line: bool = False


def lay_out(
    pieces: Iterable[StyledText], width: int | None = None, encoding: str = "utf-8"
) -> list[list[Cell]]:
    """The lines of ``pieces``, each at most ``width`` columns wide (None: as wide as it is).

    A newline is seen, and ends its line. Lines break behind spaces and beside wide characters,
    elsewhere where a word alone is too wide. What ``encoding`` has no bytes for is escaped.
    """
    lines: list[list[Cell]] = [[]]
    for cell in _cells(pieces, encoding):
        lines[-1].append(cell)
        if cell.ends_line:
            lines.append([])
    if not lines[-1]:
        lines.pop()
    if width is None:
        return lines
    return [part for line in lines for part in _folded(line, max(1, width))]


def texts(lines: Iterable[Sequence[Cell]], marks: bool) -> Iterator[Text]:
    """Each line as Rich prints it, and below it, with ``marks``, the marks of its cells."""
    for line in lines:
        text = Text(no_wrap=True, overflow="ignore")
        for style, cells in groupby(line, lambda cell: cell.piece.style):
            text.append("".join(cell.text for cell in cells), style)
        yield text
        if marks and (below := "".join((c.piece.mark or " ") * c.width for c in line).rstrip()):
            yield Text(below, no_wrap=True, overflow="ignore")


def flow(chips: Sequence[Text], width: int | None, gap: str = "  ") -> Iterator[Text]:
    """The chips one behind the other, in as many lines as keep each of them whole."""
    line = Text(no_wrap=True, overflow="ignore")
    for chip in chips:
        beside = len(gap) if line.plain else 0
        if width is not None and beside and line.cell_len + beside + chip.cell_len > width:
            yield line
            line, beside = Text(no_wrap=True, overflow="ignore"), 0
        line.append(gap[:beside]).append_text(chip)
    yield line


def encodable(text: str, encoding: str) -> str:
    """``text`` with escapes for what ``encoding`` has no bytes for."""
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _cells(pieces: Iterable[StyledText], encoding: str) -> Iterator[Cell]:
    for whole, run in groupby(pieces, lambda piece: piece.whole):
        if whole:
            for piece in run:
                text = encodable(piece.text, encoding)
                yield Cell(text, cell_len(text), piece)
        else:
            yield from _characters(list(run), encoding)


def _characters(pieces: Sequence[StyledText], encoding: str) -> Iterator[Cell]:
    """The characters of pieces that touch: a person's may be several of Unicode's."""
    text = "".join(piece.text for piece in pieces)
    owners = [piece for piece in pieces for _ in piece.text]
    held: Cell | None = None
    for character, shown, piece in zip(text, visible_characters(text), owners, strict=True):
        as_it_is = character == shown and encodable(shown, encoding) == shown
        if held is not None and as_it_is and _continues(held.text, character):
            held.text += character
            held.piece = max(held.piece, piece, key=lambda p: p.weight)
            continue
        if held is not None:
            yield _measured(held)
        if as_it_is and not _width(shown):
            shown = _CIRCLE + shown
        held = Cell(encodable(shown, encoding), 0, piece, shown == NEWLINE and character == "\n")
        if not as_it_is:  # nothing is joined to an escape
            yield _measured(held)
            held = None
    if held is not None:
        yield _measured(held)


def _continues(before: str, character: str) -> bool:
    """Whether ``character`` belongs to the one that ``before`` holds the beginning of."""
    if before.endswith(_JOINER):
        return True
    if unicodedata.category(character).startswith("M") or not cell_len(character):
        return True  # a combining character, a joiner, a variation, a colour of the skin
    if "\U0001f3fb" <= character <= "\U0001f3ff":
        return unicodedata.category(before[0]) == "So"
    return len(before) == 1 and _is_flag_letter(before) and _is_flag_letter(character)


def _is_flag_letter(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def _measured(cell: Cell) -> Cell:
    cell.width = _width(cell.text)
    return cell


def _width(text: str) -> int:
    """How many columns what stands together takes, in a terminal that joins it."""
    if text.isascii():
        return len(text)
    if _JOINER in text:
        first, *others = text.split(_JOINER)
        if unicodedata.category(first[:1] or " ") in ("So", "Sk"):  # emoji: one picture
            return _width(first)
        return _width(first) + sum(map(_width, others))
    # Signs of Indic scripts that take room of their own.
    spacing = sum(unicodedata.category(c) == "Mc" and not cell_len(c) for c in text[1:])
    return cell_len(text) + spacing


def _folded(line: list[Cell], width: int) -> Iterator[list[Cell]]:
    """A line as lines that fit: it is broken where it may be, and else where it must."""
    held: list[Cell] = []
    used = behind = 0  # columns of ``held``; how many of its cells a break may stand behind
    for cell in line:
        if cell.piece.whole or cell.width > 1:
            behind = len(held)
        while held and used + cell.width > width:
            cut = behind or len(held)
            yield held[:cut]
            held, behind = held[cut:], 0
            used = sum(c.width for c in held)
        held.append(cell)
        used += cell.width
        if cell.text == " " or (cell.width > 1 and not cell.piece.whole):
            behind = len(held)
    if held:
        yield held
