"""``pausedata show``: one example's response, each token coloured by how much it surprises."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.style import Style
from rich.table import Table
from rich.text import Text

from pausedata.report.example import Example, Token, example_json, load_example
from pausedata.report.table import cell, make_table, number
from pausedata.report.visible import NEWLINE, visible
from pausedata.store.dataset import Version

__all__ = ["Heatmap", "example_json", "render_example"]

# Surprisal in nats from which each colour holds: ColorBrewer's YlOrRd; its lightness falls evenly,
# so that more surprising is darker to the colour-blind, too. Below the first there is no colour.
SCALE = [
    (0.1, "#ffeda0"),
    (0.5, "#fed976"),
    (1.0, "#feb24c"),
    (2.0, "#fd8d3c"),
    (4.0, "#fc4e2a"),
    (6.0, "#e31a1c"),
    (8.0, "#b10026"),
]
_PAUSE = Style(bold=True, color="#ffffff", bgcolor="#1f4fd8")
_MANY = 3  # more pauses than this in one place are a number


def render_example(
    version: Version, id: str | None = None, placement: str | None = None, run: str | None = None
) -> RenderableType:
    """The heat map of an example; arguments and errors as of ``load_example``.

    Print it with ``soft_wrap=True`` where the output is no terminal, or Rich wraps the text.
    """
    return Heatmap(load_example(version, id, placement, run), version.manifest.pause.token)


@dataclass(frozen=True)
class Heatmap:
    """A Rich renderable. Without colour it holds no styles, and each pause as the token's text."""

    example: Example
    pause_token: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Header, legend, prompt and response, and what follows the pauses."""
        colour = bool(console.is_terminal and not console.no_color and console.color_system)
        yield self._header(colour)
        if colour and self.example.run is not None:
            yield _legend()
        yield Text("")
        text = Text().append(visible(self.example.prompt, NEWLINE + "\n"), "dim" if colour else "")
        yield text.append_text(self._response(colour))
        if self.example.pauses:
            yield Text("")
            yield self._followers(colour)

    def _header(self, colour: bool) -> Text:
        example = self.example
        logprobs = [t.logprob for t in example.tokens if t.logprob is not None]
        mean = number(sum(logprobs) / len(logprobs)) if logprobs else "none"
        parts = [
            ("", example.id),
            ("split", example.split),
            ("run", example.run or "none"),
            ("placement", example.placement or "none"),
            ("tokens", str(len(example.tokens))),
            ("mean log-probability", mean),
        ]
        text = Text()
        for label, value in parts:
            text.append(("  " if text.plain else "") + (label + " " if label else ""))
            text.append(visible(value), "bold" if colour else "")
        return text

    def _response(self, colour: bool) -> Text:
        example = self.example
        pauses = dict(example.pauses)
        text = Text()
        length = len(example.tokens)
        pieces = example.pieces()
        for token, piece in zip(example.tokens, pieces, strict=True):
            self._mark(text, pauses.get(token.pos, 0), colour)
            # An added EOS covers no text, but is scored and can follow a pause: show its name.
            if token.char_start == token.char_end == len(example.response):
                piece = token.token or ""
            # Colour before the break of the line, not the rest of it.
            text.append(visible(piece, NEWLINE + "\n"), _style(token) if colour else None)
        self._mark(text, pauses.get(length, 0), colour)
        text.append(visible(example.response[sum(map(len, pieces)) :], NEWLINE + "\n"))
        return text

    def _mark(self, text: Text, count: int, colour: bool) -> None:
        if not colour:
            text.append(visible(self.pause_token) * count)
        elif count:
            text.append("⏸" * count if count <= _MANY else f"⏸×{count}", _PAUSE)

    def _followers(self, colour: bool) -> Table:
        columns = ["pos", "pauses", "token", "logprob", "probability", "rank"]
        table = make_table(columns, [c != "token" for c in columns], colour)
        for pos, count in self.example.pauses:
            if pos < len(self.example.tokens):
                token = self.example.tokens[pos]
                probability = None if token.logprob is None else math.exp(token.logprob)
                values = [token.token, token.logprob, probability, token.rank]
            else:
                values = ["(after the last token)", None, None, None]
            table.add_row(*(cell(value) for value in (pos, count, *values)))
        return table


def _style(token: Token) -> Style | None:
    if token.logprob is None:
        return None
    surprisal = -token.logprob
    fitting = [colour for least, colour in SCALE if surprisal >= least]
    return _on(fitting[-1]) if fitting else None


def _on(background: str) -> Style:
    """``background`` under black or white, whichever stands out more (WCAG's contrast)."""
    channels = [int(background[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    # Equal contrast with both: (1 + 0.05) / (L + 0.05) == (L + 0.05) / 0.05.
    return Style(color="#000000" if luminance > 0.179 else "#ffffff", bgcolor=background)


def _legend() -> Text:
    text = Text("surprisal in nats (−log-probability): ")
    text.append(f" <{SCALE[0][0]:g} ")
    for least, colour in SCALE:
        text.append(f" {least:g} ", _on(colour))
    return text.append(" and more   ").append("⏸", _PAUSE).append(" pause")
