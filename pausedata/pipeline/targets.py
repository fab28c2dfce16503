"""What a recipe, a command or a version asks for, as targets; and whether it can be had."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from functools import partial
from typing import Any

from pausedata import exporters, strategies
from pausedata.core.errors import UsageError, listing
from pausedata.exporters import Format, Options
from pausedata.pipeline.planner import CORPUS, PAUSE, Target
from pausedata.pipeline.recipe import Export, Placement
from pausedata.pipeline.steps import export as export_step
from pausedata.pipeline.steps import place as place_step
from pausedata.pipeline.transaction import Transaction
from pausedata.store.choice import describe_choice
from pausedata.store.dataset import KINDS, Table, Version, missing
from pausedata.store.manifest import PauseEntry, TableEntry
from pausedata.strategies import Parameters, Strategy


def of_placement(
    name: str, spec: Placement, default_run: str | None, *, asked: bool = True
) -> Target:
    """The placement ``name``; ``default_run`` is the run that it reads where it names none."""
    strategy, parameters = spec.choose(f"placements.{name}")
    run = spec.run or default_run
    reads = place_step.tables_read(strategy, parameters, run)
    others = [read for read in reads if read.partition("/")[0] in KINDS]
    return Target(
        f"placements/{name}",
        tuple(reads),
        inputs=partial(place_step.inputs, strategy, parameters, run),
        make=partial(_place, name, strategy, parameters, reads),
        asked=asked,
        label=spec.strategy + (f" from {', '.join(others)}" if others else ", needs no scores"),
        shown=("tokens", *(read for read in reads if read != "tokens")),
    )


def _place(
    name: str,
    strategy: Strategy,
    parameters: Parameters,
    reads: list[str],
    tx: Transaction,
    wanted: dict[str, Any],
) -> Table:
    tables = {read: tx.tables[read] for read in reads}
    return place_step.place(tx.staging, name, strategy, parameters, wanted, tables, tx.progress)


def of_export(name: str, spec: Export, pause: PauseEntry | None, *, asked: bool = True) -> Target:
    """The export ``name``; ``pause`` is what it inserts."""
    where = f"exports.{name}"
    format = exporters.get(spec.format, where)
    options = exporters.parse(format, spec.options, where)
    placements = [f"placements/{placement}" for placement in spec.placements]

    def inputs(contents: Mapping[str, str]) -> dict[str, Any]:
        return export_step.inputs(format, options, spec.placement, contents, pause, spec.split)

    return Target(
        f"exports/{name}",
        (*placements, "tokens", PAUSE),
        inputs=inputs,
        make=partial(_export, name, spec, format, options),
        asked=asked,
        label=f"{spec.format} of {describe_choice(spec.placement)}"
        + (f", split '{spec.split}'" if spec.split else ""),
        shown=("examples", "tokens", *placements),
    )


def _export(
    name: str,
    spec: Export,
    format: Format,
    options: Options,
    tx: Transaction,
    wanted: dict[str, Any],
) -> Table:
    origin = tx.origin(spec.placement, spec.split)
    return export_step.export(tx.staging, name, format, options, wanted, origin, tx.progress)


def with_the_rest(
    named: Iterable[Target],
    base: Version | None,
    others: Mapping[str, Placement],
    pause: PauseEntry | None,
) -> list[Target]:
    """``named`` placements and exports, and all else that is there but for runs.

    What nobody names stays, and follows what it is made from. ``others`` are those of its
    placements that can be made again (`recorded_placements`).
    """
    targets = {target.name: target for target in named}
    for name, entry in base.manifest.tables.items() if base else ():
        if name in CORPUS or name in targets or name.startswith(("scores/", "kept/")):
            continue
        own = name.partition("/")[2]
        if name == f"placements/{own}" and own in others:
            targets[name] = of_placement(own, others[own], None, asked=False)
        elif (export := recorded_export(name, entry)) is not None:
            targets[name] = of_export(own, export, pause, asked=False)
        else:
            targets[name] = Target(name, tuple(entry.provenance.get("made_from", [])))
    return sorted(targets.values(), key=lambda target: _ORDER.get(target.kind, len(_ORDER)))


_ORDER = {"placements": 0, "exports": 1}  # what a later release made comes behind them


def recorded_placements(version: Version | None, but: Container[str] = ()) -> dict[str, Placement]:
    """The placements of a version, as a recipe would say them, without those named in ``but``.

    Not those of a later release, nor of a plug-in that is not here.
    """
    found = {}
    for name in version.placements if version else []:
        assert version is not None
        inputs = version.manifest.tables[f"placements/{name}"].provenance.get("inputs", {})
        if name not in but and (known := strategies.recorded(inputs)) is not None:
            spec = Placement(strategy=inputs["strategy"], run=inputs["run"], **inputs["parameters"])
            found[name] = spec.chosen_as(*known)
    return found


def recorded_export(name: str, entry: TableEntry) -> Export | None:
    """A stored export, as a recipe would say it; None where the table is none, or a later one."""
    inputs = entry.provenance.get("inputs", {})
    if not name.startswith("exports/") or exporters.recorded(inputs) is None:
        return None
    return Export(
        placement=inputs["placement"],
        format=inputs["format"],
        split=inputs.get("split"),
        **inputs["options"],
    )


def recorded_exports(version: Version | None) -> dict[str, Export]:
    """The exports of a version that this release could make again, by name."""
    tables = version.manifest.tables if version else {}
    found = {name: recorded_export(name, entry) for name, entry in tables.items()}
    return {name.partition("/")[2]: spec for name, spec in found.items() if spec is not None}


def check_references(
    placements: Mapping[str, Placement],
    tables: Iterable[str],
    default_run: str | None,
    recipe: str = "",
    kept: Mapping[str, str] | None = None,
) -> None:
    """UsageError where one of ``placements`` reads what is in neither them nor ``tables``.

    Or where one rests on itself. It costs nothing, and comes before hours of scoring. ``recipe``
    is what errors call the file that they are of; ``kept`` what they say of runs that have scores
    of some examples alone (`stored_runs.kept_runs`).
    """
    kept = kept or {}
    at = f"{recipe}: " if recipe else ""
    there = dict.fromkeys([*tables, *(f"placements/{name}" for name in placements)])
    reads: dict[str, list[str]] = {}
    for name, spec in placements.items():
        strategy, parameters = spec.choose(f"{at}placements.{name}")
        run = spec.run or default_run
        reads[name] = place_step.tables_read(strategy, parameters, run)
    _refuse_circles(reads, at)
    for name, spec in placements.items():
        where, run = f"{at}placements.{name}", spec.run or default_run
        _, parameters = spec.choose(where)
        if parameters.other_run and parameters.other_run == run:
            raise UsageError(
                f"{where}: '{parameters.other_run}' would be compared with itself. Give another "
                "run as the one that is read, or as the one it is compared with."
            )
        named = [f"scores/{spec.run}"] if spec.run else []
        for table in [*named, *reads[name]]:
            if table == "scores/None":
                runs = [t.split("/", 1)[1] for t in there if t.startswith("scores/")]
                raise UsageError(
                    f"{where}: '{spec.strategy}' needs a scored run. There: {listing(runs)}."
                    + "".join(f" {said}" for said in kept.values())
                )
            if table.partition("/")[0] in KINDS and table not in there:
                told = f" {kept[table]}" if table in kept else ""
                raise UsageError(f"{where}: {missing(table, there)}{told}")


def _refuse_circles(reads: Mapping[str, list[str]], at: str) -> None:
    """UsageError where a placement rests on itself."""
    done: set[str] = set()

    def visit(name: str, under: tuple[str, ...]) -> None:
        if name in under:
            circle = " reads ".join(f"'{each}'" for each in (*under[under.index(name) :], name))
            raise UsageError(f"{at}placements.{name}: {circle}: a placement cannot rest on itself.")
        for table in [] if name in done else reads.get(name, []):
            if table.startswith("placements/"):
                visit(table.removeprefix("placements/"), (*under, name))
        done.add(name)

    for name in reads:
        visit(name, ())
