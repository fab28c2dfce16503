"""The application and its commands; one file for each group of them."""

from __future__ import annotations

from typing import Annotated

import typer

from pausedata import __version__
from pausedata.cli import (
    build,
    calibrate,
    card,
    dataset,
    export,
    gc,
    history,
    hub,
    info,
    prepare,
    score,
    sql,
    stats,
)
from pausedata.cli.common import settings

app = typer.Typer(
    name="pausedata",
    help="Score a corpus token by token, place pauses, export what trainers read.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for module in (
    build,
    score,
    dataset,
    export,
    prepare,
    sql,
    stats,
    calibrate,
    history,
    card,
    hub,
    gc,
    info,
):
    for name, function in module.COMMANDS.items():
        app.command(name)(function)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"pausedata {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    settings.debug = debug
