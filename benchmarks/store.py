"""The store against bare Parquet: speed of writing and reading, of opening, and memory.

    python benchmarks/store.py --examples 1000000 --folder /tmp

Synthetic examples of 150 response tokens are made shard by shard, and every shard is written by
the store (tables `tokens` and `scores/base`, then a commit) and by pyarrow, to one file a table,
with the same encodings and with pyarrow's own. They take turns, so that whatever else the machine
does slows all alike. Making the examples is not counted; the store's fsyncs and hashes are.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import machine, parser_of, peak_mib, tables_of

from pausedata.query.run import run
from pausedata.query.session import Session
from pausedata.store import commit
from pausedata.store.content import ContentHash
from pausedata.store.dataset import Version, open_version
from pausedata.store.manifest import PauseEntry, SplitRows
from pausedata.store.shards import choose_shard_rows, open_shard, shard_name
from pausedata.store.staging import Stage, Staging
from pausedata.store.tables import list_array, schema_of

RESPONSE, PROMPT = 150, 50  # tokens
VOCABULARY = 49_152
TABLES = ("tokens", "scores/base")
Portion = dict[str, pa.Table]

WRITE = "import sys, store; store.write_store(sys.argv[1], int(sys.argv[2]))"
READ = "import sys, store; store.read_store(store.open_version(sys.argv[1]))"


def arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("--examples", type=int, default=1_000_000, help="to write and to read back")
    add("--shards", type=int, default=2_000, help="of the dataset to open")
    add("--shard-rows", type=int, default=100, help="examples in each of its shards")
    add("--repeats", type=int, default=5, help="times that it is opened; the fastest counts")
    add("--folder", type=Path, default=None, help="where to write; the system's temporary folder")
    return parser.parse_args()


# Examples


def portion(number: int, rows: int, split: str = "train") -> Portion:
    """The rows of shard ``number``, the same whenever they are asked for."""
    rng = np.random.default_rng(number)
    raw = rng.bytes(16 * rows).hex()
    ids = [raw[start : start + 32] for start in range(0, len(raw), 32)]
    prompts, responses = np.arange(rows + 1) * PROMPT, np.arange(rows + 1) * RESPONSE
    # Few tokens are most of a text, and most tokens are likely: about as compressible as real ones.
    token_ids = (VOCABULARY * rng.random(rows * (PROMPT + RESPONSE)) ** 4).astype(np.int32)
    ends = rng.integers(1, 9, (rows, RESPONSE), np.int32).cumsum(1, np.int32)
    starts = np.zeros_like(ends)
    starts[:, 1:] = ends[:, :-1]
    logprob = -8 * rng.random((rows, RESPONSE), np.float32) ** 6
    entropy = 4 * rng.random(rows * RESPONSE, np.float32) ** 2
    ranks = (1 + 100 * rng.random(rows * RESPONSE, np.float32) ** 8).astype(np.int32)
    text = pa.array(["x" * int(end) for end in ends[:, -1]])
    cut = rows * PROMPT
    columns: dict[str, list[Any]] = {
        "examples": [ids, [split] * rows, range(number * rows, (number + 1) * rows), text, text,
                     ["{}"] * rows],
        "tokens": [ids, list_array(prompts, token_ids[:cut], pa.int32()),
                   list_array(responses, token_ids[cut:], pa.int32()),
                   list_array(responses, starts.ravel(), pa.int32()),
                   list_array(responses, ends.ravel(), pa.int32()), np.zeros(rows, np.bool_)],
        "scores/base": [ids, np.full(rows, RESPONSE, np.int32), logprob.mean(1), logprob.min(1),
                        list_array(responses, logprob.ravel(), pa.float32()),
                        list_array(responses, ranks, pa.int32()),
                        list_array(responses, entropy, pa.float32())],
    }  # fmt: skip
    return tables_of(columns)


def portions(examples: int) -> Iterator[tuple[int, int, Portion]]:
    """Number, count and rows of each shard of a corpus as `pausedata build` would cut it."""
    each = choose_shard_rows(examples, examples * (PROMPT + RESPONSE))
    count = -(-examples // each)
    for number in range(count):
        yield number, count, portion(number, min(each, examples - number * each))


# Writing and reading


def stage_shard(stage: Stage, names: tuple[str, ...], shard: str, rows: Portion) -> None:
    for name in names:
        stage.write(f"{name}/{shard}", rows[name])


def finish(root: Path, stage: Stage, names: tuple[str, ...], shards: list[str]) -> None:
    """The staged shards as version 1."""
    tables = {}
    for name in names:
        paths: list[tuple[str | None, str]] = [("train", f"{name}/{shard}") for shard in shards]
        tables[name] = stage.table(name, schema_of(name), paths, {"inputs": {}})
    if "examples" in names:  # a whole dataset, which views want to have a vocabulary
        ids = np.arange(VOCABULARY, dtype=np.int32)
        text = [f"t{id}" for id in ids]
        arrays = [pa.array(ids), pa.array(text), pa.array([t.encode() for t in text])]
        arrays.append(pa.array(np.zeros(VOCABULARY, np.bool_)))
        stage.write("vocab.parquet", pa.Table.from_arrays(arrays, schema=schema_of("vocab")))
        tables["vocab"] = stage.table(
            "vocab", schema_of("vocab"), [(None, "vocab.parquet")], {"inputs": {}}
        )
    rows = tables["tokens"].entry.rows
    change = commit.Change(
        "benchmark", tables, name="synthetic", recipe={}, pins={},
        pause=PauseEntry(token="[PAUSE]", id=VOCABULARY, id_is_new=True),
        rows={"train": SplitRows(into=rows, out=rows)},
    )  # fmt: skip
    commit.commit(root, None, change, card=lambda manifest: "")


def write_store(root: str | Path, examples: int) -> None:
    """All through the store, streamed."""
    root = Path(root)
    commit.prepare_folder(root)
    with closing(Staging(root)) as staging:
        stage = staging.stage("tokens", {})
        shards = []
        for number, count, rows in portions(examples):
            shards.append(shard_name("train", number, count))
            stage_shard(stage, TABLES, shards[-1], rows)
        finish(root, stage, TABLES, shards)
    shutil.rmtree(stage.folder)


def read_store(version: Version) -> None:
    for name in TABLES:
        table = version.table(name)
        for shard in table.shards:
            table.read(shard)


def check_content(version: Version) -> None:
    for name in TABLES:
        table = version.table(name)
        content = ContentHash(schema_of(name))
        for shard in table.shards:
            content.update(shard.split or "", table.read(shard))
        assert content.hexdigest() == table.entry.content


def files_name(table: str) -> str:
    return f"{table.replace('/', '-')}.parquet"


def speed(folder: Path, examples: int) -> None:
    """Seconds of writing and of reading, the store's and pyarrow's, side by side."""
    root, bare, plain = folder / "dataset", folder / "bare", folder / "plain"
    spent: dict[str, float] = dict.fromkeys(("store", "bare", "plain"), 0.0)

    def timed(name: str, work: Callable[[], Any]) -> None:
        start = time.perf_counter()
        work()
        spent[name] += time.perf_counter() - start

    commit.prepare_folder(root)
    bare.mkdir()
    plain.mkdir()
    same = {name: open_shard(bare / files_name(name), schema_of(name)) for name in TABLES}
    own = {name: pq.ParquetWriter(plain / files_name(name), schema_of(name)) for name in TABLES}

    def append(writers: dict[str, pq.ParquetWriter], rows: Portion) -> None:
        for name, writer in writers.items():
            writer.write_table(rows[name])

    def close(writers: dict[str, pq.ParquetWriter]) -> None:
        for writer in writers.values():
            writer.close()

    shards: list[str] = []
    with closing(Staging(root)) as staging:
        stage = staging.stage("tokens", {})
        for number, count, rows in portions(examples):
            shards.append(shard_name("train", number, count))
            turns = [
                ("store", lambda rows=rows: stage_shard(stage, TABLES, shards[-1], rows)),
                ("bare", lambda rows=rows: append(same, rows)),
                ("plain", lambda rows=rows: append(own, rows)),
            ]
            for name, work in turns[number % 3 :] + turns[: number % 3]:
                timed(name, work)
        timed("store", lambda: finish(root, stage, TABLES, shards))
        timed("bare", lambda: close(same))
        timed("plain", lambda: close(own))
    report("writing", spent, examples)

    version = open_version(root)
    tables = [version.table(name) for name in TABLES]
    readers = {
        "bare": [pq.ParquetFile(bare / files_name(name)) for name in TABLES],
        "plain": [pq.ParquetFile(plain / files_name(name)) for name in TABLES],
    }
    for name in spent:
        spent[name] = 0.0
    for number in range(len(shards)):
        turns = [
            (name, lambda files=files, number=number: [f.read_row_group(number) for f in files])
            for name, files in readers.items()
        ]
        turns.append(("store", lambda number=number: [t.read(t.shards[number]) for t in tables]))
        for name, work in turns[number % 3 :] + turns[: number % 3]:
            timed(name, work)
    report("reading", spent, examples)
    start = time.perf_counter()
    check_content(version)
    print(f"  with the content hashes verified: {time.perf_counter() - start:.1f} s")
    sizes = {
        "store": sum(s.bytes for name in TABLES for s in version.table(name).shards),
        "bare": sum(p.stat().st_size for p in bare.iterdir()),
        "plain": sum(p.stat().st_size for p in plain.iterdir()),
    }
    print("  MB: " + ", ".join(f"{name} {size / 1e6:,.0f}" for name, size in sizes.items()))


def report(what: str, spent: dict[str, float], examples: int) -> None:
    print(
        f"{what}: store {spent['store']:.1f} s ({examples / spent['store']:,.0f} examples/s), "
        f"bare {spent['bare']:.1f} s, pyarrow's defaults {spent['plain']:.1f} s; speed of the "
        f"store to bare {spent['bare'] / spent['store']:.2f} (aim: at least 0.8), to defaults "
        f"{spent['plain'] / spent['store']:.2f}"
    )


# Opening


def answer(root: Path, query: str) -> list[tuple[int, ...]]:
    """As `pausedata sql` does it: from the folder to the rows."""
    return [row for batch in run(Session(open_version(root)), query).batches() for row in batch]


def opening(folder: Path, shards: int, rows: int, repeats: int) -> None:
    """Opening a dataset of many shards and counting, against DuckDB on the same files."""
    root = folder / "many"
    names = ("examples", *TABLES)
    commit.prepare_folder(root)
    with closing(Staging(root)) as staging:
        stage = staging.stage("tokens", {})
        paths = [shard_name("train", number, shards) for number in range(shards)]
        for number, path in enumerate(paths):
            stage_shard(stage, names, path, portion(number, rows))
        finish(root, stage, names, paths)
    where = open_version(root).folder
    bare = {
        "examples": f"SELECT count(*) FROM '{where}/examples/*.parquet'",
        "tokens": f"SELECT count(*) FROM (SELECT unnest(response_ids) "
                  f"FROM '{where}/tokens/*.parquet')",
    }  # fmt: skip
    for view, query in bare.items():
        count = f"SELECT count(*) FROM {view}"
        times: dict[str, list[float]] = {"ours": [], "bare": []}
        for _ in range(repeats):
            start = time.perf_counter()
            ours = answer(root, count)
            times["ours"].append(time.perf_counter() - start)
            start = time.perf_counter()
            theirs = duckdb.connect().execute(query).fetchall()
            times["bare"].append(time.perf_counter() - start)
            assert ours == theirs
        ours, theirs = min(times["ours"]), min(times["bare"])
        print(
            f"opening {shards:,} shards and count(*) of {view}: {1e3 * ours:,.0f} ms, DuckDB on "
            f"the bare files {1e3 * theirs:,.0f} ms; ratio {ours / theirs:.2f} (aim: under 2)"
        )


# Memory


def memory(folder: Path, examples: int) -> None:
    """Peaks of writing and reading, for a tenth of the examples and for all."""
    peaks: dict[str, list[float]] = {"writing": [], "reading": []}
    for number in (examples // 10, examples):
        root = folder / f"memory-{number}"
        peaks["writing"].append(peak_mib(WRITE, root, number))
        peaks["reading"].append(peak_mib(READ, root))
        shutil.rmtree(root)
    for what, (small, large) in peaks.items():
        print(
            f"peak memory of {what}: {small:,.0f} MiB for {examples // 10:,} examples, "
            f"{large:,.0f} MiB for {examples:,}; ratio {large / small:.2f} (aim: flat)"
        )


def main() -> None:
    args = arguments()
    print(f"{machine()}; pyarrow {pa.__version__}, DuckDB {duckdb.__version__}")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        speed(Path(folder), args.examples)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        opening(Path(folder), args.shards, args.shard_rows, args.repeats)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        memory(Path(folder), args.examples)


if __name__ == "__main__":
    main()
