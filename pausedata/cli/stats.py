"""``stats``: figures of a dataset."""

from __future__ import annotations

from typing import Annotated

import typer

from pausedata.cli import complete
from pausedata.cli.common import (
    AsJson,
    AtVersion,
    DatasetPath,
    command,
    print_json,
    print_rich,
    progress,
)
from pausedata.core.errors import UsageError


@command
def stats(
    dataset: DatasetPath,
    placements: Annotated[
        bool, typer.Option("--placements", help="Compare the placements, side by side.")
    ] = False,
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            help="Count the scores of this run alone; with --placements: compare through them.",
            autocompletion=complete.runs,
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Only what was recorded when tables were made; none is read."),
    ] = False,
    version: AtVersion = None,
    json: AsJson = False,
) -> None:
    """Count what a dataset holds: examples, tokens, log-probabilities, entropies and first choices
    of each run, pauses of each placement, dropped rows, sizes. With --placements, which tokens the
    placements choose, side by side, and how far they overlap.

    Example: pausedata stats build/gsm8k --run base
    """
    from pausedata.analysis.stats import manifest_stats, placements_stats
    from pausedata.analysis.stats import stats as counted_stats
    from pausedata.store.dataset import open_version

    if quick and placements:
        raise UsageError("--quick reads no table, which --placements needs: give one of them.")
    opened = open_version(dataset, version)
    if quick:
        result = manifest_stats(opened, run)
    else:
        count = placements_stats if placements else counted_stats
        result = count(opened, run, progress())
    if json:
        print_json(result.as_json())
        return
    from pausedata.cli.render.stats import render_stats

    print_rich(render_stats(result))


COMMANDS = {"stats": stats}
