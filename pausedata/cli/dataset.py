"""``place``, ``show`` and ``verify``: what is done with a dataset."""

from __future__ import annotations

from typing import Annotated

import typer

from pausedata.cli import complete
from pausedata.cli.build import report
from pausedata.cli.common import (
    AsJson,
    AtVersion,
    DatasetPath,
    Replace,
    Where,
    checked_name,
    command,
    command_line,
    if_stopped,
    parameters,
    print_json,
    print_rich,
    progress,
    say,
    without_pandas,
)
from pausedata.core.errors import UsageError


@command
def place(
    dataset: DatasetPath,
    name: Annotated[str, typer.Argument(help="The new placement's name.")],
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy", help="See `pausedata strategies`.", autocompletion=complete.strategies
        ),
    ],
    param: Annotated[
        list[str] | None,
        typer.Option(
            "--param",
            metavar="KEY=VALUE",
            help="A parameter of the strategy; K=V,V,… makes a placement for each value.",
            autocompletion=complete.params,
        ),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option("--run", help="The scoring run to read.", autocompletion=complete.runs),
    ] = None,
    replace: Replace = False,
    json: AsJson = False,
) -> None:
    """Add a placement, from stored scores: no model is loaded. Where parameters are given several
    values, every combination is made, all in one version: NAME-positions-1, NAME-positions-3 …

    Example: pausedata place build/gsm8k three --strategy lowest_logprob --param positions=3

    Example: pausedata place build/gsm8k dit --strategy lowest_logprob --param positions=1,3,5
    """
    from pausedata import strategies

    if strategy in strategies.own():
        without_pandas()
    from pausedata.pipeline.commands import place as add
    from pausedata.pipeline.grid import grid

    checked_name(name, "a placement")
    if run is not None:
        checked_name(run, "a run")
    given = parameters(param, strategies.get(strategy).options)
    if "strategy" in given or "run" in given:
        raise UsageError("--param sets the strategy's own keys; use --strategy and --run.")
    placements = grid(name, strategy, run, given)
    if_stopped("the dataset is whole", goes_on=False)
    outcome = add(dataset, placements, command=command_line(), replace=replace, progress=progress())
    report(outcome, json)


@command
def show(
    dataset: DatasetPath,
    id: Annotated[
        str | None,
        typer.Argument(help="The example's id (default: the first).", autocompletion=complete.ids),
    ] = None,
    placement: Annotated[
        list[str] | None,
        typer.Option(
            "--placement",
            help="Whose pauses; several stand one under the other.",
            autocompletion=complete.placements,
        ),
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option(
            "--run",
            help="Whose scores; of two, how the second differs from the first.",
            autocompletion=complete.runs,
        ),
    ] = None,
    where: Where = None,
    sort: Annotated[
        str | None,
        typer.Option(
            "--sort",
            help="hardest, easiest (by the run's mean_logprob), spread or random.",
            autocompletion=complete.sorts,
        ),
    ] = None,
    n: Annotated[
        int | None, typer.Option("-n", "--n", min=1, metavar="N", help="How many (default: one).")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Choose at random as this seed did before.")
    ] = None,
    version: AtVersion = None,
    json: AsJson = False,
) -> None:
    """Show examples as heat maps of surprisal, with their pauses. Without colour, marks under the
    tokens tell the surprisal, and each pause is the pause token's text.

    Example: pausedata show build/gsm8k --placement dit

    Example: pausedata show build/gsm8k wp-014 --placement dit --placement random

    Example: pausedata show build/gsm8k --run base --run epoch-1 --sort hardest --n 3

    Example: pausedata show build/gsm8k --where "n_response >= 200 and split = 'test'"
    """
    without_pandas()
    from pausedata.store.dataset import open_version

    opened = open_version(dataset, version)
    from pausedata.cli.render.show import Choice
    from pausedata.cli.render.show import show as chosen

    shown = chosen(opened, Choice(id, where, sort, n, seed), placement or [], run or [])
    for note in shown.notes:
        say(f"note: {note}")
    if json:
        print_json(shown.as_json())
        return
    for rendered in shown.renderables():
        print_rich(rendered)


@command
def verify(dataset: DatasetPath, version: AtVersion = None, json: AsJson = False) -> None:
    """Check every checksum and invariant of a dataset; exit status 1 where something is wrong.

    The current version is looked into value by value, of the others every file; with --version
    that one alone.

    Example: pausedata verify build/gsm8k
    """
    from pausedata.analysis.verify import verify as check
    from pausedata.analysis.verify import verify_others
    from pausedata.store.dataset import open_version
    from pausedata.store.known_damage import marks

    opened = open_version(dataset, version)
    listener = progress()
    problems = check(opened, listener)
    others = verify_others(opened, listener) if version is None else {}
    marked = {n: paths for n, paths in marks(dataset).items() if version in (None, n)}
    ok = not problems and not others
    if json:
        print_json(
            {
                "version": opened.number,
                "ok": ok,
                "absent": sorted(opened.absent),
                "problems": problems,
                "others": {str(number): found for number, found in others.items()},
                "marked": {str(number): paths for number, paths in marked.items()},
            }
        )
    else:
        for problem in problems:
            typer.echo(problem)
        for number, found in others.items():
            for problem in found:
                typer.echo(f"version {number}: {problem}")
        for number, paths in marked.items():
            say(f"version {number}: marked as damaged: {', '.join(paths)}")
        count = len(problems) + sum(len(found) for found in others.values())
        absent = f", {len(opened.absent)} of them not pulled" if opened.absent else ""
        checked = f"version {opened.number}: {len(opened.tables)} tables{absent}"
        say(
            f"{checked}, {count} problems"
            if count
            else f"{checked}, {'the rest' if opened.absent else 'all'} whole"
        )
    if not ok:
        raise typer.Exit(1)


COMMANDS = {"place": place, "show": show, "verify": verify}
