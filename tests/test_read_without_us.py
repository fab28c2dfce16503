"""Datasets are read by tools that never heard of pausedata, and by a reader of 40 lines.

small_dataset.py says what is in the tables: train has three shards, test has one; run `base`.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import duckdb
import pandas
import polars
import pyarrow.dataset
import pytest
from small_dataset import PAUSE_ID, make_dataset

from pausedata.pipeline.commands import export
from pausedata.pipeline.recipe import Export

READER = Path(__file__).with_name("reader.py")
ALL = ["e1", "e2", "e3", "e4", "e5"]
# `base` of e1, as small_dataset.py has it.
E1 = [-0.5, -3.0, -0.25, -1.5, -0.125]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With an export of `fixed`: three pauses at the beginning, and one or four after the end."""
    root = tmp_path_factory.mktemp("without-us") / "data"
    make_dataset(root)
    export(root, "fixed-rows", Export(placement="fixed", format="tokenized"))
    return root


@pytest.fixture
def current(root: Path) -> Path:
    """What a shell calls current."""
    return root / "current"


def shards(root: Path, table: str, split: str | None = None) -> list[str]:
    """Paths out of the manifest."""
    folder = (
        root / "versions" / f"{json.loads((root / 'pausedata.json').read_text())['current']:04}"
    )
    manifest = json.loads((folder / "manifest.json").read_text())
    entries = manifest["tables"][table]["shards"]
    return [str(folder / s["path"]) for s in entries if split in (None, s["split"])]


def test_duckdb(current: Path) -> None:
    """As the design promises: the same glob means the same to every tool."""
    connection = duckdb.connect(config={"autoinstall_known_extensions": "false"})
    least = connection.execute(
        f"""
        SELECT s.id, e.response, min_logprob, list_position(logprob, min_logprob) - 1
        FROM '{current}/scores/base/*.parquet' s JOIN '{current}/examples/*.parquet' e USING (id)
        ORDER BY min_logprob LIMIT 2
        """
    ).fetchall()
    assert least == [("e2", " 🙂.", -9.0, 0), ("e4", " The [bold]x", -7.0, 1)]
    types = connection.execute(
        f"DESCRIBE SELECT logprob, rank FROM '{current}/scores/base/*.parquet'"
    ).fetchall()
    assert [(name, kind) for name, kind, *_ in types] == [
        ("logprob", "FLOAT[]"),
        ("rank", "INTEGER[]"),
    ]


def test_polars(root: Path) -> None:
    scores = polars.scan_parquet(shards(root, "scores/base"))
    assert scores.select("id").collect()["id"].to_list() == ALL
    e1 = scores.filter(polars.col("id") == "e1").collect()
    assert e1["logprob"].to_list() == [E1]
    assert e1.schema["logprob"] == polars.List(polars.Float32)
    most = scores.explode("rank").select(polars.col("rank").max()).collect().item()
    assert most == 500
    no_ranks = polars.read_parquet(shards(root, "scores/other"))
    assert no_ranks["rank"].null_count() == 5


def test_pandas(root: Path) -> None:
    tokens = pandas.concat(pandas.read_parquet(path) for path in shards(root, "tokens", "train"))
    assert tokens["id"].tolist() == ALL[:4]
    assert tokens["response_ids"].map(len).tolist() == [5, 4, 2, 2]
    assert tokens["truncated"].tolist() == [False] * 4
    examples = pandas.read_parquet(shards(root, "examples", "test")[0])
    assert examples.to_dict("records") == [
        {"id": "e5", "split": "test", "row": 0, "prompt": "y", "response": " is",
         "meta": '{"level": 1}'}
    ]  # fmt: skip


def test_pyarrow_dataset(root: Path) -> None:
    found = pyarrow.dataset.dataset(shards(root, "placements/fixed")).to_table().to_pydict()
    assert found == {
        "id": ALL,
        "position": [[0, 5], [], [2], [], [0]],
        "count": [[3, 1], [], [4], [], [3]],
    }


def test_pyarrow_reads_no_column_but_those_asked_for(root: Path) -> None:
    scores = pyarrow.dataset.dataset(shards(root, "scores/base"))
    unlikely = scores.to_table(["id"], filter=pyarrow.dataset.field("min_logprob") < -5)
    assert unlikely["id"].to_pylist() == ["e2", "e4", "e5"]


def test_datasets(root: Path, tmp_path: Path) -> None:
    loaded: Any = datasets.load_dataset(
        "parquet",
        data_files={split: shards(root, "scores/base", split) for split in ("train", "test")},
        cache_dir=str(tmp_path),
    )
    assert loaded["train"]["id"] == ALL[:4]
    assert loaded["train"][0]["logprob"] == E1
    assert loaded["test"][0]["rank"] == [1, 33]
    assert loaded["train"].features["entropy"] == datasets.List(datasets.Value("float32"))


def test_datasets_finds_the_tables_by_the_card(root: Path, tmp_path: Path) -> None:
    """As on the Hub: the version's folder is the repository, and its README names the tables."""
    folder = str((root / "current").resolve())
    assert {"examples", "tokens", "scores-base", "placements-fixed", "fixed-rows"} <= set(
        datasets.get_dataset_config_names(folder)
    )
    loaded: Any = datasets.load_dataset(folder, "placements-fixed", cache_dir=str(tmp_path))
    assert {split: rows["count"] for split, rows in loaded.items()} == {
        "train": [[3, 1], [], [4], []],
        "test": [[3]],
    }


# The reader


def test_a_reader_of_40_lines_reproduces_an_export_byte_for_byte(root: Path) -> None:
    code = "import sys, pathlib, reader; a = sys.argv[1:]\n"
    code += "sys.stdout.buffer.write(reader.read(pathlib.Path(a[0]), a[1], a[2]))\n"
    code += "assert not [name for name in sys.modules if name.startswith('pausedata')]"
    for split, rows in {"train": 4, "test": 1}.items():
        done = subprocess.run(
            [sys.executable, "-c", code, root, "fixed", split],
            capture_output=True,
            cwd=READER.parent,
            check=True,
        )
        kept = (root / "current" / "exports" / "fixed-rows" / f"{split}.jsonl").read_bytes()
        assert done.stdout == kept
        assert len(kept.splitlines()) == rows
    # e5 by hand: prompt 1, 4, 9; then three pauses before " is" and the end.
    p = PAUSE_ID
    assert json.loads(kept)["input_ids"] == [1, 4, 9, p, p, p, 3, 0]


def test_the_reader_is_short_and_stands_alone() -> None:
    text = READER.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 40
    imported = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module))
    assert imported == {"hashlib", "json", "pathlib", "pyarrow.parquet"}
