"""``pausedata show``: an example's response, each token coloured by how much it surprises."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from pausedata.cli.render.example import ShownExample, ShownToken, View, example_json, load_example
from pausedata.cli.render.layout import StyledText, flow, lay_out, texts
from pausedata.cli.render.scale import SCALE, Theme
from pausedata.cli.render.table import cell, make_table, number
from pausedata.cli.render.visible import visible
from pausedata.store.dataset import Version

__all__ = ["SCALE", "Heatmap", "example_json", "render_example"]

Change = tuple[float, ShownToken, ShownToken]
_MOST_CHANGED = 8  # tokens that are listed
_NARROW = 60  # columns; below, a table leaves out what follows from another column


def render_example(
    version: Version, id: str | None = None, placement: str | None = None, run: str | None = None
) -> RenderableType:
    """The heat map of an example; arguments and errors as of ``load_example``.

    Print it with ``soft_wrap=True`` where the output is no terminal, or lines are broken.
    """
    example = load_example(version, id, placement, run)
    return Heatmap([View(example)], version.manifest.pause.token)


@dataclass(frozen=True)
class Heatmap:
    """A Rich renderable: one example, with each of ``views`` one under the other.

    Without colour it holds no styles, marks stand under the tokens, and each pause is the token's
    text, once for each.
    """

    views: Sequence[View]
    pause_token: str
    legend: bool = True

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Header, legend, prompt and response, and what follows the pauses or changed most."""
        look = Theme(console, options)
        first, *others = self.views
        example, prompt = first.example, look.prompt(first.example.prompt)
        entries = [look.bold(visible(example.id)), *_named(look, "split", example.split)]
        if not others:
            entries += _shown_with(look, first)
        entries += _named(look, "tokens", str(len(example.tokens)))
        if first.other is None and not others:
            entries += _mean(look, example)
        yield from flow(entries, look.width)
        if first.other is not None:
            for side in (example, first.other):
                yield from flow([*_named(look, "run", side.run), *_mean(look, side)], look.width)
        if self.legend:
            yield from _legend(look, first)
        yield Text("")
        if others:
            yield from texts(lay_out([prompt], look.width, look.encoding), False)
            for view in self.views:
                yield Text("")
                mean = _mean(look, view.example) if view.other is None else []
                yield from flow([*_shown_with(look, view), *mean], look.width)
                yield from self._map(look, view, [])
        else:
            yield from self._map(look, first, [prompt])
        if first.other is not None:
            yield Text("")
            yield from _changed(look, example, first.other)

    def _map(self, look: Theme, view: View, before: list[StyledText]) -> RenderResult:
        """The response behind ``before``, and the tokens that follow its pauses."""
        pieces = [*before, *self._response(look, view)]
        marks = not look.colour and view.example.run is not None
        yield from texts(lay_out(pieces, look.width, look.encoding), marks)
        if view.other is None and view.example.pauses:
            yield Text("")
            yield _followers(look, view.example)

    def _response(self, look: Theme, view: View) -> Iterator[StyledText]:
        example = view.example
        pauses = dict(example.pauses)
        pieces = example.pieces()
        changes = change_of(example, view.other) if view.other is not None else []
        for token, piece in zip(example.tokens, pieces, strict=True):
            yield from look.pauses(pauses.get(token.pos, 0), self.pause_token)
            # An added EOS covers no text, but is scored and can follow a pause: show its name.
            if token.char_start == token.char_end == len(example.response):
                piece = token.token or ""
            if view.other is None:
                yield look.token(piece, token.logprob)
            else:
                yield look.change(piece, changes[token.pos][0])
        yield from look.pauses(pauses.get(len(example.tokens), 0), self.pause_token)
        yield StyledText(example.response[sum(map(len, pieces)) :])


def _legend(look: Theme, view: View) -> Iterator[Text]:
    """The legend of a view's colours or marks; nothing where it has no scores."""
    example, other = view.example, view.other
    if other is not None:
        lines = look.change_legend(example.run or "", other.run or "")
    else:
        lines = [look.legend()] if example.run is not None else []
    for entries in lines:
        yield from flow(entries, look.width, " " if look.colour else "  ")


def _named(look: Theme, label: str, value: str | None) -> list[Text]:
    return [Text(f"{label} ").append_text(look.bold(visible(value or "none")))]


def _shown_with(look: Theme, view: View) -> list[Text]:
    """The run and the placement of a view; runs that are compared have lines of their own."""
    placement = view.example.placement
    if view.other is not None:
        return _named(look, "placement", placement) if placement is not None else []
    return [*_named(look, "run", view.example.run), *_named(look, "placement", placement)]


def _mean(look: Theme, example: ShownExample) -> list[Text]:
    logprobs = [t.logprob for t in example.tokens if t.logprob is not None]
    mean = number(sum(logprobs) / len(logprobs)) if logprobs else "none"
    return _named(look, "mean log-probability", mean)


def _followers(look: Theme, example: ShownExample) -> Table:
    """The tokens behind the pauses."""
    columns = ["pos", "pauses", "token", "logprob", "rank"]
    # It follows from the log-probability.
    with_probability = look.width is None or look.width >= _NARROW
    if with_probability:
        columns.insert(4, "probability")
    rows: list[list[Any]] = []
    for pos, count in example.pauses:
        if pos < len(example.tokens):
            token = example.tokens[pos]
            logprob = token.logprob
            values = [token.token, logprob, None if logprob is None else math.exp(logprob)]
            rank = token.rank
        else:
            values, rank = ["(after the last token)", None, None], None
        rows.append([pos, count, *values[: 3 if with_probability else 2], rank])
    return _table(look, columns, rows)


def change_of(a: ShownExample, b: ShownExample) -> list[Change]:
    """For each token how many nats more it surprises ``b``'s run than ``a``'s, and both tokens.

    The change is 0 where one of the two has no score.
    """
    changes: list[Change] = []
    for one, other in zip(a.tokens, b.tokens, strict=True):
        more = 0.0
        if one.logprob is not None and other.logprob is not None:
            more = one.logprob - other.logprob
        changes.append((more, one, other))
    return changes


def most_changed(a: ShownExample, b: ShownExample) -> list[Change]:
    """The few changes that are largest, and not 0."""
    changed = [change for change in change_of(a, b) if change[0]]
    return sorted(changed, key=lambda change: -abs(change[0]))[:_MOST_CHANGED]


def _changed(look: Theme, a: ShownExample, b: ShownExample) -> RenderResult:
    """The tokens whose surprisal differs most between the two runs of an example."""
    rows = [
        [one.pos, one.token, -(one.logprob or 0), -(other.logprob or 0), more]
        for more, one, other in most_changed(a, b)
    ]
    if not rows:
        yield Text("no token's surprisal differs")
        return
    yield from flow([Text("changed most: surprisal in nats")], look.width)
    yield _table(look, ["pos", "token", a.run or "", b.run or "", "difference"], rows)


def _table(look: Theme, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    table = make_table(columns, [c != "token" for c in columns], look.colour)
    for row in rows:
        table.add_row(*map(cell, row))
    return table
