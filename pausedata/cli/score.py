"""``score``: another run over the tokens of a dataset."""

from __future__ import annotations

from typing import Annotated

import typer

from pausedata.cli import complete
from pausedata.cli.build import report
from pausedata.cli.common import (
    AsJson,
    DatasetPath,
    Replace,
    checked_name,
    command,
    command_line,
    console,
    if_stopped,
    print_json,
    progress,
)


@command
def score(
    dataset: DatasetPath,
    run: Annotated[
        str, typer.Option("--run", help="The run's name.", autocompletion=complete.runs)
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="A Hub id, a folder (a model's or a LoRA adapter's) or a .gguf file. May be left "
            "out where the recorded model is on the Hub.",
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", help="The Hub model's branch, tag or commit.")
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            "--backend",
            help="What scores; `pausedata doctor` lists it.",
            autocompletion=complete.words("auto", "transformers", "vllm", "server"),
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            help="float32, bfloat16 or float16.",
            autocompletion=complete.words("float32", "bfloat16", "float16"),
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:1 …")
    ] = None,
    batch_tokens: Annotated[
        int | None, typer.Option("--batch-tokens", min=1, help="Tokens a batch, padding included.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--url", help="Where a vLLM server runs, for --backend server; not recorded."),
    ] = None,
    cross_check: Annotated[
        int | None,
        typer.Option(
            "--cross-check", min=0, help="Examples that transformers scores too; 0: none."
        ),
    ] = None,
    engines: Annotated[
        int | None, typer.Option("--engines", min=1, help="vLLM engines side by side.")
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            "--engine", metavar="KEY=VALUE", help="A setting that goes to vLLM; the value is YAML."
        ),
    ] = None,
    replace: Replace = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done; do none of it.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Score the same tokens with another model, or a later checkpoint.

    What is not given is as in the run that is there, else as in the dataset's recipe. After any
    stop the same command goes on.

    Example: pausedata score build/gsm8k --run epoch-1 --model checkpoints/epoch-1
    """
    from pausedata.pipeline.recipe import parse_set
    from pausedata.pipeline.runs import ScoreRequest

    checked_name(run, "a run")
    asked = ScoreRequest(
        model=model,
        revision=revision,
        dtype=dtype,
        backend=backend,
        device=device,
        batch_tokens=batch_tokens,
        url=url,
        cross_check=cross_check,
        engines=engines,
        engine=parse_set(engine or [], "--engine"),
    )
    if dry_run:
        from pausedata.pipeline.plan import plan_score

        planned = plan_score(dataset, run, asked, replace=replace)
        if json:
            print_json(planned.as_json())
            return
        from pausedata.cli.render.plan import render_plan

        console().print(render_plan(planned))
        return
    from pausedata.pipeline.commands import score as add

    if_stopped("finished shards are kept")
    outcome = add(dataset, run, asked, command=command_line(), replace=replace, progress=progress())
    report(outcome, json)


COMMANDS = {"score": score}
