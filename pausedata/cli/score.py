"""``score``: another run over the tokens of a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from pausedata.core.errors import UsageError

if TYPE_CHECKING:
    from pausedata.pipeline.score_request import ScoreRequest


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
    warmup: Annotated[
        bool | None,
        typer.Option(
            "--warmup/--no-warmup",
            help="Fine-tune the model a little on rows of the corpus first, which another one than "
            "theirs then scores.",
            show_default=False,
        ),
    ] = None,
    warmup_param: Annotated[
        list[str] | None,
        typer.Option(
            "--warmup-param",
            metavar="KEY=VALUE",
            help="A setting of the warm-up, such as rows=160; the value is YAML.",
        ),
    ] = None,
    warmup_only: Annotated[
        bool,
        typer.Option(
            "--warmup-only", help="Warm up, print where the models are, and score nothing."
        ),
    ] = False,
    replace: Replace = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done; do none of it.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Score the same tokens with another model, or a later checkpoint.

    What is not given is as in the run that is there, else as in the dataset's recipe; but a run of
    another name is warmed up only with --warmup. After any stop the same command goes on.

    Example: pausedata score build/gsm8k --run epoch-1 --model checkpoints/epoch-1

    Example: pausedata score build/gsm8k --run warmed --model models/base --warmup
    """
    from pausedata.pipeline.recipe import parse_set
    from pausedata.pipeline.score_request import ScoreRequest

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
        warmup=_warmup(warmup, warmup_param, warmup_only),
        only_warm=warmup_only,
    )
    if warmup_only:
        if dry_run or replace or warmup is False:
            raise UsageError(
                "--warmup-only scores nothing: leave out --dry-run, which alone tells of the "
                "warm-up, too, --replace and --no-warmup."
            )
        _only_warm(dataset, run, asked, json)
        return
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


def _warmup(asked: bool | None, given: list[str] | None, only: bool) -> Any:
    """What the flags say of the warm-up; None where they say nothing."""
    if not given:
        return True if only else asked
    from pausedata.core.invalid import checked
    from pausedata.pipeline.recipe import parse_set
    from pausedata.warmup import Warmup

    if asked is False:
        raise UsageError("--no-warmup and --warmup-param: give one of them.")
    settings = parse_set(given, "--warmup-param", {"keep"})
    return checked(Warmup, settings, "--warmup-param")


def _only_warm(dataset: Path, run: str, asked: ScoreRequest, json: bool) -> None:
    """Warm up and print the models' folders."""
    from pausedata.pipeline.commands import warm_up

    if_stopped("the folds that are done are kept")
    warmed, folders = warm_up(dataset, run, asked, progress=progress())
    if json:
        print_json({"folders": list(map(str, folders)), "warmup": warmed.record})
        return
    for folder in folders:
        print(folder)


COMMANDS = {"score": score}
