"""``prepare-model``: a model and tokenizer that have the pause token."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pausedata.cli.common import AsJson, command, print_json, say


@command
def prepare_model(
    model: Annotated[str, typer.Argument(help="A Hub id, a folder, an adapter or a .gguf file.")],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    token: Annotated[str, typer.Option("--token", help="The pause token.")] = "[PAUSE]",
    init: Annotated[
        str | None,
        typer.Option(
            "--init", metavar="HOW", help="Its row: mean, normal or copy:TOKEN (mean, if new)."
        ),
    ] = None,
    multiple_of: Annotated[
        int, typer.Option("--multiple-of", min=1, help="Round the number of rows up, as to 64.")
    ] = 1,
    seed: Annotated[int, typer.Option("--seed", min=0, help="For --init normal.")] = 0,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Of a Hub model: branch, tag or commit.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Write a model and its tokenizer with the pause token added, so that their ids are those of
    the exports. Works file by file: no more than the largest is in memory.

    Example: pausedata prepare-model HuggingFaceTB/SmolLM2-135M-Instruct models/paused
    """
    from pausedata.cli.render.prepared import describe_prepared
    from pausedata.models.prepare import prepare_model as prepare
    from pausedata.models.ref import ModelRef

    ref = ModelRef.parse(model, revision, Path())
    prepared = prepare(
        ref, out, token=token, init=init, multiple_of=multiple_of, seed=seed, say=say
    )
    if json:
        print_json(prepared.shown())
        return
    for line in describe_prepared(prepared):
        typer.echo(line)


COMMANDS = {"prepare-model": prepare_model}
