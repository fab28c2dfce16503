"""What a trainer has of an export, compared with the plan, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pausedata.cli.render.visible import visible
from pausedata.exporters.trainers import installed
from pausedata.exporters.trainers.base import Trainer
from pausedata.exporters.trainers.trainer_check import TrainerCheck


def render_proofs(trainer: Trainer, proofs: Sequence[TrainerCheck]) -> RenderableType:
    """A table for each split and way of reading it, with the releases that were tried."""
    releases = ", ".join(f"{name} {version}" for name, version in installed(trainer).items())
    parts: list[RenderableType] = [Text(releases)]
    for proof in proofs:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        table.add_column(f"{proof.split}: {proof.way}", overflow="fold")
        table.add_column("compared", justify="right")
        table.add_column("differ", justify="right")
        for check in proof.checks:
            table.add_row(
                Text(check.what),
                f"{check.compared:,}",
                Text(f"{check.differ:,}", "bold red" if check.differ else ""),
            )
        parts += [Text(), table]
        parts += [
            Text(f"differs: {check.what}: {visible(check.first)}", "red")
            for check in proof.checks
            if check.differ and check.first
        ]
    holds = all(proof.holds for proof in proofs)
    last = "all as planned" if holds else "not as planned: do not train with this"
    return Group(*parts, Text(), Text(last, "green" if holds else "bold red"))
