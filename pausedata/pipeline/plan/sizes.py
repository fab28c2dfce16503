"""How large tables become: a sample of them is written, as the steps would, and measured."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from pausedata.core.held_out import HOLDOUT
from pausedata.exporters.jsonl import json_lines
from pausedata.pipeline.recipe import Export, Placement
from pausedata.store.shards import write_shard
from pausedata.store.tables import list_parts, schema_of

MANIFEST = 6_000  # bytes, with the card, without shards
PER_SHARD = 450  # bytes that the manifest says of each
_BESIDE_EXPORT = 3_000  # bytes: README and meta files
_PLACES = 0.05  # of a response, where a strategy's parameters do not say how many
_SEGMENT = 32  # bytes of one in a line, beside its text
_IDS = {"tokenized", "shifted", "hf-disk"}  # formats of ids; the others are of text


@dataclass(frozen=True)
class SampleTables:
    """Some rows of ``examples`` and ``tokens``, as they are stored or would be."""

    examples: pa.Table
    tokens: pa.Table


Sample = Callable[[], SampleTables | None]  # read when it is asked for; None: there is none


@dataclass(frozen=True)
class Extent:
    """How much there will be of a table: rows in shards."""

    rows: int
    shards: int
    splits: Mapping[str, int] = field(default_factory=dict)  # the rows of each

    def exported(self, split: str | None) -> Extent:
        """That of an export: of one split, or of all but what is held out."""
        rows = sum(n for s, n in self.splits.items() if (s == split if split else s != HOLDOUT))
        if not self.rows or rows in (0, self.rows):
            return self
        return Extent(rows, max(1, self.shards * rows // self.rows))


def table_bytes(
    table: str,
    sample: SampleTables,
    extent: Extent,
    placements: Mapping[str, Placement],
    exports: Mapping[str, Export],
) -> int:
    """Bytes on disk of ``table`` (any but ``vocab``), if all its rows are like the sample's.

    Scores are made up for the sample, as spread as a model's are: as floats they take their room
    whatever they say.
    """
    kind, _, name = table.partition("/")
    if kind == "examples":
        return _extended(sample.examples, extent)
    if kind == "tokens":
        return _extended(sample.tokens, extent)
    if kind in ("scores", "kept"):
        return _extended(_scores(sample.tokens), extent)
    if kind == "placements":
        return _extended(_places(sample, placements[name]), extent)
    spec = exports[name]
    each = placements.get(spec.placements[0]) if spec.placements else None
    rows, lines = _rows(sample, spec.format, each)
    extent = extent.exported(spec.split)
    written = rows.nbytes if spec.format == "hf-disk" else lines
    beside = written * extent.rows // max(len(rows), 1)
    return _extended(rows, extent) + beside + _BESIDE_EXPORT


def parquet_bytes(rows: pa.Table) -> int:
    """The size of one shard with these rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard.parquet"
        write_shard(path, rows)
        return path.stat().st_size


def _extended(sample: pa.Table, extent: Extent) -> int:
    """Each shard has a part that depends on no row, as footers and indices; the rest grows.

    What the two are is told by the sample's size and that of its first quarter.
    """
    few = len(sample) // 4
    least, whole = parquet_bytes(sample.slice(0, few)), parquet_bytes(sample)
    each = (whole - least) / max(len(sample) - few, 1)
    alone = max(0.0, least - each * few)
    return round(alone * extent.shards + each * extent.rows)


def _scores(tokens: pa.Table) -> pa.Table:
    offsets, ids = list_parts(tokens, "response_ids")
    rng = np.random.default_rng(0)
    lost = rng.exponential(1.0, len(ids)).astype(np.float32)
    columns = {
        "logprob": -lost,
        "rank": np.exp(rng.exponential(0.7, len(ids))).astype(np.int32),
        "entropy": rng.exponential(1.0, len(ids)).astype(np.float32),
    }
    lists = {
        name: pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values))
        for name, values in columns.items()
    }
    count = len(tokens)
    means = rng.normal(-1, 0.3, count).astype(np.float32)
    whole = {
        "id": tokens.column("id"),
        "n_tokens": pa.array(np.diff(offsets).astype(np.int32)),
        "mean_logprob": pa.array(means),
        "min_logprob": pa.array(8 * means),
    } | lists
    schema = schema_of("scores/any")
    return pa.table({name: whole[name] for name in schema.names}).cast(schema)


def _counts(sample: SampleTables, spec: Placement | None) -> np.ndarray:
    """About how many places each response has: [examples]."""
    offsets, _ = list_parts(sample.tokens, "response_ids")
    lengths = np.diff(offsets)
    parameters = spec.parameters if spec is not None else {}
    if spec is not None and spec.strategy == "none":
        return np.zeros(len(lengths), int)
    if spec is not None and spec.strategy == "append":
        return np.ones(len(lengths), int)
    if spec is not None and spec.strategy == "every_word":
        words = [len(text.split()) for text in sample.examples.column("response").to_pylist()]
        return np.minimum(lengths, words)
    if isinstance(most := parameters.get("positions"), int):
        return np.minimum(lengths, most)
    share = parameters.get("fraction")
    return np.ceil(lengths * (share if isinstance(share, float) else _PLACES)).astype(int)


def _places(sample: SampleTables, spec: Placement) -> pa.Table:
    offsets, _ = list_parts(sample.tokens, "response_ids")
    rng = np.random.default_rng(0)
    position = [
        sorted(rng.choice(max(length, 1), min(count, length), replace=False).tolist())
        for length, count in zip(np.diff(offsets), _counts(sample, spec), strict=True)
    ]
    schema = schema_of("placements/any")
    whole = {
        "id": sample.tokens.column("id"),
        "position": position,
        "count": [[1] * len(places) for places in position],
    }
    return pa.table({name: whole[name] for name in schema.names}).cast(schema)


def _rows(sample: SampleTables, format: str, spec: Placement | None) -> tuple[pa.Table, int]:
    """About the rows of an export of the sample, and the bytes of its lines."""
    pauses = places = _counts(sample, spec)
    if spec is not None and isinstance(each := spec.parameters.get("tokens"), int):
        pauses = pauses * each
    prompts = sample.tokens.column("prompt_ids").to_pylist()
    responses = sample.tokens.column("response_ids").to_pylist()
    if format in _IDS:
        ids = [
            prompt + [49152] * int(count) + response
            for prompt, response, count in zip(prompts, responses, pauses, strict=True)
        ]
        masked = [
            [-100] * (len(prompt) + int(count)) + response
            for prompt, response, count in zip(prompts, responses, pauses, strict=True)
        ]
        rows = pa.table(
            {
                "input_ids": pa.array(ids, pa.list_(pa.int32())),
                "attention_mask": pa.array([[1] * len(i) for i in ids], pa.list_(pa.int8())),
                "labels": pa.array(masked, pa.list_(pa.int32())),
            }
        )
    else:
        texts = sample.examples.column("response").to_pylist()
        rows = pa.table(
            {
                "prompt": sample.examples.column("prompt"),
                "response": [
                    "[PAUSE]" * int(n) + text for n, text in zip(pauses, texts, strict=True)
                ],
            }
        )
    lines = sum(map(len, json_lines(rows)))
    if format == "axolotl-segments":  # one for the text before each place, and one for the pauses
        lines += 2 * _SEGMENT * int(places.sum())
    return rows, lines
