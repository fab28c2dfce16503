"""``pausedata log``: the versions of a dataset, one paragraph each."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from pausedata.analysis.history import Changes, Entry
from pausedata.cli.render.visible import visible

_STATES = {
    "current": "current",
    "earlier": "",
    "marked": "damaged, and marked as that: `verify --version` says where",
    "uncommitted": "a commit under way, or cut off: no reader sees it",
    "abandoned": "left by a commit that was cut off; no later version was made from it",
}
_COLOURS = {"made": "green", "remade": "yellow", "restored": "", "removed": "red"}
_LABEL = 9


def render_log(entries: list[Entry]) -> RenderableType:
    """Newest first, as ``history`` gives them."""
    blocks: list[RenderableType] = []
    for entry in entries:
        blocks += [Text(""), *_paragraph(entry)] if blocks else _paragraph(entry)
    return Group(*blocks)


def _paragraph(entry: Entry) -> list[Text]:
    state = _STATES[entry.state]
    head = Text.assemble((f"version {entry.number}", "bold"), f"  ({state})" if state else "")
    lines = [head]
    if entry.created is not None:
        when = entry.created.replace("T", " ").replace("Z", " UTC")
        head.append(f"  {visible(when)}  {visible(entry.created_by or '')}")
        lines.append(Text(f"  {visible(entry.command or '')}"))
        lines += _body(entry)
    if entry.problem is not None:
        lines.append(Text(f"  damaged: {visible(entry.problem)}", "red"))
    return lines


def _body(entry: Entry) -> list[Text]:
    changes = entry.changes
    if changes is None:
        gone = f"its parent, version {entry.parent}, is gone"
        lines = [Text(f"  {gone}, and no earlier one can be read. It has:")]
        lines += [_line("", name, entry.tables[name]) for name in entry.tables]
        lines += [Text(f"  {split}: {rows:,} rows") for split, rows in entry.rows.items()]
        return lines
    lines = []
    if entry.parent is not None and not entry.parent_is_there:
        lines.append(
            Text(
                f"  its parent, version {entry.parent}, is gone or damaged: "
                f"against version {changes.compared_with}"
            )
        )
    lines += [_line("made", name, entry.tables[name]) for name in changes.made]
    lines += [_line("remade", name, entry.tables[name]) for name in changes.remade]
    lines += [
        _line("restored", name, "made again, the same values") for name in changes.same_values
    ]
    lines += [_line("removed", name, "") for name in changes.removed]
    return lines + _rows(changes)


def _line(label: str, table: str, about: str) -> Text:
    return Text.assemble(
        "  ",
        (f"{label:{_LABEL}}", _COLOURS.get(label, "")),
        f"{visible(table):28} {visible(about)}".rstrip(),
    )


def _rows(changes: Changes) -> list[Text]:
    lines = []
    for split, (before, now) in changes.rows.items():
        if changes.compared_with is None:
            figures = f"{now or 0:,} rows"
        elif before == now:
            figures = f"{now or 0:,} rows, as many as before"
        else:
            figures = " → ".join("none" if n is None else f"{n:,}" for n in (before, now)) + " rows"
        lines.append(Text(f"  {split}: {figures}"))
    return lines
