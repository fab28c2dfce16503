"""``report``: one page to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pausedata.cli.common import (
    AsJson,
    AtVersion,
    DatasetPath,
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
        int, typer.Option("--n", min=1, help="How many examples, at most, the page has.")
    ] = 200,
    version: AtVersion = None,
    json: AsJson = False,
) -> None:
    """Write one self-contained page: figures, charts, and examples as heat maps to search, sort and
    compare. It needs no network and no server, and is below 3 MB: where the examples asked for
    would be more, there are fewer.

    Example: pausedata report build/gsm8k -o report.html
    """
    from pausedata.report.page import write_page
    from pausedata.store.dataset import open_version

    written = write_page(open_version(dataset, version), output, most=n, progress=progress())
    fewer = min(n, written.examples) - written.shown
    if json:
        print_json(
            {
                "path": str(written.path),
                "bytes": written.bytes,
                "shown": written.shown,
                "examples": written.examples,
            }
        )
        return
    say(
        f"wrote {written.path}: {written.shown:,} of {written.examples:,} examples, "
        f"{written.bytes / 1e6:.2f} MB"
    )
    if fewer:
        say(f"{fewer:,} fewer than asked for: a page has at most 3 MB.")


COMMANDS = {"report": report}
