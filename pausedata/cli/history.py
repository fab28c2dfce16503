"""``log``, ``diff`` and ``rm``: the versions of a dataset and what differs between them."""

from __future__ import annotations

from typing import Annotated

import typer

from pausedata.cli import complete
from pausedata.cli.build import report
from pausedata.cli.common import (
    AsJson,
    AtVersion,
    DatasetPath,
    command,
    command_line,
    if_stopped,
    print_json,
    print_rich,
    progress,
)


@command
def log(
    dataset: DatasetPath,
    number: Annotated[
        int | None, typer.Option("-n", min=1, metavar="N", help="The newest N versions alone.")
    ] = None,
    json: AsJson = False,
) -> None:
    """List the versions, newest first: what changed, when, by which command and model. Exit status
    1 where one of them is damaged.

    Example: pausedata log build/gsm8k -n 5
    """
    from pausedata.analysis.history import history

    entries = history(dataset, number)
    if json:
        print_json({"dataset": str(dataset), "versions": [entry.as_json() for entry in entries]})
    else:
        from pausedata.cli.render.log import render_log

        print_rich(render_log(entries))
    if any(entry.problem for entry in entries):
        raise typer.Exit(1)


@command
def diff(
    dataset: DatasetPath,
    a: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="A version's number, a run or a placement.",
            autocompletion=complete.comparable,
        ),
    ],
    b: Annotated[
        str,
        typer.Argument(
            metavar="B",
            help="What to compare it with, of its kind.",
            autocompletion=complete.comparable,
        ),
    ],
    most: Annotated[
        int, typer.Option("-n", min=0, metavar="N", help="How many most-changed examples to show.")
    ] = 10,
    version: AtVersion = None,
    json: AsJson = False,
) -> None:
    """Say what differs between two versions (3 4), two runs (scores/base scores/epoch-1) or two
    placements (placements/a placements/b).

    Example: pausedata diff build/gsm8k placements/dit placements/random
    """
    from pausedata.analysis.diff import diff as compare

    result = compare(dataset, a, b, version=version, most=most, progress=progress())
    if json:
        print_json(result.as_json())
        return
    from pausedata.cli.render.diff import render_diff

    print_rich(render_diff(result))


@command
def rm(
    dataset: DatasetPath,
    tables: Annotated[
        list[str],
        typer.Argument(
            help="scores/RUN, kept/RUN, placements/NAME or exports/NAME.",
            metavar="TABLE",
            autocompletion=complete.removable,
        ),
    ],
    cascade: Annotated[
        bool, typer.Option("--cascade", help="Remove what was made from them, too.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Make a version without runs, placements or exports; earlier versions keep them.

    Example: pausedata rm build/gsm8k placements/random exports/random-tokenized
    """
    from pausedata.pipeline.commands import remove

    if_stopped("the dataset is whole", goes_on=False)
    outcome = remove(dataset, tables, cascade=cascade, command=command_line(), progress=progress())
    report(outcome, json)


COMMANDS = {"log": log, "diff": diff, "rm": rm}
