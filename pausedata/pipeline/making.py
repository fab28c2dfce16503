"""Doing what the planner decided."""

from __future__ import annotations

from collections.abc import Sequence

from pausedata.core.errors import UnreachableError, UsageError
from pausedata.exporters.refused import Refused
from pausedata.pipeline.planner import State, Step, Target, decide
from pausedata.pipeline.transaction import Transaction


def carry_out(
    targets: Sequence[Target], state: State, tx: Transaction, *, every: bool = False
) -> None:
    """Make, keep and drop tables as `decide` says.

    Of what stays as it is those are noted that were asked for, or ``every`` placement and export.
    All is decided before any is made: UsageError where something may not be done. What goes
    otherwise than it should, such as scores whose last bits differ, is decided anew from there on.
    """
    list(decide(targets, state.copy()))
    for step in decide(targets, state):
        if step.action == "keep":
            if step.target.asked or (every and step.target.inputs is not None):
                tx.keep(step.table)
        elif step.action == "drop":
            tx.drop(step.table, step.why)
        elif step.action == "leave":
            _tell_left(step, tx)
        else:
            _make(step, state, tx)


def _make(step: Step, state: State, tx: Transaction) -> None:
    """Make one table; an export that nobody asked for is dropped where that cannot be."""
    target = step.target
    assert target.make is not None
    wanted = target.inputs(tx.contents()) if target.inputs else {}
    try:
        table = target.make(tx, wanted)
    except (UnreachableError, UsageError, Refused) as error:
        if target.asked or target.kind != "exports":
            raise
        why = f"it could not be remade: {str(error).splitlines()[0]}"
        tx.drop(target.name, why)
        state.gone[target.name] = why
        return
    if tx.put(table) and step.action == "repair":  # it does not come out as it was
        state.changed.add(target.name)


def _tell_left(step: Step, tx: Transaction) -> None:
    """Say that a placement cannot be made again, and so stays as it is."""
    if step.target.kind == "placements" and step.cause and step.cause.startswith("scores/"):
        run = step.cause.removeprefix("scores/")
        stays = "stays as it is" if step.table in tx.tables else "is not made"
        tx.progress.warn(
            f"{step.table} {stays}: {step.cause} is damaged, and the recipe names no model "
            f"for it. `pausedata score {tx.root} --run {run} --model …` repairs it."
        )
