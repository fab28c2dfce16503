"""``measure``: whether pauses help a trained model, and what they cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pausedata.cli import complete
from pausedata.cli.common import (
    AnswerBatch,
    AsJson,
    DatasetPath,
    Device,
    DType,
    MaxNewTokens,
    checked_name,
    command,
    command_line,
    if_stopped,
    print_json,
    print_rich,
    progress,
    say,
)
from pausedata.core.errors import UsageError

if TYPE_CHECKING:
    from pausedata.pipeline.rules import Rules


@command
def measure(
    dataset: DatasetPath,
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            help="The trained model: a Hub id, a folder or a .gguf file. Several: of other seeds.",
        ),
    ],
    placement: Annotated[
        str,
        typer.Option(
            "--placement", help="Whose pauses are put in.", autocompletion=complete.placements
        ),
    ],
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline",
            help="What it is compared with, without pauses; by default the model itself. Several: "
            "of other seeds.",
        ),
    ] = None,
    same_as: Annotated[
        list[str] | None,
        typer.Option(
            "--same-as",
            metavar="MODEL",
            help="Differs from the baseline by its seed alone: what these two differ by does not "
            "count as a gain.",
        ),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            "--group-by", metavar="COLUMN", help="Also by group: a column of the source, kept."
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            metavar="COLUMN",
            help="Examples with the same value count as one draw: they are like one another.",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            help="The held-out split; by default `holdout`, else the last, of an only one a fifth.",
        ),
    ] = None,
    allow_trained: Annotated[
        bool,
        typer.Option("--allow-trained", help="Also where an export has its rows to train on."),
    ] = False,
    examples: Annotated[
        int | None, typer.Option("--examples", min=1, help="At most so many, chosen by --seed.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the order of examples.")] = 0,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            "--gate",
            metavar="KEY=VALUE",
            help="A rule, over those of the recipe: min_gain=0.01, max_token_overhead=0.05 …",
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            "--recipe", help="Whose gate rules hold; by default the recipe in the dataset."
        ),
    ] = None,
    to_the_end: Annotated[
        bool, typer.Option("--to-the-end", help="Go on where help is ruled out already.")
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", help="The record's name in the dataset (gates/NAME); the placement's."
        ),
    ] = None,
    record: Annotated[
        bool,
        typer.Option(
            "--record/--no-record", help="Keep a judged measurement as a new version's record."
        ),
    ] = True,
    eligibility: Annotated[
        Path | None,
        typer.Option(
            "--eligibility",
            metavar="FILE.json",
            help="Write which groups may have pauses, for pausedata.inference.",
        ),
    ] = None,
    generate: Annotated[
        bool,
        typer.Option("--generate", help="Also let the models write answers, and score them."),
    ] = False,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            help="What answers are: gsm8k, aqua or mbpp (whose programs run in a sandbox).",
            autocompletion=complete.words("gsm8k", "aqua", "mbpp"),
        ),
    ] = None,
    threshold: Annotated[
        float,
        typer.Option(
            "--threshold",
            min=0,
            max=1,
            help="While generating a pause is forced where the highest probability is below this.",
        ),
    ] = 0.5,
    max_pauses: Annotated[
        int | None, typer.Option("--max-pauses", min=1, help="At most so many in an answer.")
    ] = None,
    max_new_tokens: MaxNewTokens = 256,
    batch: AnswerBatch = 8,
    answers: Annotated[
        Path | None,
        typer.Option("--answers", metavar="FILE.jsonl", help="Write the answers to this file."),
    ] = None,
    dtype: DType = "float32",
    device: Device = "auto",
    json: AsJson = False,
) -> None:
    """Measure whether pauses help a trained model on held-out examples, and what they cost: its
    log-likelihood of the real tokens with the pauses of a placement and without them.

    With gate rules (`gate:` in the recipe, or --gate) the exit status is 0 where they say go, else
    1, and what was found is kept in a new version.

    Example: pausedata measure build/gsm8k --model trained/dit --placement dit

    Example: pausedata measure build/gsm8k --model trained/dit --placement dit \
    --baseline trained/none --gate min_gain=0.01 --gate max_token_overhead=0.05

    Example: pausedata measure build/gsm8k --placement dit --model trained/dit-0 \
    --model trained/dit-1 --baseline trained/none-0 --baseline trained/none-1

    Example: pausedata measure build/gsm8k --model trained/dit --placement dit \
    --baseline trained/none --generate --task gsm8k --threshold 0.3

    Example: pausedata measure build/gsm8k --model trained/dit --placement dit \
    --group-by subject --gate per_group=true --eligibility eligible.json
    """
    from json import dumps

    from pausedata.measure.run import MeasureOptions
    from pausedata.measure.run import measure as find
    from pausedata.pipeline.score_request import check_dtype
    from pausedata.store.dataset import check_output

    check_dtype(dtype)
    if same_as and not baseline:
        raise UsageError("--same-as: it is compared with --baseline, which is not given.")
    rules = _rules(dataset, recipe, gate)
    if name is not None:
        checked_name(name, "a gate")
        if not record:
            raise UsageError("--name names a record, and --no-record makes none. Give one.")
    if eligibility is not None:
        if rules is None:
            raise UsageError(
                "--eligibility: without gate rules nothing is judged. Give --gate min_gain=0.01, "
                "or `gate:` in the recipe."
            )
        check_output(eligibility)
    if rules is not None and rules.min_accuracy_gain is not None and not generate:
        raise UsageError("min_accuracy_gain is of answers: give --generate and --task too.")
    generating = None
    if generate:
        from pausedata.measure.answers import TASKS
        from pausedata.measure.answers import get as check_task
        from pausedata.measure.generate import Generating

        if task is None:
            raise UsageError(f"--generate: say what answers are: --task {'|'.join(TASKS)}.")
        check_task(task)
        generating = Generating(task, threshold, max_pauses, max_new_tokens, batch)
    elif task is not None or answers is not None:
        raise UsageError("--task and --answers are for answers: give --generate too.")
    if answers is not None:
        check_output(answers)
    asked = MeasureOptions(
        models=model,
        placement=placement,
        baselines=baseline or (),
        same_as=same_as or (),
        dtype=dtype,
        device=device,
        split=split,
        allow_trained=allow_trained,
        group_by=group_by,
        examples=examples,
        seed=seed,
        cluster=cluster,
        rules=rules,
        to_the_end=to_the_end,
        record=(name or placement) if record and (rules or name) else None,
        generating=generating,
    )
    if_stopped("what was measured is kept")
    found, outcome = find(dataset, asked, command=command_line(), progress=progress())
    if answers is not None and found.generated is not None:
        lines = (dumps(record, ensure_ascii=False) for record in found.generated.records)
        answers.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        say(f"wrote {answers}")
    if eligibility is not None:
        found.eligibility().write(eligibility)
        say(f"wrote {eligibility}")
    if outcome is not None:
        say(f"{dataset}: version {outcome.version.number} holds it as gates/{asked.record}")
    if json:
        print_json(found.as_json())
    else:
        from pausedata.cli.render.measure import render_measurement

        print_rich(render_measurement(found))
    if found.verdict not in (None, "go"):
        raise typer.Exit(1)


def _rules(dataset: Path, recipe: Path | None, given: list[str] | None) -> Rules | None:
    """The gate's rules: those of a recipe, and over them those that were given."""
    from pausedata.core.invalid import checked
    from pausedata.pipeline.recipe import load_recipe, parse_set
    from pausedata.pipeline.rules import Rules
    from pausedata.store.dataset import open_version

    if recipe is not None:
        own = load_recipe(recipe).recipe.gate
        if own is None and not given:
            raise UsageError(f"{recipe}: it has no `gate:`. See docs/gate.md for its keys.")
        rules: dict[str, Any] | None = own.model_dump() if own else None
    else:
        rules = open_version(dataset).manifest.recipe.get("gate")
    if given:
        rules = (rules or {}) | parse_set(given, "--gate")
    return None if rules is None else checked(Rules, rules, "--gate" if given else "gate")


COMMANDS = {"measure": measure}
