"""What a token looks like: colours by how much it surprises, or marks where there is no colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions
from rich.style import Style
from rich.text import Text

from pausedata.cli.render.layout import StyledText, encodable
from pausedata.cli.render.visible import visible

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
# By how much another run is more, or less, surprised: two arms of ColorBrewer's BrBG, which the
# colour-blind tell apart, and neither from the blue of the pauses.
MORE = [(0.25, "#f6e8c3"), (0.5, "#dfc27d"), (1.0, "#bf812d"), (2.0, "#8c510a")]
LESS = [(0.25, "#c7eae5"), (0.5, "#80cdc1"), (1.0, "#35978f"), (2.0, "#01665e")]

# The same on terminals of 16 colours, whose nearest to the above would not differ from each other.
# Each names its letters' colour, too: what the terminal's own would be on it is not known.
_SCALE_16 = [
    "black on white",
    "black on bright_yellow",
    "black on yellow",
    "black on bright_red",
    "bright_white on red",
    "bright_white on magenta",
    "bold underline bright_white on magenta",
]
_MORE_16 = [
    "black on bright_yellow",
    "black on yellow",
    "black on bright_red",
    "bright_white on red",
]
_LESS_16 = ["black on bright_cyan", "black on bright_green", "black on cyan", "black on green"]
# Without colour: under each token. In ASCII where the stream's encoding has none of these.
_SCALE_MARKS, _SCALE_ASCII = "▁▂▃▄▅▆▇", "1234567"
_MORE_MARKS, _MORE_ASCII = "░▒▓█", "1234"
_LESS_MARKS, _LESS_ASCII = "-=≡≣", "abcd"
_NO_MARK, _NO_ASCII = "·", "."  # a token below the scale

_PAUSE = Style(bold=True, color="#ffffff", bgcolor="#1f4fd8")
_PAUSE_16 = Style.parse("bold bright_white on blue")
_PAUSE_SIGN = "‖"
_MANY = 3  # more pauses than this in one place are a number


@dataclass(frozen=True)
class ColorScale:
    """Steps of a scale: from what each holds, how it looks, and how it is marked."""

    least: Sequence[float]
    styles: Sequence[Style]
    marks: str

    def step(self, value: float) -> int:
        """The number of the last step that ``value`` reaches; -1 below the first."""
        return sum(value >= least for least in self.least) - 1


class Theme:
    """How a console shows it all: in colours, in 16 of them, or without, by marks."""

    def __init__(self, console: Console, options: ConsoleOptions) -> None:
        self.colour = bool(console.is_terminal and not console.no_color and console.color_system)
        self.encoding = options.encoding
        # A console that is no terminal has lines of any width: print to it with `soft_wrap`.
        self.width = None if options.no_wrap else options.max_width
        few = console.color_system in ("standard", "windows")
        signs = _SCALE_MARKS + _MORE_MARKS + _LESS_MARKS + _NO_MARK
        plain = encodable(signs, self.encoding) != signs
        self._pause = _PAUSE_16 if few else _PAUSE
        self._none = _NO_ASCII if plain else _NO_MARK
        self._minus = "-" if plain else "−"
        self.scale = _scale(
            SCALE, _SCALE_16 if few else [], _SCALE_ASCII if plain else _SCALE_MARKS
        )
        self.more = _scale(MORE, _MORE_16 if few else [], _MORE_ASCII if plain else _MORE_MARKS)
        self.less = _scale(LESS, _LESS_16 if few else [], _LESS_ASCII if plain else _LESS_MARKS)

    def prompt(self, text: str) -> StyledText:
        """Text that is not scored."""
        return StyledText(text, Style(dim=True) if self.colour else None)

    def token(self, text: str, logprob: float | None) -> StyledText:
        """A response token's text, by its surprisal; as it is where it has no score."""
        if logprob is None:
            return StyledText(text)
        return self._piece(text, self.scale, -logprob)

    def change(self, text: str, more: float) -> StyledText:
        """The same, by how much ``more`` another run is surprised, in nats."""
        return self._piece(text, self.more if more > 0 else self.less, abs(more))

    def pauses(self, count: int, token: str) -> list[StyledText]:
        """So many pauses in one place: a sign, or without colour the token's text for each."""
        sign = _PAUSE_SIGN * count if count <= _MANY else f"{_PAUSE_SIGN}×{count}"
        if not self.colour or encodable(sign, self.encoding) != sign:
            style = self._pause if self.colour else None
            return [StyledText(visible(token), style, whole=True)] * count
        return [StyledText(sign, self._pause, whole=True)] if count else []

    def legend(self) -> list[Text]:
        """What the colours or marks of ``token`` mean."""
        entries = [Text(f"surprisal in nats ({self._minus}log-probability):")]
        entries += [self._unmarked(f"<{self.scale.least[0]:g}"), *self._entries(self.scale)]
        return [*entries, Text("and more"), *self._pause_entry()]

    def change_legend(self, a: str, b: str) -> list[list[Text]]:
        """What the looks of ``change`` mean, run ``b`` compared with ``a``: lines of entries."""
        a, b = visible(a), visible(b)
        apart = self._unmarked(f"<{self.more.least[0]:g}")
        return [
            [Text(f"change of surprisal in nats, from {a} to {b}:"), apart, *self._pause_entry()],
            [
                Text(f"less surprised under {b}:"),
                *self._entries(self.less, self._minus),
                Text("and more"),
            ],
            [Text(f"more surprised under {b}:"), *self._entries(self.more, "+"), Text("and more")],
        ]

    def bold(self, text: str) -> Text:
        """Text that stands out."""
        return Text(text, "bold" if self.colour else "")

    def _piece(self, text: str, scale: ColorScale, value: float) -> StyledText:
        step = scale.step(value)
        if step < 0:
            return StyledText(text, None, "" if self.colour else self._none, value)
        if self.colour:
            return StyledText(text, scale.styles[step], weight=value)
        return StyledText(text, None, scale.marks[step], value)

    def _unmarked(self, text: str) -> Text:
        return Text(f" {text} ") if self.colour else Text(f"{self._none} {text}")

    def _entries(self, scale: ColorScale, sign: str = "") -> list[Text]:
        if self.colour:
            pairs = zip(scale.least, scale.styles, strict=True)
            return [Text(f" {sign}{least:g} ", style) for least, style in pairs]
        pairs = zip(scale.least, scale.marks, strict=True)
        return [Text(f"{mark} {sign}{least:g}") for least, mark in pairs]

    def _pause_entry(self) -> list[Text]:
        """The sign of a pause; nothing where pauses are shown as the pause token's own text."""
        if not self.colour or encodable(_PAUSE_SIGN, self.encoding) != _PAUSE_SIGN:
            return []
        return [Text(_PAUSE_SIGN, self._pause).append(" pause", Style.null())]


def _scale(steps: Sequence[tuple[float, str]], few: Sequence[str], marks: str) -> ColorScale:
    styles = [Style.parse(s) for s in few] or [_on(colour) for _, colour in steps]
    return ColorScale([least for least, _ in steps], styles, marks)


def _on(background: str) -> Style:
    """``background`` under black or white, whichever stands out more (WCAG's contrast)."""
    channels = [int(background[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    # Equal contrast with both: (1 + 0.05) / (L + 0.05) == (L + 0.05) / 0.05.
    return Style(color="#000000" if luminance > 0.179 else "#ffffff", bgcolor=background)
