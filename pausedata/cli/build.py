"""``init``, ``plan`` and ``build``: from a recipe to a dataset."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pausedata.cli.common import (
    AsJson,
    Limit,
    Output,
    RecipePath,
    ReplaceExamples,
    Set,
    Update,
    command,
    command_line,
    console,
    if_stopped,
    print_json,
    progress,
    say,
)


@command
def init(
    path: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("recipe.yaml"),
    json: AsJson = False,
) -> None:
    """Write a commented recipe to start from.

    Example: pausedata init my-recipe.yaml
    """
    from pausedata.pipeline.recipe_template import write_template

    write_template(path)
    if json:
        print_json({"recipe": str(path)})
        return
    say(f"wrote {path}. Edit it, then: pausedata plan {path}")


@command
def plan(
    recipe: RecipePath,
    output: Output = None,
    set: Set = None,
    limit: Limit = None,
    replace: ReplaceExamples = False,
    update: Update = False,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Score some examples, for about ten seconds, to tell how long it takes.",
        ),
    ] = False,
    json: AsJson = False,
) -> None:
    """Say what build would do, load, fetch and skip, and about how long and how large; do none of
    it. Of a source on the Hub, rows are fetched to be looked at.

    Example: pausedata plan recipes/quickstart.yaml

    Example: pausedata plan recipes/quickstart.yaml --measure
    """
    from pausedata.pipeline import plan as planning

    loaded, root = _load(recipe, output, set, limit)
    result = planning.plan(
        loaded, root, replace=replace, update=update, trial=measure, progress=progress()
    )
    if json:
        print_json(result.as_json())
        return
    from pausedata.cli.render.plan import render_plan

    console().print(render_plan(result))


@command
def build(
    recipe: RecipePath,
    output: Output = None,
    set: Set = None,
    limit: Limit = None,
    replace: ReplaceExamples = False,
    update: Update = False,
    json: AsJson = False,
) -> None:
    """Make a dataset from a recipe: all steps; after any stop it goes on where it was.

    Example: pausedata build recipes/gsm8k.yaml --limit 100
    """
    from pausedata.pipeline.build import build as run

    loaded, root = _load(recipe, output, set, limit)
    if_stopped("finished shards are kept")
    outcome = run(
        loaded,
        root,
        command=command_line(),
        replace=replace,
        update=update,
        progress=progress(),
    )
    report(outcome, json)


def report(outcome: Any, as_json: bool) -> None:
    """Say what a command made: on standard error, or as JSON on standard output."""
    from pausedata.cli.render.outcome import describe, outcome_json

    if as_json:
        print_json(outcome_json(outcome))
    else:
        width = shutil.get_terminal_size().columns if sys.stderr.isatty() else None
        for line in describe(outcome, width):
            say(line)
    if outcome.damaged:
        raise typer.Exit(1)


def _load(recipe: Path, output: Path | None, set: list[str] | None, limit: int | None) -> Any:
    """The recipe with the command line's overrides, and the dataset's folder."""
    from pausedata.pipeline.recipe import load_recipe, parse_set

    overrides = parse_set(set or [], "--set")
    if limit is not None:
        overrides["source.limit"] = limit
    loaded = load_recipe(recipe, overrides)
    return loaded, output or Path(loaded.recipe.output)


COMMANDS = {"init": init, "plan": plan, "build": build}
