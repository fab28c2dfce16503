"""``pausedata.open``: a dataset's tables as Arrow, whole, in batches, and as ``datasets``."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from handmade import PAUSE, commit_handmade
from small_dataset import make_dataset, resealed
from test_verify import edit_manifest

import pausedata
from pausedata.core.errors import DataError, UsageError
from pausedata.dataset import Dataset
from pausedata.pipeline.commands import place
from pausedata.pipeline.recipe import Placement
from pausedata.store.dataset import open_version
from pausedata.store.shards import write_shard
from pausedata.store.tables import schema_of


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("api") / "data"
    commit_handmade(root)
    return root


@pytest.fixture
def data(root: Path) -> Dataset:
    return pausedata.open(root)


def test_what_there_is(data: Dataset, root: Path) -> None:
    assert (data.version, data.number, data.manifest.name) == (1, 1, "handmade")
    assert (data.root, data.folder) == (root, root / "versions" / "0001")
    assert data.splits == ["train", "test"]
    assert data.runs == ["base"]
    assert data.placement_names == ["low", "spare"]
    assert data.export_names == ["low-tokenized"]
    assert "handmade" in repr(data)


def test_tables_are_pyarrow_datasets_with_the_formats_schemas(data: Dataset) -> None:
    for table, name in (
        (data.examples, "examples"),
        (data.tokens, "tokens"),
        (data.vocab, "vocab"),
        (data.scores("base"), "scores/base"),
        (data.placements("low"), "placements/low"),
    ):
        assert isinstance(table, ds.Dataset)
        assert table.schema.equals(schema_of(name), check_metadata=True), name
    assert data.exports("low-tokenized").schema.names == ["input_ids", "attention_mask", "labels"]


def test_rows_stand_in_the_manifests_order(data: Dataset) -> None:
    """Shard by shard, train before test: not in the order of the files' names."""
    for table in (data.examples, data.tokens, data.scores(), data.placements("low")):
        assert table.to_table(columns=["id"])["id"].to_pylist() == ["a", "b", "c", "d"]
    low = data.placements("low").to_table()
    assert low["position"].to_pylist() == [[1], [4], [0], [1]]
    assert low["count"].to_pylist() == [[2], [2], [2], [2]]


def test_columns_and_rows_are_chosen_before_they_are_read(data: Dataset) -> None:
    found = data.examples.to_table(columns=["response"], filter=ds.field("split") == "test")
    assert found.to_pydict() == {"response": ["1"]}


def test_a_dataset_stays_with_its_version(tmp_path: Path) -> None:
    root = tmp_path / "data"
    commit_handmade(root)
    before = pausedata.open(root)
    place(root, {"one": Placement(strategy="append", tokens=1)})  # type: ignore[call-arg]
    assert before.placement_names == ["low", "spare"]
    after = pausedata.open(root)
    assert (after.version, after.placement_names) == (2, ["low", "spare", "one"])
    assert pausedata.open(root, version=1).placement_names == ["low", "spare"]


def test_only_shards_of_the_manifest_are_read(tmp_path: Path) -> None:
    root = tmp_path / "data"
    folder = commit_handmade(root).folder / "examples"
    shutil.copy(folder / "test-00000-of-00001.parquet", folder / "test-00001-of-00002.parquet")
    assert pausedata.open(root).examples.count_rows() == 4


def test_a_split_without_rows_is_an_empty_shard(tmp_path: Path) -> None:
    shards: Any = [("train", 0, 1, []), ("test", 0, 1, [])]
    make_dataset(tmp_path / "data", shards=shards, placements=False)
    data = pausedata.open(tmp_path / "data")
    assert data.scores("base").to_table().num_rows == 0
    assert data.tokens.to_table().schema.names == schema_of("tokens").names
    assert list(data.batches("tokens", "scores/base")) == []
    loaded: Any = data.to_datasets("tokens", cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 0, "test": 0}


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda data: data.scores("bsae"), "no run 'bsae'. Did you mean 'base'? There: 'base'"),
        (lambda data: data.placements("lwo"), "Did you mean 'low'? There: 'low', 'spare'"),
        (lambda data: data.exports("low-tokens"), "Did you mean 'low-tokenized'?"),
        (lambda data: data.batches("tokns"), "no table 'tokns'. Did you mean 'tokens'?"),
        (lambda data: data.batches("tokens", split="tset"), "Did you mean 'test'?"),
        (lambda data: data.batches("vocab"), "use .vocab"),
        (lambda data: data.batches(rows=0), "at least one row"),
        (lambda data: data.to_datasets("example"), "Did you mean 'examples'?"),
        (lambda data: data.to_datasets(split="trian"), "Did you mean 'train'?"),
        (lambda data: pausedata.open(data.root, 9), "no version 9"),
        (lambda data: pausedata.open(data.root / "staging"), "not a pausedata dataset"),
    ],
)
def test_a_wrong_name_is_told_at_once_with_the_nearest(data: Dataset, ask: Any, told: str) -> None:
    with pytest.raises(UsageError) as error:
        ask(data)
    assert told in str(error.value)


def test_a_dataset_without_runs_says_so(tmp_path: Path) -> None:
    make_dataset(tmp_path / "data", runs=False)
    with pytest.raises(UsageError, match="has no scoring run"):
        pausedata.open(tmp_path / "data").scores()


# Batches


def test_batches_join_tables_by_position(data: Dataset) -> None:
    batches = list(data.batches("tokens", "scores/base", "placements/low", "placements/spare"))
    assert batches[0].schema.names == [
        *("id", "prompt_ids", "response_ids", "char_start", "char_end", "truncated"),
        *("scores/base.n_tokens", "scores/base.mean_logprob", "scores/base.min_logprob"),
        *("scores/base.logprob", "scores/base.rank", "scores/base.entropy"),
        *("placements/low.position", "placements/low.count"),
        *("placements/spare.position", "placements/spare.count"),
    ]
    assert [batch["id"].to_pylist() for batch in batches] == [["a", "b"], ["c"], ["d"]]
    assert batches[0]["response_ids"].to_pylist()[0] == [3, 10, 4, 15]
    assert batches[0]["scores/base.rank"].to_pylist()[0] == [1, 2, 2, 2]
    assert batches[0]["placements/low.position"].to_pylist() == [[1], [4]]


def test_exports_stand_beside_examples(data: Dataset) -> None:
    """They have no ids of their own; and alone there is no id at all."""
    (batch,) = data.batches("examples", "exports/low-tokenized", split="test")
    assert batch["id"].to_pylist() == ["d"]
    assert batch["exports/low-tokenized.input_ids"].to_pylist() == [[0, 1, PAUSE, PAUSE, 15]]
    (alone,) = data.batches("exports/low-tokenized", split="test")
    assert alone.schema.names[0] == "exports/low-tokenized.input_ids"


@pytest.mark.parametrize(("rows", "sizes"), [(1, [1, 1, 1, 1]), (2, [2, 1, 1]), (99, [2, 1, 1])])
def test_batches_have_the_size_that_was_asked_for(
    data: Dataset, rows: int, sizes: list[int]
) -> None:
    assert [len(batch) for batch in data.batches("examples", "tokens", rows=rows)] == sizes


def test_batches_do_not_follow_row_groups(tmp_path: Path) -> None:
    """Tables have row groups of different sizes; batches have the size that was asked for."""
    root = tmp_path / "data"
    folder = commit_handmade(root).folder
    path = folder / "examples" / "train-00000-of-00002.parquet"
    rows = pa.parquet.read_table(path)
    path.unlink()
    pa.parquet.write_table(rows, path, row_group_size=1)
    resealed(open_version(root))
    batches = pausedata.open(root).batches("examples", "tokens", split="train", rows=2)
    assert [batch["id"].to_pylist() for batch in batches] == [["a", "b"], ["c"]]


def test_examples_are_the_default(data: Dataset) -> None:
    (batch,) = data.batches(split="test")
    assert batch.to_pylist()[0]["response"] == "1"


def test_tables_that_hold_other_examples_are_not_joined(tmp_path: Path) -> None:
    root = tmp_path / "data"
    path = commit_handmade(root).folder / "scores" / "base" / "train-00000-of-00002.parquet"
    rows = pa.parquet.read_table(path)
    write_shard(path, rows.take([1, 0]))
    resealed(open_version(root))
    with pytest.raises(DataError, match="other examples"):
        list(pausedata.open(root).batches("tokens", "scores/base"))
    write_shard(path, rows.slice(1))
    resealed(open_version(root))
    with pytest.raises(DataError, match="other rows"):
        list(pausedata.open(root).batches("tokens", "scores/base"))


def test_a_missing_or_damaged_shard_is_named(tmp_path: Path) -> None:
    root = tmp_path / "data"
    path = commit_handmade(root).folder / "tokens" / "train-00001-of-00002.parquet"
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(whole)
    data = pausedata.open(root)
    reads = (
        lambda: data.tokens,
        lambda: data.to_datasets("tokens"),
        lambda: list(data.batches("tokens")),
    )
    for read in reads:
        with pytest.raises(DataError, match=r"train-00001-of-00002.*sha256"):
            read()
    path.unlink()
    for read in reads:
        with pytest.raises(DataError, match=r"train-00001-of-00002.*missing"):
            read()


# What a later release may have added


def test_what_a_later_release_added_does_no_harm(tmp_path: Path) -> None:
    root = tmp_path / "data"
    folder = commit_handmade(root).folder
    for path in (folder / "tokens").iterdir():
        rows = pa.parquet.read_table(path)
        write_shard(path, rows.append_column("weight", pa.array([1.0] * len(rows))))
    resealed(open_version(root))

    def as_later(manifest: dict[str, Any]) -> None:
        manifest["tables"]["weights/x"] = manifest["tables"]["tokens"]
        manifest["tables"]["exports/low-tokenized"]["provenance"]["inputs"]["format"] = "later"

    edit_manifest(root, as_later)
    data = pausedata.open(root)
    assert data.tokens.to_table().schema.names == schema_of("tokens").names
    assert data.exports("low-tokenized").to_table().num_rows == 4
    (batch,) = data.batches("tokens", "weights/x", split="test")
    assert batch["weights/x.weight"].to_pylist() == [1.0]


# datasets


def test_to_datasets_gives_a_dict_of_splits(data: Dataset, tmp_path: Path) -> None:
    loaded: Any = data.to_datasets("placements/low", cache_dir=str(tmp_path))
    assert list(loaded) == ["train", "test"]
    assert list(loaded["train"]) == [
        {"id": "a", "position": [1], "count": [2]},
        {"id": "b", "position": [4], "count": [2]},
        {"id": "c", "position": [0], "count": [2]},
    ]
    assert str(loaded["train"].features["count"]) == "List(Value('int16'))"


def test_to_datasets_gives_one_split_or_the_vocabulary(data: Dataset, tmp_path: Path) -> None:
    test: Any = data.to_datasets(split="test", cache_dir=str(tmp_path))
    assert test["response"] == ["1"]
    vocab: Any = data.to_datasets("vocab", cache_dir=str(tmp_path))
    assert vocab[15]["token"] == "<eos>"


def test_batches_are_read_one_row_group_at_a_time(tmp_path: Path) -> None:
    """Of a shard many times as large, little is in memory at once."""
    root = tmp_path / "data"
    folder = commit_handmade(root).folder
    path = folder / "examples" / "test-00000-of-00001.parquet"
    rows = pa.parquet.read_table(path)
    long = rows.set_column(4, rows.schema.field("response"), pa.array(["x" * 1_000_000]))
    path.unlink()
    with pa.parquet.ParquetWriter(path, long.schema) as writer:
        for _ in range(40):
            writer.write_table(long)
    resealed(open_version(root))
    before, most = pa.total_allocated_bytes(), 0
    for batch in pausedata.open(root).batches(split="test", rows=1):
        most = max(most, pa.total_allocated_bytes() - before)
        del batch
    assert most < 15_000_000  # 40 MB in all


ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "build" / "quickstart"


def page_on_python() -> list[tuple[str, str]]:
    """Its blocks of code, and what the page says that each prints (nothing where it does not)."""
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    pattern = r"^```python\n(.*?)^```\n(?:```text\n(.*?)^```)?"
    return re.findall(pattern, page, re.M | re.S)


def run_page(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Run the blocks one after another, as a reader would paste them.

    Gives the names they made, and of each block that has it, what it should print and printed.
    """
    names: dict[str, Any] = {}
    printed = []
    for code, expected in page_on_python():
        capsys.readouterr()
        exec(code, names)
        if expected:
            lines = capsys.readouterr().out.splitlines()
            printed.append((expected, "".join(f"{line.rstrip()}\n" for line in lines if line)))
    return names, printed


def test_the_page_on_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("polars")
    root = tmp_path / "build" / "quickstart"
    commit_handmade(root)
    place(root, {"dit": Placement(strategy="lowest_logprob", positions=2)})  # type: ignore[call-arg]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    names, printed = run_page(capsys)
    # Least: 1/64 in a, 1/1024 in b, 1/2 in c, 1/16 in d; and e^-1 is 1/2.7.
    assert names["worst"]["id"].to_pylist() == ["a", "b", "d"]
    assert names["pauses"] == 6  # two places in each of a, b and c
    assert list(names["splits"]) == ["train", "test"]
    assert names["examples"]["id"][:] == ["a", "b", "c"]
    # The end has 3, 1, 1 and 4 bits: on average 2.25, which are 1.56 nats.
    assert ("<eos>", 4, -1.6) in names["hard"].fetchall()
    # Of the examples 3, 3, 1 and 2 bits, and 2 ** 2.25 is 4.76.
    assert names["by_length"].fetchall() == [(0, 4, 4.8)]
    # In a: 6 bits before the space, 3 before the end.
    assert names["places"].fetchall() == [(1, " ", 6.0), (3, "<eos>", 3.0)]
    # Two places in each: 6 + 3, 3 + 2, 1 + 1 and 4 + 0 of 36 bits, 8 of 14 tokens.
    assert names["share"].rows() == [(False, 0.43, 0.44), (True, 0.57, 0.56)]
    made = pausedata.connect(root).execute("ATTACH 'corpus.duckdb'")
    assert made.execute("SELECT count(*) FROM corpus.tokens").fetchall() == [(14,)]
    assert len(printed) == 5


@pytest.mark.skipif(not QUICKSTART.is_dir(), reason="`make quickstart` builds it")
def test_the_page_on_python_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("polars")
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "quickstart").symlink_to(QUICKSTART)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    _, printed = run_page(capsys)
    assert [shown for _, shown in printed] == [expected for expected, _ in printed]


@pytest.mark.parametrize("name", ["a?b", "a*b", "a[b]", "a=b"])
def test_a_path_is_no_pattern(tmp_path: Path, name: str) -> None:
    """To ``datasets`` it is one, and could match the neighbours."""
    for folder in ("axb", name):
        commit_handmade(tmp_path / folder)
    loaded: Any = pausedata.open(tmp_path / name).to_datasets(cache_dir=str(tmp_path / "cache"))
    assert loaded["train"]["id"][:] == ["a", "b", "c"]


def test_what_datasets_cannot_open_is_said(tmp_path: Path) -> None:
    commit_handmade(tmp_path / "a::b")
    with pytest.raises(UsageError, match="'::'"):
        pausedata.open(tmp_path / "a::b").to_datasets()


@pytest.mark.parametrize("version", ["5", True, 1.0])
def test_a_version_is_a_number(tmp_path: Path, version: Any) -> None:
    commit_handmade(tmp_path / "data")
    with pytest.raises(UsageError, match="give a number"):
        pausedata.open(tmp_path / "data", version)
