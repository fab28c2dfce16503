"""``report``: one page to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pausedata.cli import complete
from pausedata.cli.common import (
    AsJson,
    AtVersion,
    DatasetPath,
    Where,
    command,
    print_json,
    progress,
    say,
)


@command
def report(
    dataset: DatasetPath,
    output: Annotated[Path, typer.Option("-o", "--output", help="The page to write.")] = Path(
        "report.html"
    ),
    n: Annotated[
        int, typer.Option("-n", "--n", min=1, metavar="N", help="How many examples, at most.")
    ] = 200,
    where: Where = None,
    sort: Annotated[
        str,
        typer.Option(
            "--sort",
            help="Which of them: spread (evenly, from the hardest to the easiest), hardest, "
            "easiest (by the run's mean_logprob) or random.",
            autocompletion=complete.sorts,
        ),
    ] = "spread",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of --sort random.")] = 0,
    version: AtVersion = None,
    json: AsJson = False,
) -> None:
    """Write one self-contained page: figures, charts, and examples as heat maps to search, sort and
    compare. It needs no network and no server, and is below 3 MB: where the examples asked for
    would be more, there are fewer.

    Example: pausedata report build/gsm8k -o report.html

    Example: pausedata report build/gsm8k --where "split = 'test'" --sort hardest --n 50
    """
    from pausedata.cli.render.page import write_page
    from pausedata.store.dataset import open_version

    opened = open_version(dataset, version)
    written = write_page(
        opened, output, most=n, where=where, sort=sort, seed=seed, progress=progress()
    )
    for note in written.notes:
        say(f"note: {note}")
    if json:
        print_json(
            {
                "path": str(written.path),
                "bytes": written.bytes,
                "shown": written.shown,
                "matching": written.matching,
                "examples": written.examples,
            }
        )
        return
    say(
        f"wrote {written.path}: {written.shown:,} of {written.examples:,} examples, "
        f"{written.bytes / 1e6:.2f} MB"
    )
    if fewer := min(n, written.matching) - written.shown:
        say(f"{fewer:,} fewer than asked for: a page has at most 3 MB.")


COMMANDS = {"report": report}
