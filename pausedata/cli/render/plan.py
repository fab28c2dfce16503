"""The plan as a table."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pausedata.cli.render.visible import visible
from pausedata.pipeline.plan import Plan
from pausedata.pipeline.plan.result import readable


def render_plan(plan: Plan) -> RenderableType:
    """Steps with what would happen to each, then the figures and what cannot be known."""
    table = Table(box=None, pad_edge=False, show_edge=False)
    for column in ("writes", "action", "size", "reads", "why"):
        # Names are to be copied: where there is no room, the last two columns are folded.
        table.add_column(
            column,
            overflow="fold",
            no_wrap=column in ("writes", "action", "size"),
            justify="right" if column == "size" else "left",
        )
    for step in plan.steps:
        size = readable(step.bytes) if step.bytes is not None else ""
        cells = (step.table, step.action, size, ", ".join(step.reads), step.why)
        table.add_row(*(Text(visible(cell)) for cell in cells))
    lines = [Text(f"{plan.output}: {plan.state}"), Text(""), table, Text("")]
    lines += [Text(f"{name:14} {value}") for name, value in plan.figures().items()]
    lines += [Text(f"unknown: {reason}", style="yellow") for reason in plan.unknown]
    return Group(*lines)
