"""``place``, ``export``, ``show`` and ``verify``: what is done with a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pausedata.cli.build import report
from pausedata.cli.common import (
    AsJson,
    AtVersion,
    DatasetPath,
    Replace,
    checked_name,
    command,
    command_line,
    console,
    parameters,
    print_json,
    progress,
    say,
)
from pausedata.errors import UsageError, listing


@command
def place(
    dataset: DatasetPath,
    name: Annotated[str, typer.Argument(help="The new placement's name.")],
    strategy: Annotated[str, typer.Option("--strategy", help="See `pausedata strategies`.")],
    param: Annotated[
        list[str] | None,
        typer.Option(
            "--param",
            metavar="KEY=VALUE",
            help="A parameter of the strategy; K=V,V,… makes a placement for each value.",
        ),
    ] = None,
    run: Annotated[str | None, typer.Option("--run", help="The scoring run to read.")] = None,
    replace: Replace = False,
    json: AsJson = False,
) -> None:
    """Add a placement, from stored scores: no model is loaded. Where parameters are given several
    values, every combination is made, all in one version: NAME-positions-1, NAME-positions-3 …

    Example: pausedata place build/gsm8k three --strategy lowest_logprob --param positions=3

    Example: pausedata place build/gsm8k dit --strategy lowest_logprob --param positions=1,3,5
    """
    from pausedata import strategies
    from pausedata.change import place as add
    from pausedata.grid import grid

    checked_name(name, "a placement")
    if run is not None:
        checked_name(run, "a run")
    given = parameters(param, strategies.get(strategy).options)
    if "strategy" in given or "run" in given:
        raise UsageError("--param sets the strategy's own keys; use --strategy and --run.")
    placements = grid(name, strategy, run, given)
    outcome = add(dataset, placements, command=command_line(), replace=replace, progress=progress())
    report(outcome, json)


@command
def export(
    dataset: DatasetPath,
    placement: Annotated[str, typer.Option("--placement", help="The placement to export.")],
    format: Annotated[str, typer.Option("--format", help="See `pausedata formats`.")],
    name: Annotated[
        str | None, typer.Option("--name", help="The export's name (PLACEMENT-FORMAT).")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Write outside the dataset: FILE.jsonl or a folder."),
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="With -o: this split alone.")] = None,
    param: Annotated[
        list[str] | None,
        typer.Option("--param", metavar="KEY=VALUE", help="An option of the format."),
    ] = None,
    replace: Replace = False,
    version: AtVersion = None,
    json: AsJson = False,
) -> None:
    """Write what a trainer reads: into a new version of the dataset, or outside it with -o.

    Example: pausedata export build/gsm8k --placement dit --format tokenized -o train.jsonl
    """
    from pausedata import exporters
    from pausedata.exporters.usage import how_to_use
    from pausedata.recipe import Export
    from pausedata.report.outcome import describe_copied

    options = parameters(param, exporters.get(format).options)
    if "placement" in options or "format" in options:
        raise UsageError("--param sets the format's own keys; use --placement and --format.")
    if output is not None:
        if name is not None:
            raise UsageError("--name names an export inside the dataset; with -o there is none.")
        result = _export_outside(dataset, placement, format, options, output, split, version)
    else:
        if split is not None:
            raise UsageError("--split goes with -o: an export in the dataset has every split.")
        if version is not None:
            raise UsageError("--version goes with -o: a new version is made from the current one.")
        from pausedata.change import export as add

        own = checked_name(name or f"{placement}-{format}", "an export")
        spec = Export(placement=placement, format=format, **options)
        outcome = add(
            dataset, own, spec, command=command_line(), replace=replace, progress=progress()
        )
        result = _exported(outcome, own)
    if json:
        print_json(result)
        return
    for path in result["files"]:
        say(f"wrote {path}")
    for split_name, tally in result["splits"].items():
        say(
            f"{split_name}: {tally['rows']:,} rows, {tally['tokens']:,} tokens, "
            f"{tally['pauses']:,} pauses, {tally['loss_tokens']:,} loss-bearing tokens, "
            f"longest row {tally['longest']:,}"
        )
    if result["version"] is not None:
        say(f"version {result['version']}" + ("" if result["committed"] else ": was there already"))
    if result["copied_bytes"]:
        say(describe_copied(result["copied_bytes"]))
    first = next(iter(result["splits"]))
    typer.echo(how_to_use(exporters.get(format), result["pause"], result["files"][0], first))


def _exported(outcome: Any, name: str) -> dict[str, Any]:
    from pausedata import exporters

    table = outcome.version.table(f"exports/{name}")
    layout = exporters.get(table.entry.provenance["inputs"]["format"]).layout
    folder = outcome.root / "versions" / outcome.version.folder.name / table.name / layout.inside
    return {
        "export": name,
        "version": outcome.version.number,
        "committed": outcome.committed,
        "copied_bytes": outcome.copied,
        "files": [str(path) for path in layout.paths(folder, table.splits())],
        "splits": table.entry.provenance["splits"],
        "pause": outcome.version.manifest.pause.model_dump(mode="json"),
    }


def _export_outside(
    dataset: Path,
    placement: str,
    format: str,
    options: dict[str, Any],
    output: Path,
    split: str | None,
    number: int | None,
) -> dict[str, Any]:
    from dataclasses import asdict

    from pausedata import exporters
    from pausedata.progress import Silent
    from pausedata.steps.export import write_outside
    from pausedata.store.dataset import check_output, open_version
    from pausedata.work import Work

    check_output(output)
    version = open_version(dataset, number)
    chosen = exporters.get(format)
    parsed = exporters.parse(chosen, options, "--param")
    splits = version.splits
    if split is not None:
        if split not in splits:
            raise UsageError(f"no split '{split}'. There: {listing(splits)}.")
        splits = [split]
    folder, stems = chosen.layout.place(output, splits)
    origin = Work(dataset, version, Silent()).origin(placement)
    tallies = write_outside(output, chosen, parsed, origin, splits, version.number, progress())
    return {
        "export": None,
        "version": None,
        "committed": False,
        "copied_bytes": 0,
        "files": [str(path) for path in chosen.layout.paths(folder, stems.values())],
        "splits": {name: asdict(tally) for name, tally in tallies.items()},
        "pause": version.manifest.pause.model_dump(mode="json"),
    }


@command
def show(
    dataset: DatasetPath,
    id: Annotated[str | None, typer.Argument(help="The example's id (default: the first).")] = None,
    placement: Annotated[str | None, typer.Option("--placement", help="Whose pauses.")] = None,
    run: Annotated[str | None, typer.Option("--run", help="Whose scores.")] = None,
    version: AtVersion = None,
    json: AsJson = False,
) -> None:
    """Show one example as a heat map of surprisal, with its pauses.

    Example: pausedata show build/gsm8k --placement dit
    """
    from pausedata.store.dataset import open_version

    opened = open_version(dataset, version)
    if json:
        from pausedata.report.example import example_json

        print_json(example_json(opened, id, placement, run))
        return
    from pausedata.report.heatmap import render_example

    out = console()
    rendered = render_example(opened, id, placement, run)
    out.print(rendered, soft_wrap=not out.is_terminal)


@command
def verify(dataset: DatasetPath, version: AtVersion = None, json: AsJson = False) -> None:
    """Check every checksum and invariant of a dataset; exit status 1 where something is wrong.

    The current version is looked into value by value, of the others every file; with --version
    that one alone.

    Example: pausedata verify build/gsm8k
    """
    from pausedata.store.dataset import open_version
    from pausedata.store.marks import marks
    from pausedata.verify import verify as check
    from pausedata.verify import verify_others

    opened = open_version(dataset, version)
    listener = progress()
    problems = check(opened, listener)
    others = verify_others(opened, listener) if version is None else {}
    marked = {n: paths for n, paths in marks(dataset).items() if version in (None, n)}
    ok = not problems and not others
    if json:
        print_json(
            {
                "version": opened.number,
                "ok": ok,
                "problems": problems,
                "others": {str(number): found for number, found in others.items()},
                "marked": {str(number): paths for number, paths in marked.items()},
            }
        )
    else:
        for problem in problems:
            typer.echo(problem)
        for number, found in others.items():
            for problem in found:
                typer.echo(f"version {number}: {problem}")
        for number, paths in marked.items():
            say(f"version {number}: marked as damaged: {', '.join(paths)}")
        count = len(problems) + sum(len(found) for found in others.values())
        checked = f"version {opened.number}: {len(opened.tables)} tables"
        say(f"{checked}, {count} problems" if count else f"{checked}, all whole")
    if not ok:
        raise typer.Exit(1)


COMMANDS = {"place": place, "export": export, "show": show, "verify": verify}
