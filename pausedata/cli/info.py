"""``strategies``, ``formats``, ``schema`` and ``doctor``: what is available here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pausedata.cli import complete
from pausedata.cli.common import AsJson, command, console, print_json
from pausedata.core.errors import UsageError, nearest


@command
def strategies(
    name: Annotated[
        str | None,
        typer.Argument(help="One of them, told in full.", autocompletion=complete.strategies),
    ] = None,
    json: AsJson = False,
) -> None:
    """List the strategies that place pauses, or tell of one in full.

    Example: pausedata strategies lowest_logprob
    """
    from pausedata import strategies as registry

    if name is None:
        _list(registry.describe(), json)
        if not json:
            typer.echo("\n`pausedata strategies NAME` tells of one in full, with examples.")
        return
    from dataclasses import asdict

    from pausedata.strategies.example import worked

    about, examples = registry.about(name), worked(name)
    if json:
        print_json(about | {"worked": [asdict(example) for example in examples]})
        return
    from pausedata.cli.render.registry import render_strategy

    console().print(render_strategy(about, examples))


@command
def formats(json: AsJson = False) -> None:
    """List the formats that exports can have, with their options.

    Example: pausedata formats --json
    """
    from pausedata import exporters as registry

    _list([registry.describe(name) for name in registry.names()], json)


@command
def schema(
    name: Annotated[
        str | None,
        typer.Argument(
            help="recipe or manifest.", autocompletion=complete.words("recipe", "manifest")
        ),
    ] = None,
    write: Annotated[
        Path | None, typer.Option("--write", help="Write NAME.schema.json files to this folder.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Print the JSON Schema of recipes or manifests.

    Example: pausedata schema recipe > recipe.schema.json
    """
    from pausedata.pipeline.recipe import recipe_schema
    from pausedata.store.manifest import manifest_schema

    schemas = {"recipe": recipe_schema, "manifest": manifest_schema}
    if name is not None and name not in schemas:
        raise UsageError(f"no schema '{name}'.{nearest(name, schemas)} There: recipe, manifest.")
    if write is not None:
        from pausedata.store.files import write_json

        chosen = [each for each in schemas if name in (None, each)]
        for each in chosen:
            write_json(write / f"{each}.schema.json", schemas[each]())
        if json:
            print_json({"written": [f"{each}.schema.json" for each in chosen]})
        return
    if name is None:
        raise UsageError("name one: recipe or manifest.")
    print_json(schemas[name]())


@command
def doctor(json: AsJson = False) -> None:
    """State of the installation: versions, backends, devices, memory, caches, the login on the Hub;
    with advice for each problem.

    Example: pausedata doctor
    """
    from pausedata.cli.doctor import examine

    found = examine()
    if json:
        print_json(found)
        return
    from pausedata.cli.render.doctor import lines

    for line in lines(found):
        typer.echo(line)


def _list(described: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(described)
        return
    from pausedata.cli.render.registry import render_registry

    console().print(render_registry(described))


COMMANDS = {"strategies": strategies, "formats": formats, "schema": schema, "doctor": doctor}
