"""Placements to ``exports/<name>``: the rows as Parquet, and the trainer's own files."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from pausedata import exporters
from pausedata.core import stopping
from pausedata.core.errors import DataError, listing
from pausedata.core.prefetch import prefetch
from pausedata.core.progress import Progress
from pausedata.exporters import Format, Options
from pausedata.exporters.export_rows import ExportRows, ExportUnit
from pausedata.exporters.guide import readme, readme_name
from pausedata.exporters.inputs import ExportInputs, names_of
from pausedata.exporters.refused import LENGTH, REASONS, Refused
from pausedata.exporters.tally import CHANGES, RowChange, Tally
from pausedata.store import files
from pausedata.store.choice import Choice, names_in
from pausedata.store.dataset import Table
from pausedata.store.manifest import FileEntry, PauseEntry
from pausedata.store.shards import read_shard
from pausedata.store.staging import Stage, Staging

README = "README.md"
OUTSIDE = "exports/.outside"  # the stage of what is written outside the dataset


def inputs(
    format: Format,
    options: Options,
    choice: Choice,
    contents: Mapping[str, str],
    pause: PauseEntry | None,
    split: str | None = None,
) -> dict[str, Any]:
    """All that decides an export; ``contents`` are the hashes of tables, by name.

    ``split`` is the one that was asked for, if one was; what is held out the tokens say.
    """
    each = {name: contents[f"placements/{name}"] for name in names_in(choice)}
    return {
        "format": format.name,
        "options": options.recorded(),
        "placement": choice if isinstance(choice, str) else json.loads(json.dumps(choice)),
        "placement_content": each[choice] if isinstance(choice, str) else each,
        "tokens": contents["tokens"],
        "pause": pause.model_dump(mode="json") if pause else None,
        **({} if split is None else {"split": split}),
    }


@dataclass
class Written:
    """What was written of each split, by its label."""

    tallies: dict[str, Tally] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)  # for the trainer
    readme: Path = Path(README)
    stems: dict[str, str] = field(default_factory=dict)  # what each split's files are named by
    changes: dict[str, list[RowChange]] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)  # held out: split → examples

    def add(self, label: str, tally: Tally, changes: list[RowChange]) -> None:
        """Take in a shard's figures."""
        self.tallies.setdefault(label, Tally()).join(tally)
        self.changes.setdefault(label, []).extend(changes)

    def write_changes(self, folder: Path, stems: Mapping[str, str]) -> list[str]:
        """``<stem>.changes.jsonl`` for each split of which an example is not as planned."""
        names = []
        for label, changes in self.changes.items():
            name = stems[label] + CHANGES
            if not changes:
                (folder / name).unlink(missing_ok=True)
                continue
            with files.replacing(folder / name) as temporary:
                lines = (
                    {key: value for key, value in vars(change).items() if value is not None}
                    for change in changes
                )
                text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
                temporary.write_text(text, encoding="utf-8")
            names.append(name)
        return names


def meta(
    origin: ExportInputs,
    format: Format,
    options: Options,
    label: str,
    tally: Tally,
    version: int,
    left_out: Mapping[str, int],
) -> dict[str, Any]:
    """The content of ``<split>.meta.json``.

    Of a dataset of which a part is held out it says whether this is that part, and how many
    examples the export has ``left_out`` for that.
    """
    return {
        "format": format.name,
        "options": options.recorded(),
        "placement": origin.choice,
        "placement_content": origin.placement_content,
        "dataset": origin.dataset,
        "version": version,
        "split": label,
        "pause": origin.pause.model_dump(mode="json"),
        "embedding_rows_needed": max(_last_id(origin.vocab), origin.pause.id) + 1,
        "pause_label_masked": format.masks(options),
        "loss": format.loss,
        **({"held_out": origin.is_held_out(label)} if origin.held_out else {}),
        **({"left_out": dict(left_out)} if left_out else {}),
    } | tally.shown()


def _last_id(vocab: Table) -> int:
    """The vocabulary's last id; it may have gaps, so that its length would not do."""
    ids = vocab.read(vocab.shards[-1], ["token_id"]).column("token_id")
    return ids[-1].as_py()


def export(
    staging: Staging,
    name: str,
    format: Format,
    options: Options,
    wanted: dict[str, Any],
    origin: ExportInputs,
    progress: Progress,
) -> Table:
    """Write the export into staging; ``wanted`` comes from ``inputs``.

    Shards that an earlier, interrupted try finished are taken up. The meta files name the version,
    which the commit decides: ``finish`` writes them then.
    """
    table = f"exports/{name}"
    origin.vocab.need()  # for `finish`, in whose commit nothing can be fetched
    made = ExportRows(origin, format, options)
    labels = made.labels()
    paths: list[tuple[str | None, str]] = []
    written = Written()
    inside = PurePosixPath(table, format.layout.inside)
    stage = staging.stage(table, wanted)
    rows = _rows_of(origin, labels)
    progress.detail(
        f"{table}: reads tokens, {listing(names_of(origin.choice))}; writes to {stage.folder}"
    )
    with (
        stopping.graceful_shutdown(),
        progress.step(f"exporting {name}", rows, "examples") as advance,
    ):

        def shards(label: str) -> Iterator[pa.Table]:
            for unit, arrow, tally, changes in _made(made, label, stage, table):
                paths.append((label, f"{table}/{unit.file}"))
                written.add(label, tally, changes)
                advance(unit.last - unit.first)
                stopping.raise_if_stopped()
                yield arrow
            _check_some(format, label, written.tallies.get(label, Tally()))

        trainer_files = format.layout.write(
            stage.folder / inside,
            {label: prefetch(shards(label)) for label in labels},
            format.schema(options),
        )
        beside = [
            *((inside / path).as_posix() for path in trainer_files),
            *(
                f"{table}/{path}"
                for path in written.write_changes(
                    stage.folder / table, {label: label for label in labels}
                )
            ),
        ]
        left_out = origin.left_out(labels.values())
        provenance = {
            "inputs": wanted,
            "made_from": ["tokens", *names_of(origin.choice)],
            "splits": {label: vars(tally) for label, tally in written.tallies.items()},
            "pause_label_masked": format.masks(options),
            **({"left_out": left_out} if left_out else {}),
        }
        return stage.table(table, format.schema(options), paths, provenance, beside)


def _rows_of(origin: ExportInputs, labels: Mapping[str, str]) -> int:
    """How many examples there are to write."""
    shards = origin.tokens.shards
    return sum(s.rows for split in labels.values() for s in shards if s.split == split)


def _check_some(format: Format, label: str, tally: Tally) -> None:
    """DataError where no row could be written at all: the fault is not in single rows."""
    if tally.skipped and not tally.rows:
        reason, count = max(tally.skipped.items(), key=lambda pair: pair[1])
        todo = (
            "Raise max_length or pack"
            if reason in LENGTH
            else "`--on-mismatch error` shows the first"
        )
        raise DataError(
            f"{format.name}: nothing of {label} is left to write: {count:,} examples are left out "
            f"({REASONS.get(reason, reason)}). {todo}."
        )


def _made(
    rows: ExportRows, label: str, stage: Stage | None, table: str
) -> Iterator[tuple[ExportUnit, pa.Table, Tally, list[RowChange]]]:
    """Each shard of a split; with a ``stage`` those that are there are read from it.

    Where some cannot be written, those of all shards are counted before Refused tells.
    """
    refused: Refused | None = None
    seen = 0
    for unit in rows.units(label):
        seen += unit.last - unit.first
        path = f"{table}/{unit.file}"
        record = stage.finished(path) if stage else None
        if stage and record is not None:
            changes = [RowChange(**change) for change in record["changes"]]
            yield unit, read_shard(stage.folder / path), Tally(**record["tally"]), changes
            continue
        try:
            made = rows.make(unit)
        except Refused as error:
            if refused is not None:
                error.count += refused.count
                error.first = refused.first
            refused = error
            continue
        if refused is not None:
            continue
        if stage:
            figures = {"tally": vars(made.tally), "changes": [vars(c) for c in made.changes]}
            stage.write(path, made.table, figures)
        yield unit, made.table, made.tally, made.changes
    if refused is not None:
        refused.among = seen
        raise refused


def finish(table: Table, origin: ExportInputs, version: int) -> Table:
    """Write the meta files of a staged export, now that its version's number is known."""
    provenance = table.entry.provenance
    format = exporters.get(provenance["inputs"]["format"])
    options = exporters.parse(format, provenance["inputs"]["options"], table.name)
    folder = table.folder / table.name
    tallies = {label: Tally(**figures) for label, figures in provenance["splits"].items()}
    left_out = provenance.get("left_out", {})
    names = []
    for label, tally in tallies.items():
        names.append(f"{label}.meta.json")
        content = meta(origin, format, options, label, tally, version, left_out)
        files.write_json(folder / names[-1], content)
    stems = {label: label for label in tallies}
    paths = format.layout.paths(folder / format.layout.inside, stems.values())
    text = readme(format, options, origin, tallies, paths, folder, version, left_out)
    with files.replacing(folder / README) as temporary:
        temporary.write_text(text, encoding="utf-8")
    entries = []
    for name in [*names, README]:
        full = folder / name
        path = f"{table.name}/{name}"
        entries.append(
            FileEntry(path=path, bytes=full.stat().st_size, sha256=files.sha256_of(full))
        )
    finished = {entry.path for entry in entries}
    lines = [f for f in table.entry.files if f.path not in finished]
    return Table(
        table.name, table.entry.model_copy(update={"files": [*lines, *entries]}), table.folder
    )


def write_outside(
    target: Path,
    format: Format,
    options: Options,
    origin: ExportInputs,
    splits: list[str],
    version: int,
    progress: Progress,
    staging: Staging | None = None,
) -> Written:
    """Write the trainer's files outside the dataset, to the file or folder ``target``.

    What ``target`` may be is the format's to say; what an earlier export wrote there is replaced.
    With ``staging`` shards that are dear to make, those whose text is read back, are kept there
    until all are written.
    """
    made = ExportRows(origin, format, options)
    labels = made.labels(splits)
    left_out = origin.left_out(labels.values())
    folder, stems = format.layout.place(target, list(labels))
    written = Written(stems=stems, left_out=left_out)
    stage = None
    if staging is not None and format.text is not None:
        with contextlib.suppress(OSError):  # of a dataset that may only be read nothing is kept
            wanted = inputs(
                *(format, options, origin.choice, origin.contents, origin.pause, origin.split)
            )
            stage = staging.stage(OUTSIDE, wanted)
    total = _rows_of(origin, labels)
    with (
        stopping.graceful_shutdown(),
        progress.step(f"exporting to {target}", total, "examples") as advance,
        format.layout.opened(folder) as writable,
    ):

        def shards(label: str) -> Iterator[pa.Table]:
            for unit, arrow, tally, changes in _made(made, label, stage, OUTSIDE):
                written.add(label, tally, changes)
                advance(unit.last - unit.first)
                stopping.raise_if_stopped()
                yield arrow
            _check_some(format, label, written.tallies.get(label, Tally()))

        rows = {stem: prefetch(shards(label)) for label, stem in stems.items()}
        names = format.layout.write(writable, rows, format.schema(options))
        format.layout.remove_stale(writable, stems.values(), names)
        written.write_changes(writable, stems)
        for label, stem in stems.items():
            tally = written.tallies[label]
            content = meta(origin, format, options, label, tally, version, left_out)
            files.write_json(writable / f"{stem}.meta.json", content)
        paths = format.layout.paths(writable, stems.values())
        text = readme(format, options, origin, written.tallies, paths, writable, version, left_out)
        name = readme_name(writable, list(stems.values()), whole=target == folder)
        with files.replacing(writable / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    written.files = list(format.layout.paths(folder, stems.values()))
    written.readme = folder / name
    if stage is not None and staging is not None:
        staging.drop(stage)
    return written
