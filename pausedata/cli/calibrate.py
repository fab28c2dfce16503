"""``calibrate``: the threshold for pauses at inference, from stored scores."""

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
    print_rich,
    progress,
    say,
)


@command
def calibrate(
    dataset: DatasetPath,
    budget: Annotated[
        str, typer.Option("--budget", help="Pauses for response tokens: 3/100, or 0.03.")
    ],
    run: Annotated[str | None, typer.Option("--run", help="The run whose scores are read.")] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="The held-out split; by default `holdout`, else the last."),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Which fifth is held out where one split is there.")
    ] = 0,
    picture: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the curve to this file, as an SVG.")
    ] = None,
    version: AtVersion = None,
    json: AsJson = False,
) -> None:
    """Find the thresholds, of the highest next-token probability and of the entropy, that spend a
    given number of pauses while a model generates, from stored scores; and check them on examples
    that were held out.

    Example: pausedata calibrate build/gsm8k --run base --budget 3/100
    """
    from pausedata.core.errors import UsageError
    from pausedata.measure.calibrate import calibrate as find
    from pausedata.measure.calibrate import parse_budget
    from pausedata.store.dataset import check_output, open_version

    asked = parse_budget(budget)
    if picture is not None:
        if picture.suffix.lower() != ".svg" or picture.is_dir():
            raise UsageError(f"{picture}: name a file that ends in .svg.")
        check_output(picture)
    found = find(
        open_version(dataset, version), run, asked, split=split, seed=seed, progress=progress()
    )
    from pausedata.cli.render.calibrate import draw_curve, render_calibration

    if picture is not None:
        picture.write_text(draw_curve(found), encoding="utf-8")
        say(f"wrote {picture}")
    if json:
        print_json(found.as_json())
        return
    print_rich(render_calibration(found))


COMMANDS = {"calibrate": calibrate}
