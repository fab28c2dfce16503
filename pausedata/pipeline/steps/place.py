"""Tokens, and what else the strategy reads, to ``placements/<name>``: no model."""

from __future__ import annotations

import functools
import platform
import unicodedata
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from pausedata import strategies
from pausedata.core import stopping
from pausedata.core.progress import Progress
from pausedata.pipeline.steps.batches import Batches
from pausedata.store.dataset import Table
from pausedata.store.staging import Staging
from pausedata.store.tables import list_array, schema_of
from pausedata.strategies import Parameters, Placed, Strategy
from pausedata.strategies.base import SCORES


def tables_read(strategy: Strategy, parameters: Parameters, run: str | None) -> list[str]:
    """The names of the tables that a placement is made from; ``run`` is the one it reads."""
    reads = strategies.reads(strategy, parameters)
    return [
        "tokens",
        *([f"scores/{run}"] if reads & SCORES else []),
        *([f"scores/{parameters.other_run}"] if parameters.other_run else []),
        *(["examples"] if "text" in reads else []),
        *(["vocab"] if "special" in reads else []),
        *(f"placements/{name}" for name in parameters.placements),
    ]


def inputs(
    strategy: Strategy, parameters: Parameters, run: str | None, contents: Mapping[str, str]
) -> dict[str, Any]:
    """All that decides a placement; ``contents`` are the hashes of tables, by name."""
    scored = strategies.reads_scores(strategy, parameters)
    others = {
        name: contents[name]
        for name in tables_read(strategy, parameters, run)
        if name != "tokens" and not (scored and name == f"scores/{run}")
    }
    return {
        "strategy": strategy.name,
        "parameters": parameters.recorded(),
        "run": run if scored else None,
        "tokens": contents["tokens"],
        "scores": contents[f"scores/{run}"] if scored else None,
        **({"reads": others} if others else {}),
    }


def place(
    staging: Staging,
    name: str,
    strategy: Strategy,
    parameters: Parameters,
    wanted: dict[str, Any],
    tables: Mapping[str, Table],
    progress: Progress,
) -> Table:
    """Place pauses in every shard; ``wanted`` comes from ``inputs``.

    ``tables`` are those of ``tables_read``.
    """
    table, tokens = f"placements/{name}", tables["tokens"]
    batches = Batches(strategy, parameters, wanted["run"], tables)
    totals = {"examples_with_pauses": 0, "places": 0, "pauses": 0, "kept_off_characters": 0}
    paths: list[tuple[str | None, str]] = []
    stage = staging.stage(table, wanted)
    fitted = _fit(name, strategy, parameters, batches, tokens, progress)
    progress.detail(f"{table}: reads {', '.join(tables)}; writes to {stage.folder}")
    title, shards = f"placing {name}", len(tokens.shards)
    with (
        stopping.graceful_shutdown(),
        progress.step(title, tokens.entry.rows, "examples", shards) as advance,
    ):
        for shard, batch in zip(tokens.shards, batches.all(fitted), strict=True):
            placed, kept_off = strategies.place(strategy, batch, parameters)
            path = f"{table}/{shard.path.rsplit('/', 1)[1]}"
            stage.write(path, _table(batch.ids, placed))
            paths.append((shard.split, path))
            totals["examples_with_pauses"] += len(np.unique(placed.example))
            totals["places"] += len(placed.positions)
            totals["pauses"] += int(placed.counts.sum())
            totals["kept_off_characters"] += kept_off
            advance(len(batch.ids), 1)
            stopping.raise_if_stopped()
        if not totals["places"] and tokens.entry.rows and parameters.asks:
            progress.warn(
                f"{table} has no pause at all: no token was both what '{strategy.name}' looks for "
                "and eligible."
            )
        provenance = {"inputs": wanted, "made_from": list(tables), **totals}
        if fitted:
            provenance["fitted"] = fitted
        if (plugin := strategies.origin(strategy.name)) is not None:
            provenance["plugin"] = plugin
        if "text" in strategies.reads(strategy, parameters):
            # What a letter is, and how a pattern matches, are Python's to say.
            provenance["text"] = {
                "python": platform.python_version(),
                "unicode": unicodedata.unidata_version,
            }
        return stage.table(table, schema_of(table), paths, provenance)


def _fit(
    name: str,
    strategy: Strategy,
    parameters: Parameters,
    batches: Batches,
    tokens: Table,
    progress: Progress,
) -> dict[str, dict[str, Any]]:
    """What the strategy works out from all of a split before it places there, by split."""
    if strategy.fit is None:
        return {}
    with progress.step(f"fitting {name}", len(tokens.splits()), "splits") as advance:
        fitted = {}
        for split in tokens.splits():
            again = functools.partial(batches.of_split, split)
            fitted[split] = strategies.fit(strategy, again, parameters)
            advance(1)
        return fitted


def _table(ids: Any, placed: Placed) -> pa.Table:
    schema = schema_of("placements")
    offsets = placed.offsets(len(ids))
    columns = [
        pa.array(ids, pa.string()),
        list_array(offsets, placed.positions.astype(np.int32), pa.int32()),
        list_array(offsets, placed.counts.astype(np.int16), pa.int16()),
    ]
    arrays = [c if f.name == "id" else c.cast(f.type) for c, f in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)
