"""``export``: what a trainer reads, into the dataset or outside it, and the proof that it is."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pausedata.cli import complete
from pausedata.cli.common import (
    AsJson,
    AtVersion,
    DatasetPath,
    Replace,
    checked_name,
    command,
    command_line,
    console,
    if_stopped,
    parameters,
    print_json,
    progress,
    say,
    without_pandas,
)
from pausedata.core.errors import UsageError, listing

if TYPE_CHECKING:
    from pausedata.exporters import Format, Options
    from pausedata.exporters.inputs import ExportInputs
    from pausedata.exporters.tally import Tally
    from pausedata.exporters.trainers.base import Trainer
    from pausedata.exporters.trainers.trainer_check import TrainerCheck
    from pausedata.store.choice import Choice
    from pausedata.store.dataset import Version


@command
def export(
    dataset: DatasetPath,
    placement: Annotated[
        list[str],
        typer.Option(
            "--placement",
            metavar="NAME[=WEIGHT]",
            help="The placement. Given several times: one for each epoch, or, with weights, mixed.",
            autocompletion=complete.placements,
        ),
    ],
    format: Annotated[
        str,
        typer.Option("--format", help="See `pausedata formats`.", autocompletion=complete.formats),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            "--name", help="The export's name (PLACEMENT-FORMAT).", autocompletion=complete.exports
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Write outside the dataset: a file or a folder."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            help="This split alone. What is held out (holdout) is only written where it is named.",
            autocompletion=complete.splits,
        ),
    ] = None,
    type: Annotated[
        str | None,
        typer.Option(
            "--type", help="With -o: jsonl, jsonl.gz, jsonl.zst or parquet, if no ending says it."
        ),
    ] = None,
    shard_rows: Annotated[
        int | None,
        typer.Option("--shard-rows", min=1, help="With -o: several files, of so many rows each."),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            "--param",
            metavar="KEY=VALUE",
            help="Any option of the format.",
            autocompletion=complete.params,
        ),
    ] = None,
    pause_label: Annotated[
        str | None, typer.Option("--pause-label", help="ignore, or train the pauses too.")
    ] = None,
    pack: Annotated[
        int | None, typer.Option("--pack", help="Pack examples into rows of so many tokens.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option("--max-length", help="The longest row, in tokens.")
    ] = None,
    overlong: Annotated[
        str | None, typer.Option("--overlong", help="Longer ones: error, skip or truncate.")
    ] = None,
    chat_template: Annotated[
        str | None,
        typer.Option(
            "--chat-template", help="Prompts through a chat template: `model`, or a Jinja file."
        ),
    ] = None,
    system: Annotated[
        str | None, typer.Option("--system", help="A system prompt, through the chat template.")
    ] = None,
    on_mismatch: Annotated[
        str | None,
        typer.Option(
            "--on-mismatch", help="Text that would give other ids: error, move the pauses, or skip."
        ),
    ] = None,
    allow_unmasked: Annotated[
        bool,
        typer.Option(
            "--allow-unmasked", help="Accept a format that cannot keep the loss off pauses."
        ),
    ] = False,
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", help="The model whose tokenizer reads text back."),
    ] = None,
    check: Annotated[
        str | None,
        typer.Option(
            "--check",
            metavar="TRAINER",
            help="Then load it with this trainer, as installed here, and compare with the plan.",
            autocompletion=complete.trainers,
        ),
    ] = None,
    replace: Replace = False,
    version: AtVersion = None,
    json: AsJson = False,
) -> None:
    """Write what a trainer reads: into a new version of the dataset, or outside it with -o. A
    README beside it says how its trainer is told of it. Formats of text are read back as their
    trainer will read them, row by row.

    Example: pausedata export build/gsm8k --placement dit --format tokenized -o train.jsonl

    Example: pausedata export build/gsm8k --placement dit --format hf-disk --pack 2048 -o packed
    """
    if format == "tokenized":  # others go through `datasets`, or are others' code
        without_pandas()
    from pausedata import exporters
    from pausedata.cli.render.next_steps import after_export

    chosen = exporters.get(format)
    trainer = _trainer(check, chosen) if check else None
    choice = placement_choice(placement)
    own = {
        "pause_label": pause_label,
        "pack": pack,
        "max_length": max_length,
        "overlong": overlong,
        "chat_template": chat_template,
        "system": system,
        "on_mismatch": on_mismatch,
        "allow_unmasked": allow_unmasked or None,
    }
    options = _options(chosen, parameters(param, chosen.options), own)
    parsed = exporters.parse(chosen, options, "--format")
    keeps = output is None or chosen.text is not None  # in the dataset's staging
    if_stopped("finished shards are kept" if keeps else "the dataset is whole", goes_on=keeps)
    if output is not None:
        if name is not None:
            raise UsageError("--name names an export inside the dataset; with -o there is none.")
        layout = chosen.layout.outside(output, type, shard_rows)
        chosen = dataclasses.replace(chosen, layout=layout)
        written = getattr(layout, "type", None)  # hf-disk has one kind of files
        if trainer is not None and (shard_rows or (written and written.name != "jsonl")):
            raise UsageError("--check reads JSON lines, one file a split: check these first.")
        made = _export_outside(dataset, choice, chosen, parsed, output, split, version, tokenizer)
    else:
        for flag, given in (("--type", type), ("--shard-rows", shard_rows)):
            if given is not None:
                raise UsageError(f"{flag} goes with -o: the dataset's own files are what they are.")
        if version is not None:
            raise UsageError("--version goes with -o: a new version is made from the current one.")
        from pausedata.pipeline.commands import export as add
        from pausedata.pipeline.recipe import Export

        default = "-".join([*_names(choice), format, *([split] if split else [])])
        key = checked_name(name or default, "an export")
        spec = Export(placement=choice, format=format, split=split, **options)  # pyright: ignore[reportArgumentType]: checked by pydantic
        outcome = add(
            dataset,
            key,
            spec,
            command=command_line(),
            replace=replace,
            tokenizer=tokenizer,
            progress=progress(),
        )
        made = _exported(outcome, key)
    result = made.shown
    proofs: list[TrainerCheck] = []
    if trainer is not None:
        origin = _origin(dataset, made.version, choice, tokenizer, split)
        proofs = _prove(trainer, made, origin, chosen, parsed)
        result["check"] = [proof.shown() for proof in proofs]
    if json:
        print_json(result)
    else:
        _tell(result, chosen, parsed)
        readme = Path(result["readme"])
        for line in after_export(dataset, made.version, _names(choice)[0], readme):
            say(f"try: {line}")
        if trainer is not None:
            from pausedata.cli.render.proof import render_proofs

            console().print(render_proofs(trainer, proofs))
    if not all(proof.holds for proof in proofs):
        raise typer.Exit(1)


def placement_choice(given: list[str]) -> Choice:
    """``--placement`` as a recipe would say it: a name, names with weights, or names in a row."""
    pairs = [text.partition("=") for text in given]
    weighted = [bool(equals) for _, equals, _ in pairs]
    if not any(weighted):
        return given[0] if len(given) == 1 else given
    if not all(weighted):
        raise UsageError(
            "--placement: give all of them weights (to mix them: --placement a=3 --placement b=1) "
            "or none (one for each epoch)."
        )
    found: dict[str, float] = {}
    for name, _, text in pairs:
        try:
            weight = float(text)
        except ValueError:
            weight = 0.0
        if not 0 < weight < float("inf"):
            raise UsageError(f"--placement {name}={text}: a weight is a number above 0.")
        if name in found:
            raise UsageError(f"--placement {name}: it is named twice.")
        found[name] = weight
    return found


def _names(choice: Choice) -> list[str]:
    from pausedata.store.choice import names_in

    return names_in(choice)


def _options(format: Format, given: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """``--param`` and the options that have a flag of their own, together."""
    if {"placement", "format", "split"} & set(given):
        raise UsageError(
            "--param sets the format's own keys; use --placement, --format and --split."
        )
    for key, value in own.items():
        if value is None:
            continue
        flag = "--" + key.replace("_", "-")
        if key in given:
            raise UsageError(f"{flag}: --param gives {key} too. Give it once.")
        if key not in format.options.model_fields:
            raise UsageError(f"{flag}: format '{format.name}' has no such option.")
        given[key] = value
    if (template := given.get("chat_template")) is not None:
        from pausedata.exporters.templates import read_template

        given["chat_template"] = read_template(template, Path(), "--chat-template")
    return given


@dataclass(frozen=True)
class _Made:
    """What was written, where."""

    shown: dict[str, Any]  # for --json
    folder: Path
    stems: dict[str, str]  # split → what its files are named by
    files: dict[str, Path]  # split → what its trainer reads
    version: Version  # of the dataset, that it was made from or stands in


def _exported(outcome: Any, name: str) -> _Made:
    from pausedata import exporters
    from pausedata.exporters.tally import Tally

    table = outcome.version.table(f"exports/{name}")
    layout = exporters.get(table.entry.provenance["inputs"]["format"]).layout
    folder = outcome.root / "versions" / outcome.version.folder.name / table.name
    tallies = {k: Tally(**v) for k, v in table.entry.provenance["splits"].items()}
    paths = layout.paths(folder / layout.inside, tallies)
    shown = {
        "export": name,
        "version": outcome.version.number,
        "committed": outcome.committed,
        "copied_bytes": outcome.copied,
        **_shown(paths, folder / "README.md", tallies, outcome.version),
        "left_out": table.entry.provenance.get("left_out", {}),
    }
    stems = {label: label for label in tallies}
    return _Made(shown, folder, stems, _by_split(tallies, paths), outcome.version)


def _export_outside(
    dataset: Path,
    choice: Choice,
    format: Format,
    options: Options,
    output: Path,
    split: str | None,
    number: int | None,
    tokenizer: str | None,
) -> _Made:
    from pausedata.pipeline.steps.export import Written, write_outside
    from pausedata.store.dataset import check_output, open_version
    from pausedata.store.staging import Staging, when_free

    check_output(output)
    version = open_version(dataset, number)
    origin = _origin(dataset, version, choice, tokenizer, split)

    def write() -> Written:
        with contextlib.closing(Staging(dataset)) as staging:
            return write_outside(
                *(output, format, options, origin, origin.splits, version.number, progress()),
                staging=staging,
            )

    written = when_free(write, progress())
    tallies = written.tallies
    shown = {
        "export": None,
        "version": None,
        "committed": False,
        "copied_bytes": 0,
        **_shown(written.files, written.readme, tallies, version),
        "left_out": written.left_out,
    }
    files = _by_split(tallies, written.files)
    return _Made(shown, written.readme.parent, written.stems, files, version)


def _shown(
    paths: list[Path], readme: Path, tallies: Mapping[str, Tally], version: Version
) -> dict[str, Any]:
    """What both say alike."""
    return {
        "files": [str(path) for path in paths],
        "readme": str(readme),
        "splits": {label: tally.shown() for label, tally in tallies.items()},
        "pause": version.manifest.pause.model_dump(mode="json"),
    }


def _by_split(tallies: Mapping[str, Tally], paths: list[Path]) -> dict[str, Path]:
    """One path for each split, or one for all."""
    return dict(zip(tallies, paths * len(tallies), strict=False))


def _origin(
    dataset: Path, version: Version, choice: Choice, tokenizer: str | None, split: str | None
) -> ExportInputs:
    from pausedata.exporters.inputs import ExportInputs
    from pausedata.pipeline.steps.tokenizer import tokenizer_of

    listener = progress()
    return ExportInputs.of(
        version.manifest.name,
        version.manifest.pause,
        version.tables,
        choice,
        lambda: tokenizer_of(dataset, version, version.tables, listener, tokenizer),
        split,
    )


def _trainer(name: str, format: Format) -> Trainer:
    """The trainer to check with; before hours of export it is known whether it can be run."""
    from pausedata.exporters import trainers

    trainer = trainers.get(name)
    trainers.check_reads(trainer, format)
    trainers.installed(trainer)
    return trainer


def _prove(
    trainer: Trainer, made: _Made, origin: ExportInputs, format: Format, options: Options
) -> list[TrainerCheck]:
    """What comes of the trainer's reading what was written, split by split."""
    from pausedata.analysis.verify_exports import recorded_changes
    from pausedata.exporters.export_rows import ExportRows
    from pausedata.exporters.trainers.trainer_check import prove

    rows = ExportRows(origin, format, options, recorded_changes(made.folder, made.stems))
    found: list[TrainerCheck] = []
    with (
        progress().step(f"checking with {trainer.name}", len(made.files), "splits") as advance,
        contextlib.redirect_stdout(sys.stderr),  # trainers talk
    ):
        unread = []
        for label, path in made.files.items():
            own = list(prove(trainer, rows, label, path))
            found += own
            unread += [] if own else [label]
            advance(1)
    if not found:
        raise UsageError(
            f"--check {trainer.name}: it was written, but with these options the trainer has no "
            "way to read it, or there are no rows."
        )
    if unread:
        say(f"not checked, as {trainer.name} has no way to read them: {listing(unread)}")
    return found


def _tell(result: dict[str, Any], format: Format, options: Options) -> None:
    """What was written, in figures, and how it is used."""
    from pausedata.cli.render.export import describe_left_out, describe_split
    from pausedata.cli.render.outcome import describe_copied
    from pausedata.exporters.usage import how_to_use

    for path in [*result["files"], result["readme"]]:
        say(f"wrote {path}")
    for label, figures in result["splits"].items():
        for line in describe_split(label, figures):
            say(line)
    for split, examples in result["left_out"].items():
        say(describe_left_out(split, examples))
    if not format.masks(options):
        say("the pauses bear loss: a model trained with this learns to write them")
    if result["version"] is not None:
        say(f"version {result['version']}" + ("" if result["committed"] else ": was there already"))
    if result["copied_bytes"]:
        say(describe_copied(result["copied_bytes"]))
    if format.text is None:  # how the text of others is read, their README says
        first = next(iter(result["splits"]))
        typer.echo(how_to_use(format, result["pause"], result["files"][0], first))


COMMANDS = {"export": export}
