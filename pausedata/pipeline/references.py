"""What rests on what: the tables that placements are made from, and the order to make them in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pausedata import exporters, strategies
from pausedata.core.errors import UsageError, listing
from pausedata.pipeline.recipe import Export, Placement
from pausedata.pipeline.steps import place as place_step
from pausedata.store.dataset import KINDS, Version, missing


def tables_read(name: str, spec: Placement, default_run: str | None) -> list[str]:
    """The names of the tables that a placement is made from."""
    strategy, parameters = strategies.of(spec.strategy, spec.parameters, f"placements.{name}")
    return place_step.tables_read(strategy, parameters, spec.run or default_run)


def check_references(
    placements: Mapping[str, Placement],
    tables: Iterable[str],
    default_run: str | None,
    recipe: str = "",
) -> None:
    """UsageError where one of ``placements`` reads what is in neither them nor ``tables``.

    Or where one rests on itself. It costs nothing, and comes before hours of scoring. ``recipe``
    is what errors call the file that they are of.
    """
    at = f"{recipe}: " if recipe else ""
    there = dict.fromkeys([*tables, *(f"placements/{name}" for name in placements)])
    for name in in_order(placements, at):
        spec, where = placements[name], f"{at}placements.{name}"
        named = [f"scores/{spec.run}"] if spec.run else []
        _, parameters = strategies.of(spec.strategy, spec.parameters, where)
        if parameters.other_run and parameters.other_run == (spec.run or default_run):
            raise UsageError(
                f"{where}: '{parameters.other_run}' would be compared with itself. Give another "
                "run as the one that is read, or as the one it is compared with."
            )
        for table in [*named, *tables_read(name, spec, default_run)]:
            if table == "scores/None":
                runs = [t.split("/", 1)[1] for t in there if t.startswith("scores/")]
                raise UsageError(
                    f"{where}: '{spec.strategy}' needs a scored run. There: {listing(runs)}."
                )
            if table.partition("/")[0] in KINDS and table not in there:
                raise UsageError(f"{where}: {missing(table, there)}")


def in_order(placements: Mapping[str, Placement], at: str = "") -> list[str]:
    """The names of ``placements``, each after those that it reads; UsageError for a circle.

    ``at`` is what its message begins with.
    """
    reads = {
        name: [
            table.removeprefix("placements/")
            for table in tables_read(name, spec, None)
            if table.startswith("placements/")
        ]
        for name, spec in placements.items()
    }
    ordered: dict[str, None] = {}

    def visit(name: str, under: tuple[str, ...]) -> None:
        if name in under:
            circle = " reads ".join(f"'{each}'" for each in (*under[under.index(name) :], name))
            raise UsageError(f"{at}placements.{name}: {circle}: a placement cannot rest on itself.")
        for other in reads.get(name, []):
            visit(other, (*under, name))
        if name in placements:
            ordered[name] = None

    for name in placements:
        visit(name, ())
    return list(ordered)


def dependents(version: Version, names: list[str]) -> dict[str, str]:
    """Every other table made from one of ``names``, directly or not → the table it came from."""
    found: dict[str, str] = {}
    tables = version.manifest.tables
    queue = list(names)
    while queue:
        origin = queue.pop(0)
        for name, entry in tables.items():
            made_from = entry.provenance.get("made_from", [])
            if origin in made_from and name not in found and name not in names:
                found[name] = origin
                queue.append(name)
    return found


def recorded_placements(
    version: Version | None, made_from: Iterable[str] | None = None
) -> dict[str, Placement]:
    """The placements of a version, as a recipe would say them.

    With ``made_from`` only those made from one of these tables, directly or not. Not those of a
    later release, nor of a plug-in that is not here.
    """
    found = {}
    among = None if made_from is None or version is None else dependents(version, [*made_from])
    for name in version.placements if version else []:
        assert version is not None
        if among is not None and f"placements/{name}" not in among:
            continue
        inputs = version.table(f"placements/{name}").entry.provenance.get("inputs", {})
        if strategies.recorded(inputs) is not None:
            found[name] = Placement(
                strategy=inputs["strategy"], run=inputs["run"], **inputs["parameters"]
            )
    return found


def recorded_exports(version: Version | None) -> dict[str, Export]:
    """The exports of a version, as a recipe would say them; not those of a later release."""
    found = {}
    for name in version.exports if version else []:
        assert version is not None
        inputs = version.table(f"exports/{name}").entry.provenance.get("inputs", {})
        if exporters.recorded(inputs) is not None:
            found[name] = Export(
                placement=inputs["placement"], format=inputs["format"], **inputs["options"]
            )
    return found
