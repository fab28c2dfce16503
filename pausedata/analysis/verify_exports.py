"""``verify`` of exports: their rows are made again from the tables and compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import pyarrow as pa

from pausedata import exporters
from pausedata.core.errors import PausedataError, UsageError, first_line
from pausedata.core.progress import Progress
from pausedata.exporters.export_rows import ExportRows
from pausedata.exporters.inputs import ExportInputs
from pausedata.exporters.tally import CHANGES, RowChange, read_changes
from pausedata.models.tokenizer import Tokenizer
from pausedata.store.dataset import Table, Version


def export_problems(version: Version, name: str, progress: Progress) -> Iterator[str]:
    """What is wrong with an export, a line each.

    Its rows have to be those that its placements give, and the trainer's files have to hold them.
    """
    table = version.table(f"exports/{name}")
    inputs = table.entry.provenance.get("inputs", {})
    known = exporters.recorded(inputs)
    if known is None:
        return
    format, options = known
    try:
        manifest = version.manifest
        origin = ExportInputs.of(
            *(manifest.name, manifest.pause, version.tables, inputs["placement"], _no_tokenizer),
            split=inputs.get("split"),
        )
        rows = ExportRows(
            origin,
            format,
            options,
            recorded=recorded_changes(version.folder / table.name, {s: s for s in table.splits()}),
        )
        if rows.needs_tokenizer:
            progress.warn(
                f"{table.name}: its prompts were rendered anew; its hashes and files are checked, "
                "that it is what its placement gives only a tokenizer could tell"
            )
        else:
            yield from _made_again(table, rows)
    except (PausedataError, pa.ArrowException, ValueError, KeyError) as error:
        yield f"{table.name}: cannot be made again: {first_line(error)}"
    shards = {split: table.read_all(split) for split in table.splits()}
    folder = PurePosixPath(table.name, format.layout.inside)
    for problem in format.layout.problems(version.folder / folder, shards, format.schema(options)):
        yield f"{folder}/{problem}"


def _made_again(table: Table, rows: ExportRows) -> Iterator[str]:
    """Compare each shard with the rows that the placement gives."""
    stored = {shard.path.rsplit("/", 1)[1]: shard for shard in table.shards}
    for unit in [unit for label in rows.labels() for unit in rows.units(label)]:
        shard = stored.pop(unit.file, None)
        if shard is None:
            yield f"{table.name}/{unit.file}: is missing"
        elif not rows.make(unit).table.equals(table.read(shard).cast(rows.schema)):
            yield f"{shard.path}: its rows are not what the placement gives"
    for shard in stored.values():
        yield f"{shard.path}: is no shard of this export"


def recorded_changes(folder: Path, stems: Mapping[str, str]) -> dict[str, RowChange]:
    """The rows that the export in ``folder`` says it changed or left out, by split and id.

    ``stems``: split → the beginning of its files' names.
    """
    return {
        f"{label}\0{change.id}": change
        for label, stem in stems.items()
        for change in read_changes(folder / (stem + CHANGES))
    }


def _no_tokenizer() -> Tokenizer:
    raise UsageError("verify reads no tokenizer")
