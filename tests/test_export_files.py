"""``export -o``: the types of files, several files a split, and what an interruption leaves."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import duckdb
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Run
from handmade import commit_handmade
from test_exports import TEST, TRAIN

from pausedata.core.prefetch import prefetch
from pausedata.exporters.row_files import TYPES, RowFiles

ROWS = [json.loads(line) for line in TRAIN]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("files") / "data"
    commit_handmade(root)
    return root


@pytest.fixture
def export(run: Callable[..., Run], root: Path) -> Callable[..., Run]:
    def call(*words: object) -> Run:
        return run("export", root, "--placement", "low", "--format", "tokenized", *words)

    return call


def read(path: Path) -> list[dict[str, Any]]:
    """By means of nothing of ours."""
    if path.name.endswith(".gz"):
        return [json.loads(line) for line in gzip.open(path, "rt")]
    if path.name.endswith(".zst"):
        with pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") as stream:
            return [json.loads(line) for line in stream.read().decode().splitlines()]
    if path.name.endswith(".parquet"):
        return pq.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("kind", TYPES)
def test_the_ending_says_the_type(export: Callable[..., Run], tmp_path: Path, kind: str) -> None:
    target = tmp_path / f"train.{kind}"
    done = export("--split", "train", "-o", target)
    assert done.status == 0, done.err
    assert read(target) == ROWS
    assert {path.name for path in tmp_path.iterdir()} == {
        target.name, "train.meta.json", "train.README.md"
    }  # fmt: skip


@pytest.mark.parametrize("kind", TYPES)
def test_a_folder_gets_a_file_a_split(
    export: Callable[..., Run], tmp_path: Path, kind: str
) -> None:
    assert export("--type", kind, "-o", tmp_path / "out").status == 0
    assert read(tmp_path / "out" / f"train.{kind}") == ROWS
    assert read(tmp_path / "out" / f"test.{kind}") == [json.loads(line) for line in TEST]


@pytest.mark.parametrize("kind", TYPES)
def test_everybody_reads_them(export: Callable[..., Run], tmp_path: Path, kind: str) -> None:
    """datasets, DuckDB, pandas, and of Zstandard the program itself where it is."""
    path = tmp_path / f"train.{kind}"
    export("--split", "train", "-o", path)
    reader = TYPES[kind].reader
    if kind != "jsonl.zst" or _has("zstandard"):
        loaded = datasets.load_dataset(
            reader, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
        )
        assert list(loaded) == ROWS
    read_ids = f"select input_ids from read_{reader}('{path}')"
    assert duckdb.sql(read_ids).fetchall() == [(row["input_ids"],) for row in ROWS]
    if reader == "json" and kind != "jsonl.zst":
        frame = pandas.read_json(path, lines=True)
        assert frame["labels"].tolist() == [row["labels"] for row in ROWS]
    if kind == "jsonl.zst" and not subprocess.call("command -v zstd >/dev/null", shell=True):
        text = subprocess.run(["zstd", "-dc", path], check=True, capture_output=True).stdout
        assert text.decode() == "".join(TRAIN)


def _has(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


@pytest.mark.parametrize("kind", TYPES)
def test_equal_rows_give_equal_bytes(export: Callable[..., Run], tmp_path: Path, kind: str) -> None:
    paths = [tmp_path / name / f"{name}.{kind}" for name in ("one", "other")]
    for path in paths:
        export("--split", "train", "-o", path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_several_files_a_split(export: Callable[..., Run], tmp_path: Path) -> None:
    done = export("--shard-rows", 2, "-o", tmp_path / "out")
    assert done.status == 0, done.err
    first, second = (tmp_path / "out" / f"train-0000{k}-of-00002.jsonl" for k in (0, 1))
    assert read(first) + read(second) == ROWS
    assert (len(read(first)), len(read(second))) == (2, 1)
    assert (tmp_path / "out" / "test-00000-of-00001.jsonl").exists()
    pattern = str(tmp_path / "out" / "train-*.jsonl")
    assert f"wrote {pattern}" in done.err
    loaded = datasets.load_dataset(
        "json", data_files=pattern, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert list(loaded) == ROWS


def test_what_an_earlier_export_called_otherwise_is_gone(
    export: Callable[..., Run], tmp_path: Path
) -> None:
    """Else `train-*.jsonl` would read rows of two exports. Files that are not ours stay."""
    (tmp_path / "train-notes.jsonl").write_text("mine")
    export("--shard-rows", 1, "-o", tmp_path)
    export("--shard-rows", 2, "-o", tmp_path)
    names = {path.name for path in tmp_path.glob("train*")}
    assert names == {
        "train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "train.meta.json",
        "train-notes.jsonl",
    }  # fmt: skip
    export("--type", "parquet", "-o", tmp_path)
    assert {p.name for p in tmp_path.glob("train*")} == {
        "train.parquet", "train.meta.json", "train-notes.jsonl"
    }  # fmt: skip


def test_the_dataset_s_own_shards_are_no_stale_files(tmp_path: Path) -> None:
    """A killed export leaves a meta file in staging beside shards with such names."""
    for name in ("train-00000-of-00002.parquet", "train.meta.json"):
        (tmp_path / name).write_text("x")
    rows = pa.table({"x": [[1]]})
    RowFiles().write(tmp_path, {"train": [rows]}, rows.schema)
    assert {path.name for path in tmp_path.iterdir()} == {
        "train-00000-of-00002.parquet", "train.meta.json", "train.jsonl"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--type", "csv", "-o", "out"), "'jsonl', 'jsonl.gz', 'jsonl.zst', 'parquet'"),
        (("-o", "train.csv"), ".jsonl, .jsonl.gz, .jsonl.zst, .parquet"),
        (("--type", "parquet", "-o", "train.jsonl"), "its ending says jsonl"),
        (("--type", "parquet"), "goes with -o"),
        (("--shard-rows", "10"), "goes with -o"),
        (("-o", "both.jsonl.gz"), "--split"),
        (("--check", "trll", "-o", "x.jsonl"), "Did you mean 'trl'?"),
        (("--check", "hf-trainer", "-o", "out", "--type", "parquet"), "reads JSON lines"),
        (("--check", "hf-trainer", "-o", "out", "--shard-rows", "5"), "reads JSON lines"),
        (("--check", "nemo", "-o", "x.jsonl"), "it reads 'shifted', not 'tokenized'"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(
    export: Callable[..., Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = export(*words)
    assert done.status == 2
    assert told in done.err and len(done.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [("--type", "jsonl"), ("--shard-rows", "5")])
def test_hf_disk_is_what_it_is(
    run: Callable[..., Run], root: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    done = run(
        *("export", root, "--placement", "low", "--format", "hf-disk", "-o", tmp_path / "o"), *words
    )
    assert done.status == 2 and "leave it out" in done.err


def test_a_failure_leaves_the_old_files(
    export: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pausedata.exporters import row_files

    export("-o", tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(rows: Any) -> Any:
        yield b'{"input_ids":'
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(row_files, "json_lines", full)
    done = export("-o", tmp_path)
    assert done.status == 1 and "No space left" in done.err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_readers_own_readme_is_left_alone(export: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    export("-o", tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    assert (tmp_path / "train.README.md").read_text().startswith("<!-- written by pausedata")


def test_ahead_makes_one_more_and_passes_errors_on() -> None:
    made: list[int] = []

    def items() -> Any:
        for number in range(3):
            made.append(number)
            yield number
        raise ValueError("at the end")

    coming = prefetch(items())
    assert next(coming) == 0
    assert next(coming) == 1
    assert len(made) <= 3
    assert next(coming) == 2
    with pytest.raises(ValueError, match="at the end"):
        next(coming)
