"""``gc``: delete what of a dataset is no longer wanted, after showing it and asking."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pausedata.cli.common import AsJson, DatasetPath, answer, command, if_stopped, print_json, say
from pausedata.core.errors import UsageError


@command
def gc(
    dataset: DatasetPath,
    older_than: Annotated[
        str | None,
        typer.Option(
            "--older-than",
            metavar="AGE",
            help="Only what is older: 0, 30s, 90m, 12h, 7d. Default: 1h, unfinished scores 7d.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be deleted, and end.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Delete old versions and stale staging, after showing what, how much it frees, and asking.

    The current version stays, and so does what a pausedata reader or writer is working from.

    Example: pausedata gc build/gsm8k --older-than 7d
    """
    from pausedata.cli.render.gc import cautions, describe_collected, describe_plan
    from pausedata.store.gc import Collected, collect, parse_age, plan_gc

    plan = plan_gc(dataset, None if older_than is None else parse_age(older_than))
    asks = bool(plan.items) and not yes and not dry_run
    if not json or asks:
        for line in [*describe_plan(plan), *cautions(plan)]:
            answer(line) if asks else say(line)
    if asks and not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask on: give --yes to delete, or --dry-run.")
    agreed = not dry_run and (not asks or typer.confirm("Delete these?", err=True))
    if agreed:
        if_stopped("what is in use is unharmed, and what was deleted is gone")
    result = collect(plan) if agreed else Collected()
    if json:
        print_json(plan.as_json() | result.as_json() | {"kept": plan.kept | result.kept})
    elif plan.items and not dry_run:
        for line in describe_collected(result) if agreed else ["nothing was deleted"]:
            say(line)
    if result.failed:
        raise typer.Exit(1)


COMMANDS = {"gc": gc}
