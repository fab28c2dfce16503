"""Exporting: `tokenized` from stored shards to JSON lines on disk, against DuckDB and a loop.

    python benchmarks/export.py --examples 1000000

Synthetic examples of 250 tokens, 50 of them a prompt, with five pauses each, in shards as
`pausedata build` would cut them. DuckDB's `COPY … TO 'x.jsonl' (FORMAT json)` has less to do: the
same columns, with the pauses in them and the labels made, wait for it in Parquet. The loop takes
the rows of the first shards from memory, one `json.dumps` each.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from common import machine, parser_of, peak_mib, tables_of

from pausedata import exporters
from pausedata.core.progress import Silent
from pausedata.exporters.inputs import ExportInputs
from pausedata.pipeline.steps.export import write_outside
from pausedata.store import commit
from pausedata.store.dataset import open_version
from pausedata.store.manifest import PauseEntry, SplitRows
from pausedata.store.shards import choose_shard_rows, shard_name
from pausedata.store.staging import Stage
from pausedata.store.tables import list_array, schema_of

PROMPT, RESPONSE, PAUSES = 50, 200, 5
VOCABULARY = 49_152
LOOPED = 5_000  # examples that the Python loop writes: it is slow, and as slow for the next


def arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("--examples", type=int, default=1_000_000, help="of 250 tokens")
    add("--folder", type=Path, default=None, help="where to write; the system's temporary folder")
    return parser.parse_args()


def make(root: Path, examples: int) -> None:
    """A dataset of tokens and one placement; only what an export reads is in it."""
    stage = Stage(root / "staging" / "made")
    each = choose_shard_rows(examples, examples * (PROMPT + RESPONSE))
    names = [shard_name("train", k, -(-examples // each)) for k in range(-(-examples // each))]
    for number, name in enumerate(names):
        rng = np.random.default_rng(number)
        rows = min(each, examples - number * each)
        for table, columns in _columns(rng, rows).items():
            stage.write(f"{table}/{name}", columns)
    tables = {
        name: stage.table(
            name, schema_of(name), [("train", f"{name}/{path}") for path in names], {"inputs": {}}
        )
        for name in ("examples", "tokens", "placements/five")
    }
    last = pa.table(
        {"token_id": [VOCABULARY - 1], "token": ["x"], "bytes": [b"x"], "special": [False]}
    )
    stage.write("vocab.parquet", last.cast(schema_of("vocab")))
    tables["vocab"] = stage.table(
        "vocab", schema_of("vocab"), [(None, "vocab.parquet")], {"inputs": {}}
    )
    pause = PauseEntry(token="[PAUSE]", id=VOCABULARY, id_is_new=True)
    counts = {"train": SplitRows(into=examples, out=examples)}
    change = commit.Change("benchmark", tables, name="synthetic", recipe={}, pins={}, pause=pause,
                           rows=counts)  # fmt: skip
    commit.commit(root, None, change, card=lambda manifest: "")


def _columns(rng: np.random.Generator, rows: int) -> dict[str, pa.Table]:
    raw = rng.bytes(16 * rows).hex()
    ids = [raw[start : start + 32] for start in range(0, len(raw), 32)]

    def lists(values: Any, each: int, kind: pa.DataType) -> pa.Array:
        return list_array(np.arange(0, rows * each + 1, each), values, kind)

    def tokens(count: int) -> Any:  # few tokens are most of a text
        return (VOCABULARY * rng.random(rows * count) ** 4).astype(np.int32)

    ends = np.tile(np.arange(1, RESPONSE + 1, dtype=np.int32), rows)
    positions = np.sort(rng.random((rows, RESPONSE)).argsort(1)[:, :PAUSES], axis=1)
    text = [""] * rows
    return tables_of(
        {
            "examples": [ids, ["train"] * rows, range(rows), text, text, ["{}"] * rows],
            "tokens": [ids, lists(tokens(PROMPT), PROMPT, pa.int32()),
                       lists(tokens(RESPONSE), RESPONSE, pa.int32()),
                       lists(ends - 1, RESPONSE, pa.int32()), lists(ends, RESPONSE, pa.int32()),
                       np.zeros(rows, np.bool_)],
            "placements/five": [ids, lists(positions.ravel(), PAUSES, pa.int32()),
                                lists(np.ones(rows * PAUSES, np.int16), PAUSES, pa.int16())],
        }
    )  # fmt: skip


def export(root: Path, target: Path) -> None:
    """`pausedata export ROOT --placement five --format tokenized -o TARGET`."""
    version = open_version(root)
    plain = exporters.get("tokenized")
    format = dataclasses.replace(plain, layout=plain.layout.outside(target, None, None))
    options = exporters.parse(format, {}, "")

    def no_tokenizer() -> Any:
        raise AssertionError

    manifest = version.manifest
    origin = ExportInputs.of(manifest.name, manifest.pause, version.tables, "five", no_tokenizer)
    write_outside(target, format, options, origin, ["train"], 1, Silent())


def seconds(work: Callable[[], object]) -> float:
    """What ``work`` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def copy(ready: Path, target: Path) -> None:
    """DuckDB, on columns that are ready-made."""
    with duckdb.connect() as connection:
        source = f"read_parquet('{ready}')"
        connection.execute(f"copy (select * from {source}) to '{target}' (format json)")


def loop(rows: pa.Table, target: Path) -> None:
    """As one would write it first."""
    with target.open("w") as out:
        for row in rows.to_pylist():
            out.write(json.dumps(row) + "\n")


_EXPORT = (
    "import sys; from pathlib import Path; import export; export.export(*map(Path, sys.argv[1:]))"
)


def main() -> None:
    asked = arguments()
    print(machine())
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        root, ours, theirs = folder / "dataset", folder / "ours.jsonl", folder / "theirs.jsonl"
        make(root, asked.examples)
        ready = folder / "ready.parquet"
        export(root, ready)
        first = next(_batches(ready))
        copying = [seconds(lambda: copy(ready, theirs))]
        exporting = [seconds(lambda: export(root, ours)) for _ in range(2)]
        copying.append(seconds(lambda: copy(ready, theirs)))
        looping = seconds(lambda: loop(first, folder / "loop.jsonl")) / first.num_rows
        mine, other = min(exporting) / asked.examples, min(copying) / asked.examples
        print(f"{asked.examples:,} examples of {PROMPT + RESPONSE} tokens, "
              f"{ours.stat().st_size / 1e9:.2f} GB of JSON lines")  # fmt: skip
        for label, each in (("pausedata export", mine), ("DuckDB COPY", other), ("loop", looping)):
            print(f"{label:18} {1 / each:10,.0f} examples/s")
        print(f"ratio to DuckDB {other / mine:.2f}, to the loop {looping / mine:.1f}")
        few = folder / "few"
        make(few, max(1, asked.examples // 10))
        peaks = [peak_mib(_EXPORT, each, folder / "peak.jsonl") for each in (few, root)]
        print(f"peak memory {peaks[0]:.0f} MiB for a tenth of them, {peaks[1]:.0f} MiB for all; "
              f"ratio {peaks[1] / peaks[0]:.2f}")  # fmt: skip
    print(machine())


def _batches(path: Path) -> Any:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(LOOPED):
            yield pa.Table.from_batches([batch])


if __name__ == "__main__":
    main()
