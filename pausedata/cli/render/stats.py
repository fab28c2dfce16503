"""``pausedata stats``: figures of a version, and its placements side by side."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from pausedata import strategies
from pausedata.analysis.stats import (
    PlacedTokens,
    PlacementsStats,
    PlacementStats,
    RunStats,
    ScoreStats,
    Stats,
)
from pausedata.cli.render.figures import Column, ParallelColumns
from pausedata.cli.render.gc import size
from pausedata.cli.render.registry import parameters_in_words
from pausedata.cli.render.table import make_table, number
from pausedata.cli.render.visible import visible
from pausedata.store.choice import describe_choice

_NONE = "-"
_UNBOUNDED = 10_000  # columns: more than any table here takes
_NARROWEST_NAME = 12  # of a row of the matrix; where less room is left its number has to do


def render_stats(stats: Stats | PlacementsStats) -> RenderableType:
    """What ``stats`` found."""
    return _placements(stats) if isinstance(stats, PlacementsStats) else _version(stats)


def _version(stats: Stats) -> RenderableType:
    counted = f"{stats.tokens:,} tokens" if stats.tokens is not None else "tokens not recorded"
    if stats.response_tokens is not None:
        counted += f", {stats.response_tokens:,} of them in responses"
    blocks: list[RenderableType] = [
        Text.assemble(
            (visible(stats.name), "bold"),
            f"  version {stats.version}: {stats.examples:,} examples, {counted}, "
            f"{size(stats.total_bytes)} on disk",
        ),
        Text(""),
        _splits(stats),
        *_between_splits(stats),
    ]
    sections = {
        "scores": (
            ["run", "model", "made with", *([] if stats.counted else ["mean logprob"])],
            [
                [name, _model(r.scored_by), _made_with(r.scored_by)]
                + ([] if stats.counted else [_number(r.mean_logprob)])
                for name, r in stats.runs.items()
            ],
            [0, 1, 2],
        ),
        "placements": (
            ["placement", "strategy", "run"]
            + ([] if stats.counted else ["examples", "places", "pauses"]),
            [
                [name, _how(p), p.run or _NONE]
                + ([] if stats.counted else [_count(n) for n in _recorded(p)])
                for name, p in stats.placements.items()
            ],
            [0, 1, 2],
        ),
        "exports": (
            ["export", "format", "of", "rows", "tokens", "pauses"],
            [
                [name, e.format or _NONE, describe_choice(e.placement) if e.placement else _NONE]
                + [_count(n) for n in (e.rows, e.tokens, e.pauses)]
                for name, e in stats.exports.items()
            ],
            [0, 1, 2],
        ),
    }
    for kind, (heads, rows, names) in sections.items():
        if rows:
            sizes = [size(stats.bytes[f"{kind}/{row[0]}"]) for row in rows]
            sized = [[*row, amount] for row, amount in zip(rows, sizes, strict=True)]
            blocks += [Text(""), _table([*heads, "size"], sized, names)]
            if stats.counted and kind == "scores":
                blocks += _scores(stats)
            if stats.counted and kind == "placements":
                blocks += _pauses(stats)
    others = [
        f"{name} {size(n)}"
        for name, n in stats.bytes.items()
        if "/" not in name or name.startswith("kept/")
    ]
    blocks += [Text(""), Text("beside these: " + ", ".join(others))]
    return Group(*blocks)


def _recorded(placement: PlacementStats) -> list[int | None]:
    return [placement.examples_with_pauses, placement.places, placement.pauses]


def _splits(stats: Stats) -> Table:
    counted = ["tokens", "in responses"] if stats.counted else []
    rows = [
        [
            split,
            f"{s.rows:,}",
            f"{s.examples:,}",
            *[_count(n) for n in (s.tokens, s.response_tokens)][: len(counted)],
            _reasons(s.dropped, s.noted),
        ]
        for split, s in stats.splits.items()
    ]
    heads = ["split", "rows", "examples", *counted, "dropped; noted"]
    return _table(heads, rows, names=[0, len(heads) - 1])


def _between_splits(stats: Stats) -> list[Text]:
    """What is held out, and the examples that splits have in common."""
    lines = []
    if stats.held_out is not None:
        held = visible(stats.held_out)
        lines.append(f"{held} is held out: `measure` takes it, exports that do not name it do not")
    lines += [f"in common: {visible(shared.told())}" for shared in stats.shared or []]
    if len(stats.splits) > 1 and stats.counted and stats.shared is None:
        lines.append("what splits have in common: not counted, `examples` was not pulled")
    elif len(stats.splits) > 1 and stats.shared == []:
        lines.append("no two splits have a prompt in common")
    return [Text(line) for line in lines]


def _scores(stats: Stats) -> list[RenderableType]:
    """Means of each run, by split where there are several; quantiles; the histogram."""
    several = len(stats.splits) > 1

    def parts(name: str, run: RunStats) -> list[tuple[list[str], ScoreStats]]:
        if not several:
            return [([name], run)]
        return [([name, "(all)"], run), *(([name, split], s) for split, s in run.splits.items())]

    shown = [part for name, run in stats.runs.items() for part in parts(name, run)]
    means = _TableOrColumns(
        ["run", "split"] if several else ["run"],
        ["tokens", "logprob", "perplexity", "entropy", "rank 1"],
        [
            (
                name,
                [
                    _count(s.tokens),
                    _number(s.mean_logprob),
                    _number(s.perplexity),
                    _number(s.mean_entropy),
                    _percent(s.share_of_first_choices),
                ],
            )
            for name, s in shown
        ],
    )
    blocks: list[RenderableType] = [
        Text(""),
        means,
        Text("logprob, entropy: means over response tokens, in nats", "dim"),
        Text("perplexity: exp(-logprob); rank 1: the model's first choices", "dim"),
    ]
    if not stats.response_tokens:
        return blocks
    quantiles = next(iter(stats.runs.values())).quantiles
    ends = {"0": "least", "0.5": "median", "1": "most"}
    blocks += [
        Text(""),
        Text("quantiles of the log-probability, in nats"),
        ParallelColumns(
            [Column("share below", [ends.get(q, f"{float(q):.0%}") for q in quantiles])],
            [
                Column(" ".join(name), [_digits(value) for value in s.quantiles.values()])
                for name, s in shown
            ],
        ),
        Text(_exactness(stats.quantiles_within), "dim"),
        Text(""),
        Text("tokens by probability; logprob: where a row begins, in nats"),
        _histogram(stats),
    ]
    return blocks


def _exactness(within: float | None) -> str:
    assert within is not None  # what is counted says it
    return f"within 1/{1 / within:.0f} of the value; least and most exactly"


def _histogram(stats: Stats) -> ParallelColumns:
    edges = stats.histogram_edges
    assert edges is not None
    ranges = [f"{low:g} to {high:g}" for low, high in pairwise(edges.probability)]
    floors = ["" if edge is None else f"{edge:.4g}" for edge in edges.logprob[:-1]]
    columns = []
    for name, run in stats.runs.items():
        counts = run.histogram or []
        shares = [n / max(run.tokens or 0, 1) for n in counts]
        figures = [_share_of_tokens(share) for share in shares]
        columns.append(Column(name, figures[::-1], shares[::-1]))
    return ParallelColumns(
        [Column("probability", ranges[::-1]), Column("logprob", floors[::-1])], columns
    )


def _pauses(stats: Stats) -> list[RenderableType]:
    """Pauses of each placement, and of an example."""
    rows = [
        (
            [name],
            [
                *[_count(n) for n in (p.places, p.pauses)],
                _short(p.pauses_per_example),
                *[_count(n) for n in (p.fewest_pauses, p.most_pauses)],
                _percent(p.share_without_pauses),
            ],
        )
        for name, p in stats.placements.items()
    ]
    return [
        Text(""),
        _TableOrColumns(["placement"], ["places", "pauses", "mean", "least", "most", "none"], rows),
        Text("mean, least, most: of an example; none: examples without", "dim"),
    ]


def _placements(stats: PlacementsStats) -> RenderableType:
    """The placements side by side; the tokens that they choose; how far they overlap."""
    seen = "no run, so that nothing can be said of scores"
    if stats.run is not None:
        seen = f"through run {visible(stats.run)}: mean log-probability "
        seen += _number(stats.mean_logprob)
    blocks: list[RenderableType] = [
        Text.assemble(
            (visible(stats.name), "bold"),
            f"  version {stats.version}: {stats.examples:,} examples, {stats.tokens:,} response "
            "tokens",
        ),
        Text(seen),
    ]
    if not stats.placements:
        return Group(*blocks, Text("no placement: `pausedata place` makes one."))
    numbered = list(enumerate(stats.placements.items(), 1))
    width = len(str(len(numbered)))
    blocks += [
        Text(""),
        _Sides(stats),
        Text("examples: those with pauses; places, pauses: per example", "dim"),
        Text(
            "logprob: the mean at the tokens chosen; surprisal, tokens: their share of all", "dim"
        ),
        Text(""),
        Text("most paused tokens: how often, of how many in the responses"),
    ]
    for n, (name, chosen) in numbered:
        items = [
            f"{_token(t.token)} {of_occurrences(t.count, t.occurrences)}"
            for t in chosen.most_frequent
        ]
        blocks.append(_Listed(f"{n:>{width}} {visible(name)}", items or [_NONE]))
    if len(numbered) > 1:
        shares = [list(row.values()) for row in stats.jaccard.values()]
        blocks += [
            Text(""),
            Text("overlap: positions of both, as a share of those of either (Jaccard)"),
            _Matrix(list(stats.placements), shares),
        ]
    return Group(*blocks)


class _TableOrColumns:
    """Rows of names and figures: a table where they fit in one line, else each row as a column."""

    def __init__(
        self, names: list[str], figures: list[str], rows: list[tuple[list[str], list[str]]]
    ) -> None:
        self._names, self._figures, self._rows = names, figures, rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = [[*names, *figures] for names, figures in self._rows]
        table = _table([*self._names, *self._figures], rows, list(range(len(self._names))))
        wide = options.update(max_width=_UNBOUNDED)
        if console.measure(table, options=wide).maximum <= options.max_width:
            yield table
        else:
            columns = [Column(" ".join(names), figures) for names, figures in self._rows]
            yield ParallelColumns([Column("", self._figures)], columns)


class _Sides:
    """The placements side by side: with their names where these fit in one line, else by number.

    The names stand with the numbers below.
    """

    def __init__(self, stats: PlacementsStats) -> None:
        self._placements = list(stats.placements.items())

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options.update(max_width=_UNBOUNDED)
        figures = ["examples", "places", "pauses", "logprob", "surprisal", "tokens"]
        for names in (["placement", "strategy"], ["placement"], []):
            rows = [
                [str(n), *[name, c.strategy or _NONE][: len(names)], *_figures(c)]
                for n, (name, c) in enumerate(self._placements, 1)
            ]
            table = _table(["#", *names, *figures], rows, list(range(1, 1 + len(names))))
            if console.measure(table, options=wide).maximum <= options.max_width:
                break
        yield table


class _Listed:
    """A name and what is listed of it, in as many lines as it takes: none breaks in an item."""

    def __init__(self, name: str, items: list[str]) -> None:
        self._name, self._items = name, items

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = Text(self._name, "bold")
        for item in self._items:
            if line.cell_len + 2 + cell_len(item) > options.max_width:
                yield line
                line = Text("  ")
            line.append(f"  {item}", "not bold")
        yield line


class _Matrix:
    """A square of shares below its diagonal, cut into as many parts as the terminal's width needs.

    Columns have numbers alone, so that many fit.
    """

    def __init__(self, names: list[str], values: list[list[float]]) -> None:
        self._names, self._values = names, values

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        count = len(self._names)
        digits = len(str(count))
        cell = 1 + max(len(".00"), digits)
        left = options.max_width - digits - (count - 1) * cell
        room = min(left, 1 + max(cell_len(visible(name)) for name in self._names))
        if room < _NARROWEST_NAME:
            room = 0
        each = max(1, (options.max_width - digits - room) // cell)
        for first in range(0, count - 1, each):
            if first:
                yield Text("")
            columns = range(first, min(first + each, count - 1))
            heads = "".join(f"{j + 1:>{cell}}" for j in columns)
            yield Text(" " * (digits + room) + heads, "bold", no_wrap=True)
            for i in range(first + 1, count):
                name = Text(f" {visible(self._names[i])}" if room else "")
                name.truncate(room, overflow="ellipsis", pad=True)
                shares = [hundredths(self._values[i][j]) for j in columns if j < i]
                line = "".join(f"{share:>{cell}}" for share in shares)
                yield Text.assemble((f"{i + 1:>{digits}}", "bold"), name, line, no_wrap=True)


def _table(columns: list[str], rows: list[list[str]], names: list[int]) -> Table:
    """A table whose columns ``names`` are text, folded where they do not fit: none is cut."""
    table = make_table(columns, [i not in names for i in range(len(columns))])
    for row in rows:
        table.add_row(
            *(
                Text(visible(value), overflow="fold" if i in names else "ellipsis")
                for i, value in enumerate(row)
            )
        )
    return table


def _figures(chosen: PlacedTokens) -> list[str]:
    return [
        f"{chosen.examples_with_pauses:,}",
        _short(chosen.places_per_example),
        _short(chosen.pauses_per_example),
        _short(chosen.mean_logprob),
        _percent(chosen.share_of_surprisal),
        _percent(chosen.share_of_tokens),
    ]


def _how(placement: PlacementStats) -> str:
    """The strategy and those of its parameters that are not at their defaults."""
    name = placement.strategy
    fields = strategies.get(name).options.model_fields if name in strategies.names() else {}
    said = [
        f"{key} {parameters_in_words(value) if isinstance(value, dict | list) else value}"
        for key, value in placement.parameters.items()
        if value is not None and not (key in fields and fields[key].default == value)
    ]
    return ", ".join([name or _NONE, *said])


def _reasons(dropped: dict[str, int], noted: dict[str, int]) -> str:
    parts = [", ".join(f"{n:,} {reason}" for reason, n in d.items()) for d in (dropped, noted)]
    return "; ".join([parts[0] or _NONE, *([parts[1]] if parts[1] else [])])


def _model(scored_by: dict[str, Any]) -> str:
    weights = scored_by.get("weights_sha256")
    return scored_by.get("model") or (f"weights {weights[:12]}" if weights else _NONE)


def _made_with(scored_by: dict[str, Any]) -> str:
    facts = [fact.partition(":")[0] for fact in making_of(scored_by)]  # why is too long for a table
    return ", ".join(facts) or _NONE


def _token(text: str | None) -> str:
    return "?" if text is None else f"'{visible(text)}'"


def _count(value: int | None) -> str:
    return _NONE if value is None else f"{value:,}"


def _number(value: float | None) -> str:
    return _NONE if value is None else number(value)


def _short(value: float | None) -> str:
    return _NONE if value is None else f"{value:,.2f}"


def _digits(value: float | None) -> str:
    """Three significant digits: next to 0 is where most log-probabilities are."""
    return _NONE if value is None else f"{value:.3g}"


def _share_of_tokens(share: float) -> str:
    """A share in words that shows 0 only where there is none, however few there are."""
    if not share:
        return "0"
    return "<0.01%" if share < 0.0001 else f"{share:.2%}"


def _percent(share: float | None) -> str:
    return _NONE if share is None else f"{share:.1%}"


def of_occurrences(count: int, occurrences: int) -> str:
    """How many of a token's occurrences have pauses: ``38 of 40 (95%)``."""
    return f"{count:,} of {occurrences:,} ({count / max(occurrences, 1):.0%})"


def making_of(scored_by: dict[str, Any]) -> list[str]:
    """How a run was made, beside its model: dtype, backend, and whether it was warmed up."""
    return [scored_by[key] for key in ("dtype", "backend", "warmup") if key in scored_by]


def hundredths(share: float) -> str:
    """A share in three characters; only exactly 0 and 1 look like 0 and 1."""
    if share in (0.0, 1.0):
        return f"{share:.0f}"
    return f".{min(99, max(0, round(100 * share))):02}"
