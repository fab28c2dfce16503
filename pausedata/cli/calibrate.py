"""``calibrate``: the threshold for pauses at inference, from stored scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pausedata.cli.common import (
    AnswerBatch,
    AsJson,
    AtVersion,
    DatasetPath,
    Device,
    DType,
    MaxNewTokens,
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
        int,
        typer.Option(
            "--seed", min=0, help="Which fifth is held out of an only split, and which prompts."
        ),
    ] = 0,
    tokens: Annotated[
        int, typer.Option("--tokens", min=1, help="Pauses at each place: the budget counts all.")
    ] = 1,
    generate: Annotated[
        int | None,
        typer.Option(
            "--generate",
            min=1,
            metavar="N",
            help="Also let a model answer N held-out prompts, and count the pauses in its text.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="The trained model that answers: a Hub id, a folder or a .gguf file; by default "
            "the one of the Hub that scored the run.",
        ),
    ] = None,
    rounds: Annotated[
        int,
        typer.Option(
            "--rounds",
            min=0,
            help="How many more thresholds are tried, each with N answers, for one that meets the "
            "budget in the model's text.",
        ),
    ] = 3,
    max_new_tokens: MaxNewTokens = 256,
    batch: AnswerBatch = 8,
    dtype: DType = "float32",
    device: Device = "auto",
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

    Example: pausedata calibrate build/gsm8k --run base --budget 3/100 \
    --generate 50 --model trained/dit
    """
    from pausedata.core.errors import UsageError
    from pausedata.measure.calibrate import calibrate as find
    from pausedata.measure.calibrate import parse_budget
    from pausedata.pipeline.score_request import check_dtype
    from pausedata.store.dataset import check_output, open_version

    asked = parse_budget(budget, tokens)
    if model is not None and generate is None:
        raise UsageError("--model answers prompts: say how many, with --generate N.")
    check_dtype(dtype)
    if picture is not None:
        if picture.suffix.lower() != ".svg" or picture.is_dir():
            raise UsageError(f"{picture}: name a file that ends in .svg.")
        check_output(picture)
    opened, shown = open_version(dataset, version), progress()
    found = find(opened, run, asked, tokens=tokens, split=split, seed=seed, progress=shown)
    if generate is not None:
        from pausedata.measure.calibrate.generated import GenerateOptions, generated

        options = GenerateOptions(
            generate, model, rounds, max_new_tokens, batch, dtype, device, split, seed
        )
        found = generated(opened, found, options, shown)
    from pausedata.cli.render.calibrate import draw_curve, render_calibration

    if picture is not None:
        picture.write_text(draw_curve(found), encoding="utf-8")
        say(f"wrote {picture}")
    if json:
        print_json(found.as_json())
        return
    print_rich(render_calibration(found))


COMMANDS = {"calibrate": calibrate}
