"""Tokens, and scores where the strategy reads them, to ``placements/<name>``: no model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel

from pausedata import strategies
from pausedata.errors import DataError
from pausedata.progress import Progress
from pausedata.store.dataset import Table
from pausedata.store.staging import Staging
from pausedata.store.tables import list_array, list_parts, schema_of
from pausedata.strategies import Batch, Placed, Strategy
from pausedata.tokens import begins_character


def inputs(
    strategy: Strategy, parameters: BaseModel, run: str | None, tokens: Table, scores: Table | None
) -> dict[str, Any]:
    """All that decides a placement."""
    return {
        "strategy": strategy.name,
        "parameters": parameters.model_dump(mode="json"),
        "run": run if strategy.needs else None,
        "tokens": tokens.entry.content,
        "scores": scores.entry.content if scores and strategy.needs else None,
    }


def place(
    staging: Staging,
    name: str,
    wanted: dict[str, Any],
    tokens: Table,
    scores: Table | None,
    progress: Progress,
) -> Table:
    """Place pauses in every shard as ``wanted``, from ``inputs``, says."""
    table = f"placements/{name}"
    strategy = strategies.get(wanted["strategy"])
    parameters = strategies.parse(strategy, wanted["parameters"], table)
    reads = scores if strategy.needs else None
    if reads is not None:
        _check_columns(strategy, reads)
    totals = {"examples_with_pauses": 0, "places": 0, "pauses": 0, "kept_off_characters": 0}
    paths: list[tuple[str | None, str]] = []
    stage = staging.stage(table, wanted)
    with progress.step(f"placing {name}", tokens.entry.rows, "examples") as advance:
        for number, shard in enumerate(tokens.shards):
            rows = tokens.read(shard, ["id", "char_start", "char_end"])
            batch = _batch(rows, reads.read(reads.shards[number]) if reads else None)
            placed, kept_off = strategies.place(strategy, batch, parameters)
            result = _table(rows.column("id"), placed)
            path = f"{table}/{shard.path.rsplit('/', 1)[1]}"
            stage.write(path, result)
            paths.append((shard.split, path))
            totals["examples_with_pauses"] += len(np.unique(placed.example))
            totals["places"] += len(placed.positions)
            totals["pauses"] += int(placed.counts.sum())
            totals["kept_off_characters"] += kept_off
            advance(rows.num_rows)
        made_from = ["tokens", *([reads.name] if reads else [])]
        provenance = {"inputs": wanted, "made_from": made_from} | totals
        return stage.table(table, schema_of(table), paths, provenance)


def _check_columns(strategy: Strategy, scores: Table) -> None:
    """Raise DataError where the run lacks a column that the strategy reads."""
    for shard in scores.shards[:1]:
        rows = scores.read(shard, sorted(strategy.needs))
        for column in strategy.needs:
            if rows.num_rows and rows.column(column).null_count:
                raise DataError(
                    f"strategy '{strategy.name}' reads {column}, which {scores.name} does not "
                    "have: its backend gives none."
                )


def _batch(tokens: pa.Table, scores: pa.Table | None) -> Batch:
    offsets, start = list_parts(tokens, "char_start")
    _, end = list_parts(tokens, "char_end")
    return Batch(
        ids=tokens.column("id").to_pylist(),
        offsets=offsets,
        begins_character=begins_character(start, end, offsets),
        logprob=list_parts(scores, "logprob")[1] if scores is not None else None,
    )


def _table(ids: pa.ChunkedArray, placed: Placed) -> pa.Table:
    schema = schema_of("placements")
    offsets = placed.offsets(len(ids))
    columns = [
        ids,
        list_array(offsets, placed.positions.astype(np.int32), pa.int32()),
        list_array(offsets, placed.counts.astype(np.int16), pa.int16()),
    ]
    arrays = [c if f.name == "id" else c.cast(f.type) for c, f in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)
