"""The plan as a table."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pausedata.plan import Plan


def render_plan(plan: Plan) -> RenderableType:
    """Steps with what would happen to each, then the figures and what cannot be known."""
    table = Table(box=None, pad_edge=False, show_edge=False)
    for column in ("table", "action", "why"):
        table.add_column(column, overflow="fold")
    for step in plan.steps:
        table.add_row(Text(step.table), Text(step.action), Text(step.why))
    lines = [Text(f"{plan.output}: {plan.state}"), Text(""), table, Text("")]
    lines += [Text(f"{name:14} {value}") for name, value in plan.figures().items()]
    lines += [Text(f"unknown: {reason}", style="yellow") for reason in plan.unknown]
    return Group(*lines)
