"""``stats``: figures of a dataset."""

from __future__ import annotations

from typing import Annotated

import typer

from pausedata.cli.common import (
    AsJson,
    AtVersion,
    DatasetPath,
    command,
    console,
    print_json,
    progress,
)
from pausedata.errors import UsageError


@command
def stats(
    dataset: DatasetPath,
    placements: Annotated[
        bool, typer.Option("--placements", help="Compare the placements, side by side.")
    ] = False,
    run: Annotated[
        str | None,
        typer.Option("--run", help="With --placements: compare through the scores of this run."),
    ] = None,
    version: AtVersion = None,
    json: AsJson = False,
) -> None:
    """Say what a dataset holds: examples, tokens, runs, placements, exports, sizes. With
    --placements, how many pauses each has, at which tokens, and how far they overlap.

    Example: pausedata stats build/gsm8k --placements
    """
    from pausedata.stats import placements_stats
    from pausedata.stats import stats as of_manifest
    from pausedata.store.dataset import open_version

    if run is not None and not placements:
        raise UsageError("--run goes with --placements: it is what they are compared through.")
    opened = open_version(dataset, version)
    result = placements_stats(opened, run, progress()) if placements else of_manifest(opened)
    if json:
        print_json(result.as_json())
        return
    from pausedata.report.stats import render_stats

    out = console()
    out.print(render_stats(result), soft_wrap=not out.is_terminal)


COMMANDS = {"stats": stats}
