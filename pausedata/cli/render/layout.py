"""Text of a terminal laid out by hand: whole characters as people see them, in lines that fit.

Rich would wrap a line in the midst of a pause token, and break an emoji whose code points belong to
different tokens. Where marks stand for colours, they have to stand under what they are of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.style import Style
from rich.text import Text
from wcwidth import iter_graphemes
from wcwidth import width as width_of

from pausedata.cli.render.visible import visible_characters

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
    """What is never broken: one character as a person sees it, or a piece that is whole."""

    text: str
    width: int  # columns of the terminal
    piece: StyledText
    ends_line: bool = False


def lay_out(
    pieces: Iterable[StyledText], width: int | None = None, encoding: str = "utf-8"
) -> list[list[Cell]]:
    """The lines of ``pieces``, each at most ``width`` columns wide (None: as wide as it is).

    A newline is shown, and ends its line. Lines break behind spaces and beside wide characters,
    inside a word only where it alone is too wide. What ``encoding`` has no bytes for is escaped.
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
    """Each line as Rich prints it; with ``marks``, the marks of its cells in a line below it."""
    for line in lines:
        text = Text(no_wrap=True, overflow="ignore")
        for style, cells in groupby(line, lambda cell: cell.piece.style):
            text.append("".join(cell.text for cell in cells), style)
        yield text
        if marks and (below := "".join((c.piece.mark or " ") * c.width for c in line).rstrip()):
            yield Text(below, no_wrap=True, overflow="ignore")


def flow(entries: Sequence[Text], width: int | None, gap: str = "  ") -> Iterator[Text]:
    """The entries of a header or legend one after the other; none is broken over two lines."""
    line = Text(no_wrap=True, overflow="ignore")
    for entry in entries:
        beside = len(gap) if line.plain else 0
        if width is not None and beside and line.cell_len + beside + entry.cell_len > width:
            yield line
            line, beside = Text(no_wrap=True, overflow="ignore"), 0
        line.append(gap[:beside]).append_text(entry)
    yield line


def encodable(text: str, encoding: str) -> str:
    """``text`` with escapes for what ``encoding`` has no bytes for."""
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _cells(pieces: Iterable[StyledText], encoding: str) -> Iterator[Cell]:
    for whole, run in groupby(pieces, lambda piece: piece.whole):
        if whole:
            for piece in run:
                text = encodable(piece.text, encoding)
                yield Cell(text, _width(text), piece)
        else:
            yield from _characters(list(run), encoding)


def _characters(pieces: Sequence[StyledText], encoding: str) -> Iterator[Cell]:
    """The characters of pieces that touch: one that a person sees may be several code points, of
    several pieces.
    """
    text = "".join(piece.text for piece in pieces)
    owners = [piece for piece in pieces for _ in piece.text]
    shown = [encodable(seen, encoding) for seen in visible_characters(text)]
    as_it_is = [a == b for a, b in zip(text, shown, strict=True)]
    for unchanged, run in groupby(range(len(text)), as_it_is.__getitem__):
        places = list(run)
        if not unchanged:  # nothing is joined to an escape
            for k in places:
                yield Cell(shown[k], _width(shown[k]), owners[k], text[k] == "\n")
            continue
        first = places[0]
        for character in _graphemes(text[first : places[-1] + 1]):
            end = first + len(character)
            piece = max(owners[first:end], key=lambda piece: piece.weight)
            if not _width(character[0]):
                character = _CIRCLE + character
            yield Cell(character, _width(character), piece)
            first = end


def _graphemes(text: str) -> list[str]:
    """The characters of ``text`` as people see them.

    Unicode's rules part some vowel signs, as the Burmese ``ာ``, from the letter before; they are
    drawn on it all the same, and so stay with it.
    """
    found: list[str] = []
    for character in iter_graphemes(text):
        if found and not _width(character[0]):
            found[-1] += character
        else:
            found.append(character)
    return found


def _width(text: str) -> int:
    """How many columns of a terminal ``text`` takes; it has no control characters."""
    return len(text) if text.isascii() else width_of(text)


def _folded(line: list[Cell], width: int) -> Iterator[list[Cell]]:
    """A line cut into lines that fit, at a permitted break where there is one."""
    held: list[Cell] = []
    used = behind = 0  # columns of ``held``; its cells before the last permitted break
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
