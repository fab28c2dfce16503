"""The application. Each of its commands is imported when it is asked for: `cli.group`."""

from __future__ import annotations

from typing import Annotated

import typer

from pausedata.cli.common import Debug, LogTo, Quiet, Verbose, settings
from pausedata.cli.group import Group
from pausedata.core.version import __version__

app = typer.Typer(
    name="pausedata",
    cls=Group,
    help="Score a corpus token by token, place pauses, export what trainers read.\n\n"
    "Example: pausedata init recipe.yaml\n\n"
    "Example: pausedata build recipes/quickstart.yaml\n\n"
    "Example: pausedata show build/quickstart --placement dit\n\n"
    "Example: pausedata report build/quickstart -o report.html",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"pausedata {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_file: LogTo = None,
    debug: Debug = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    settings.clear()
    settings.commands = context.command
    settings.take(quiet, verbose, log_file, debug)
