"""Bytes a scored token: the store's layout, Parquet as pyarrow writes it, and gzip JSONL.

    python benchmarks/size.py                     # builds a dataset of 160 rows: some minutes
    python benchmarks/size.py --dataset DATASET

Counted are `examples` without `meta`, `tokens` and one run of `scores`, shard by shard; `vocab` is
not, which is the same for a corpus of any size. Columns are what Parquet says that they take,
`footers` the rest of the files; a JSONL file is counted whole, and by column as if it had no other.
All three hold every value exactly.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from common import DATA, MODEL, machine, parser_of

from pausedata.pipeline.build import build
from pausedata.pipeline.recipe import load_recipe
from pausedata.store.dataset import Version, open_version
from pausedata.store.shards import open_shard, write_rows
from pausedata.store.tables import list_array, list_parts

LAYOUTS = ("pausedata", "pyarrow", "jsonl.gz")
FILES = "footers"
AIMS = {"scores": 7.0, "all": 12.0}
Sizes = dict[str, dict[str, int]]  # layout → column, or `footers`, or `file` → bytes


def arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("--dataset", type=Path, help="a dataset with scores; else one is built")
    add("--run", help="its run; the first one where left out")
    add("--rows", type=int, default=160, help="of the dataset that is built")
    add("--data", type=Path, default=DATA, help="JSONL with question and answer, to build from")
    add("--model", type=Path, default=MODEL, help="what scores them")
    return parser.parse_args()


def build_dataset(folder: Path, data: Path, rows: int, model: Path) -> Path:
    recipe = folder / "recipe.json"  # JSON is YAML
    recipe.write_text(
        json.dumps(
            {
                "name": "size",
                "source": {"files": [str(data.resolve())], "limit": rows},
                "prompt": "Question: {{ question }}\nAnswer:",
                "response": " {{ answer }}",
                "model": {"id": str(model.resolve())},
                "output": "out",
            }
        ),
        encoding="utf-8",
    )
    build(load_recipe(recipe), folder / "out")
    return folder / "out"


def ours(rows: pa.Table) -> bytes:
    out = io.BytesIO()
    with open_shard(out, rows.schema) as writer:
        write_rows(writer, rows)
    return out.getvalue()


def theirs(rows: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(rows, out)
    return out.getvalue()


def jsonl(rows: pa.Table) -> bytes:
    """One object a row, gzip's usual level; floats as the shortest text that reads back equal."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in shortest(rows))
    return gzip.compress(lines.encode(), 6, mtime=0)


def shortest(rows: pa.Table) -> list[dict[str, Any]]:
    columns = {}
    for field in rows.schema:
        values = rows.column(field.name).to_pylist()
        if pa.types.is_float32(field.type):
            values = [float(str(np.float32(x))) for x in values]
        elif pa.types.is_list(field.type) and pa.types.is_float32(field.type.value_type):
            values = [x and [float(str(v)) for v in np.array(x, np.float32)] for x in values]
        columns[field.name] = values
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def column_sizes(file: bytes) -> dict[str, int]:
    """Compressed bytes of each column of a Parquet file, and what is left of it."""
    metadata = pq.ParquetFile(io.BytesIO(file)).metadata
    sizes: dict[str, int] = {}
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for k in range(group.num_columns):
            name = group.column(k).path_in_schema.partition(".")[0]
            sizes[name] = sizes.get(name, 0) + group.column(k).total_compressed_size
    return sizes | {FILES: len(file) - sum(sizes.values())}


def measure(shards: list[pa.Table]) -> Sizes:
    sizes: Sizes = {layout: {} for layout in LAYOUTS}

    def add(layout: str, found: dict[str, int]) -> None:
        for name, size in found.items():
            sizes[layout][name] = sizes[layout].get(name, 0) + size

    for rows in shards:
        for layout, write in (("pausedata", ours), ("pyarrow", theirs)):
            file = write(rows)
            add(layout, column_sizes(file) | {"file": len(file)})
        add("jsonl.gz", {name: len(jsonl(rows.select([name]))) for name in rows.column_names})
        add("jsonl.gz", {"file": len(jsonl(rows))})
    return sizes


def rounded(rows: pa.Table, bits: int) -> pa.Table:
    """Log-probabilities and entropies to multiples of 2^-bits nats."""
    for name in ("logprob", "entropy"):
        place = rows.schema.get_field_index(name)
        if not rows.column(name).null_count:
            offsets, values = list_parts(rows, name)
            grid = (np.round(values.astype(np.float64) * 2**bits) / 2**bits).astype(np.float32)
            kind = rows.schema.field(name).type
            column = list_array(offsets, grid, pa.float32()).cast(kind)
            rows = rows.set_column(place, rows.schema.field(name), column)
    return rows


def tables(version: Version, run: str) -> dict[str, list[pa.Table]]:
    def shards(name: str, take: Callable[[pa.Table], pa.Table] = lambda rows: rows) -> Any:
        table = version.table(name)
        return [take(table.read(shard)) for shard in table.shards]

    return {
        "examples": shards("examples", lambda rows: rows.drop_columns("meta")),
        "tokens": shards("tokens"),
        f"scores/{run}": shards(f"scores/{run}"),
    }


def line(name: str, sizes: list[int], tokens: int, note: str = "") -> None:
    print(f"{name:<24}" + "".join(f"{size / tokens:10.3f}" for size in sizes) + note)


def main() -> None:
    args = arguments()
    print(f"{machine()}; pyarrow {pa.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        path = args.dataset or build_dataset(Path(folder), args.data, args.rows, args.model)
        version = open_version(path)
        run = args.run or version.runs[0]
        stored = tables(version, run)
    scores = stored[f"scores/{run}"]
    tokens = sum(pc.sum(rows.column("n_tokens")).as_py() for rows in scores)
    examples = sum(rows.num_rows for rows in scores)
    print(f"{examples:,} examples, {tokens:,} response tokens, {len(scores)} shards, run {run}")

    measured = {name: measure(shards) for name, shards in stored.items()}
    print(f"{'bytes a response token':<24}" + "".join(f"{layout:>10}" for layout in LAYOUTS))
    for name, sizes in measured.items():
        for column in [*stored[name][0].column_names, FILES]:
            line(f"  {column}", [sizes[layout].get(column, 0) for layout in LAYOUTS], tokens)
        aim = f"   aim: at most {AIMS['scores']:g}" if name.startswith("scores/") else ""
        line(name, [sizes[layout]["file"] for layout in LAYOUTS], tokens, aim)
    line(
        "all of these",
        [sum(sizes[layout]["file"] for sizes in measured.values()) for layout in LAYOUTS],
        tokens,
        f"   aim: at most {AIMS['all']:g}",
    )

    exact = measured[f"scores/{run}"]["pausedata"]["file"]
    for bits in (20, 16):
        size = sum(len(ours(rounded(rows, bits))) for rows in scores)
        saved = (exact - size) / tokens
        print(f"logprob and entropy rounded to 2^-{bits} nats would save {saved:.2f} bytes a token "
              f"({1 - size / exact:.0%} of the run)")  # fmt: skip

    groups: dict[str, list[int]] = {name: [] for name in stored}
    footers = 0
    for name, shards in stored.items():
        for rows in shards:
            metadata = pq.ParquetFile(io.BytesIO(ours(rows))).metadata
            footers = max(footers, metadata.serialized_size)
            for number in range(metadata.num_row_groups):
                group = metadata.row_group(number)
                groups[name].append(
                    sum(group.column(k).total_compressed_size for k in range(group.num_columns))
                )
    medians = (f"{name} {statistics.median(of) / 1e3:,.0f} kB" for name, of in groups.items())
    print("one example is read with its row group, the median of which is: "
          f"{', '.join(medians)}; and a footer, at most {footers / 1e3:.0f} kB")  # fmt: skip


if __name__ == "__main__":
    main()
