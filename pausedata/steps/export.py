"""Placements to ``exports/<name>``: the rows as Parquet, and the trainer's own files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel

from pausedata import exporters
from pausedata.exporters import Format, Rows, insert_pauses
from pausedata.progress import Progress
from pausedata.store import files
from pausedata.store.dataset import Table
from pausedata.store.manifest import FileEntry, PauseEntry
from pausedata.store.staging import Staging


@dataclass
class Tally:
    """What an export holds, of one split or of all."""

    rows: int = 0
    tokens: int = 0
    pauses: int = 0
    loss_tokens: int = 0
    longest: int = 0

    def add(self, rows: Rows) -> None:
        """Count the sequences of one shard."""
        lengths = np.diff(rows.offsets)
        self.rows += len(lengths)
        self.tokens += len(rows.input_ids)
        self.pauses += int(rows.is_pause.sum())
        self.loss_tokens += int((~(rows.is_prompt | rows.is_pause)).sum())
        self.longest = max(self.longest, int(lengths.max(initial=0)))

    def join(self, other: Tally) -> None:
        """Count another split's sequences too."""
        self.rows += other.rows
        self.tokens += other.tokens
        self.pauses += other.pauses
        self.loss_tokens += other.loss_tokens
        self.longest = max(self.longest, other.longest)


@dataclass(frozen=True)
class Origin:
    """What an export is made from and for, as its meta file says it."""

    dataset: str
    placement: Table
    tokens: Table
    vocab: Table
    pause: PauseEntry

    def meta(self, format: Format, split: str, tally: Tally, version: int) -> dict[str, Any]:
        """The content of ``<split>.meta.json``."""
        return {
            "format": format.name,
            "placement": self.placement.name.split("/", 1)[1],
            "placement_content": self.placement.entry.content,
            "dataset": self.dataset,
            "version": version,
            "split": split,
            "pause": self.pause.model_dump(mode="json"),
            "embedding_rows_needed": max(self._last_id(), self.pause.id) + 1,
            "pause_label_masked": format.pause_label_masked,
        } | asdict(tally)

    def _last_id(self) -> int:
        """The vocabulary's last id; it may have gaps, so that its length would not do."""
        ids = self.vocab.read(self.vocab.shards[-1], ["token_id"]).column("token_id")
        return ids[-1].as_py()


def inputs(
    format: Format, options: BaseModel, placement: Table, tokens: Table, pause: PauseEntry
) -> dict[str, Any]:
    """All that decides an export."""
    return {
        "format": format.name,
        "options": options.model_dump(mode="json"),
        "placement": placement.name.split("/", 1)[1],
        "placement_content": placement.entry.content,
        "tokens": tokens.entry.content,
        "pause": pause.model_dump(mode="json"),
    }


def export(
    staging: Staging, name: str, wanted: dict[str, Any], origin: Origin, progress: Progress
) -> Table:
    """Write the export into staging as ``wanted``, from ``inputs``, says.

    Its meta files name the version, which the commit decides: ``finish`` writes them then.
    """
    table = f"exports/{name}"
    format = exporters.get(wanted["format"])
    options = exporters.parse(format, wanted["options"], table)
    paths: list[tuple[str | None, str]] = []
    tallies = {split: Tally() for split in origin.tokens.splits()}
    inside = PurePosixPath(table, format.layout.inside)
    stage = staging.stage(table, wanted)
    with progress.step(f"exporting {name}", origin.tokens.entry.rows, "examples") as advance:

        def shards(split: str) -> Iterator[pa.Table]:
            for shard, rows in _sequences(origin, split):
                arrow = format.rows(rows, options)
                stage.write(f"{table}/{shard}", arrow)
                paths.append((split, f"{table}/{shard}"))
                tallies[split].add(rows)
                advance(len(rows.offsets) - 1)
                yield arrow

        written = format.layout.write(stage.folder / inside, {s: shards(s) for s in tallies})
        provenance = {
            "inputs": wanted,
            "made_from": ["tokens", origin.placement.name],
            "splits": {split: asdict(tally) for split, tally in tallies.items()},
            "pause_label_masked": format.pause_label_masked,
        }
        trainer_files = [(inside / path).as_posix() for path in written]
        return stage.table(table, format.schema, paths, provenance, trainer_files)


def finish(table: Table, origin: Origin, version: int) -> Table:
    """Write the meta files of a staged export, now that its version's number is known."""
    provenance = table.entry.provenance
    format = exporters.get(provenance["inputs"]["format"])
    metas = []
    for split, tally in provenance["splits"].items():
        path = f"{table.name}/{split}.meta.json"
        full = table.folder / path
        files.write_json(full, origin.meta(format, split, Tally(**tally), version))
        metas.append(FileEntry(path=path, bytes=full.stat().st_size, sha256=files.sha256_of(full)))
    lines = [f for f in table.entry.files if not f.path.endswith(".meta.json")]
    entry = table.entry.model_copy(update={"files": [*lines, *metas]})
    return Table(table.name, entry, table.folder)


def write_outside(
    target: Path,
    format: Format,
    options: BaseModel,
    origin: Origin,
    splits: list[str],
    version: int,
    progress: Progress,
) -> dict[str, Tally]:
    """Write the trainer's files outside the dataset, to the file or folder ``target``.

    What ``target`` may be is the format's to say; what an earlier export wrote there is replaced.
    """
    tallies = {split: Tally() for split in splits}
    folder, stems = format.layout.place(target, splits)
    total = sum(s.rows for s in origin.tokens.shards if s.split in splits)
    with (
        progress.step(f"exporting to {target}", total, "examples") as advance,
        format.layout.opened(folder) as writable,
    ):

        def shards(split: str) -> Iterator[pa.Table]:
            for _, rows in _sequences(origin, split):
                tallies[split].add(rows)
                advance(len(rows.offsets) - 1)
                yield format.rows(rows, options)

        format.layout.write(writable, {stem: shards(split) for split, stem in stems.items()})
        for split, stem in stems.items():
            meta = origin.meta(format, split, tallies[split], version)
            files.write_json(writable / f"{stem}.meta.json", meta)
    return tallies


def _sequences(origin: Origin, split: str) -> Iterator[tuple[str, Rows]]:
    """Each shard's name with its sequences, pauses inserted."""
    for number, shard in enumerate(origin.tokens.shards):
        if shard.split == split:
            tokens = origin.tokens.read(shard, ["prompt_ids", "response_ids"])
            placement = origin.placement.read(
                origin.placement.shards[number], ["position", "count"]
            )
            rows = insert_pauses(tokens, placement, origin.pause.id)
            yield shard.path.rsplit("/", 1)[1], rows
