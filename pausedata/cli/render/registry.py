"""``pausedata strategies`` and ``formats``: what there is, with its options."""

from __future__ import annotations

import re
from typing import Any

import yaml
from rich.console import Group, RenderableType
from rich.markdown import Markdown
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pausedata.cli.render.visible import visible
from pausedata.core.options import default_of, values_of
from pausedata.strategies.example import Worked

_READS = {
    "logprob": "log-probabilities",
    "rank": "ranks",
    "entropy": "entropies",
    "reference": "a second run's log-probabilities",
    "text": "the response's text",
    "special": "the vocabulary",
    "placed": "other placements",
}


def reads_in_words(reads: list[str]) -> str:
    """What a strategy reads, as ``strategies.about`` has it, for a person."""
    return ", ".join(words for name, words in _READS.items() if name in reads) or "the tokens alone"


def parameters_in_words(values: dict[str, Any] | list[Any]) -> str:
    """Parameters as a recipe writes them, in one line: ``{positions: 2}``."""
    flow = yaml.safe_dump(
        values, default_flow_style=True, sort_keys=False, width=1_000_000, allow_unicode=True
    )
    return flow.strip()


def render_registry(described: list[dict[str, Any]]) -> RenderableType:
    """Strategies or formats: each with what it does and its own options, the common ones once."""
    parts: list[RenderableType] = []
    for entry in described:
        parts += [_head(entry), _indented(Text(entry["summary"]))]
        if "reads" in entry:
            parts.append(_indented(Text(f"reads {reads_in_words(entry['reads'])}")))
            parts.append(_indented(Text(f"places known before the token: {entry['known_before']}")))
        if entry.get("readers"):
            parts.append(_indented(Text(f"read by {entry['readers']}")))
        parts += [_options([o for o in entry["options"] if not o["common"]]), Text()]
    having = [entry for entry in described if _common(entry)]
    if having:
        without = [entry["name"] for entry in described if not _common(entry)]
        but = f" (but not {', '.join(without)})" if without else ""
        parts.append(Text(f"common to all{but}", "bold"))
        parts.append(_options(max((_common(entry) for entry in having), key=len)))
    return Group(*parts)


def render_strategy(about: dict[str, Any], worked: list[Worked]) -> RenderableType:
    """One strategy in full."""
    parts: list[RenderableType] = [_head(about), Text(about["summary"]), Text()]
    for label in ("formula", "source"):
        if about[label]:
            parts += [Text(label, "bold"), _indented(Text(_plain(about[label]))), Text()]
    if about["notes"]:
        parts += [Text("notes", "bold"), Markdown(about["notes"])]
    parts += [Text("reads", "bold"), _indented(Text(reads_in_words(about["reads"]))), Text()]
    known = f"{about['known_before']} (docs/gate.md says what hangs on it)"
    parts += [Text("places known before the token", "bold"), _indented(Text(known)), Text()]
    own = [option for option in about["options"] if not option["common"]]
    for label, options in (("parameters", own), ("common parameters", _common(about))):
        if options:
            parts += [Text(label, "bold"), _options(options, values=True), Text()]
    for example in worked:
        parts.append(Text(f"example {parameters_in_words(example.parameters)}", "bold"))
        if example.fitted:
            parts.append(_indented(Text(f"found: {parameters_in_words(example.fitted)}")))
        parts += [*(_indented(Text(text)) for text in example.texts), Text()]
    return Group(*parts[:-1])


def _head(entry: dict[str, Any]) -> Text:
    origin = entry["origin"]
    head = Text(visible(entry["name"]), "bold")
    if isinstance(origin, dict):
        head.append(f"  from {origin['distribution']} {origin['version']}", "default")
    return head


def _common(entry: dict[str, Any]) -> list[dict[str, Any]]:
    return [option for option in entry["options"] if option["common"]]


def _options(options: list[dict[str, Any]], values: bool = False) -> RenderableType:
    """Name, default and meaning in columns, a mapping's own keys below it."""
    if not options:
        return Group()
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(min_width=15, no_wrap=True)
    grid.add_column(min_width=8, overflow="fold")
    grid.add_column()

    def add(option: dict[str, Any], before: str) -> None:
        meaning = [values_of(option)] if values else []
        meaning += [option["description"]] if option["description"] else []
        grid.add_row(
            Text(before + option["name"]), Text(default_of(option)), Text("; ".join(meaning))
        )
        for inner in option["keys"]:
            add(inner, f"{before}  ")

    for option in options:
        add(option, "")
    return _indented(grid)


def _indented(inner: RenderableType) -> RenderableType:
    return Padding(inner, (0, 0, 0, 2), expand=False)


def _plain(markdown: str) -> str:
    """Without the fences of code blocks and the marks of code, which a terminal has no use for."""
    return re.sub(r"^```\w*\n", "", markdown, flags=re.M).replace("`", "")
