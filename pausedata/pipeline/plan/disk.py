"""How much room a plan's tables take, and how much there is."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pausedata.models.tokenizer import Tokenizer
from pausedata.pipeline.plan import sizes
from pausedata.pipeline.plan.result import Plan, readable
from pausedata.pipeline.plan.sizes import Extent, Sample
from pausedata.pipeline.recipe import Export, Placement
from pausedata.pipeline.steps.prepare import vocab_table
from pausedata.store.dataset import Table
from pausedata.store.shards import choose_shard_rows


def estimate(
    root: Path,
    tokens: Table | None,
    sample: Sample,
    placements: Mapping[str, Placement],
    exports: Mapping[str, Export],
    tokenizer: Tokenizer | None,
    shard_rows: int | None,
    result: Plan,
) -> None:
    """The bytes of each table that would be made, and of all; the room where they would go."""
    result.free_bytes = shutil.disk_usage(_existing_folder(root)).free
    rows = sum(count or 0 for count in result.rows.values())
    if result.prompt_tokens is None or result.response_tokens is None:
        return
    made = [number for number, step in enumerate(result.steps) if step.writes]
    if not made:
        result.new_bytes = 0
        return
    tables = sample()
    if tables is None:
        return
    total = result.prompt_tokens + result.response_tokens
    each = choose_shard_rows(rows, total)
    shards = (
        len(tokens.shards)
        if tokens
        else sum(-(-(count or 0) // (shard_rows or each)) for count in result.rows.values())
    )
    splits = {split: count or 0 for split, count in result.rows.items()}
    extent = Extent(rows, max(shards, 1), splits)
    for number in made:
        step = result.steps[number]
        if step.table == "vocab":
            size = sizes.parquet_bytes(vocab_table(tokenizer)) if tokenizer else None
        else:
            size = sizes.table_bytes(step.table, tables, extent, placements, exports)
        result.steps[number] = replace(step, bytes=size)
    files = sum(
        1 if step.table == "vocab" else extent.shards
        for step in result.steps
        if step.action != "drop"
    )
    beside = sizes.MANIFEST + sizes.PER_SHARD * files
    result.new_bytes = sum(result.steps[number].bytes or 0 for number in made) + beside
    if result.new_bytes > result.free_bytes:
        result.unknown.append(
            f"where the room comes from: {readable(result.new_bytes)} are needed, and "
            f"{readable(result.free_bytes)} are free"
        )


def _existing_folder(path: Path) -> Path:
    """``path``, or the nearest folder above it that is there."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
