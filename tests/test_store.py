"""The store: content hashes, shards, commits, and what readers and writers see of each other."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import shutil
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from aligned import aligned
from conftest import in_ci
from handmade import (
    EXAMPLES,
    SHARDS,
    add_export,
    add_placement,
    commit_handmade,
    stage_corpus,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from pausedata.core.errors import ConflictError, DataError, UsageError
from pausedata.core.progress import Silent
from pausedata.hub.card import quick_card as card
from pausedata.pipeline.commands import export, place
from pausedata.pipeline.recipe import Export, Placement
from pausedata.pipeline.transaction import Transaction
from pausedata.store import commit as commit_module
from pausedata.store import files
from pausedata.store.commit import Change, commit, current_version, prepare_folder
from pausedata.store.content import ContentHash
from pausedata.store.dataset import Version, open_version
from pausedata.store.manifest import manifest_schema
from pausedata.store.opening import version_numbers
from pausedata.store.shards import (
    MOST_SHARD_TOKENS,
    SHARD_TOKENS,
    choose_shard_rows,
    read_shard,
    regrouped,
    shard_name,
    write_shard,
)
from pausedata.store.staging import BusyError, Stage, Staging, stage_folder
from pausedata.store.tables import list_parts, make_schema, schema_of

CHEAP = settings(max_examples=in_ci(100), deadline=None)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store") / "data"
    commit_handmade(root)
    return root


@pytest.fixture
def root(original: Path, tmp_path: Path) -> Path:
    """A dataset with version 1, a test's own."""
    return shutil.copytree(original, tmp_path / "data", symlinks=True)


def appended(tokens: int) -> Placement:
    return Placement(strategy="append", tokens=tokens)  # type: ignore[call-arg]


# Content hash


KINDS = make_schema(
    [
        (1, "id", pa.string()),
        (2, "raw", pa.binary()),
        (3, "small", pa.int16()),
        (4, "large", pa.int64()),
        (5, "score", pa.float32()),
        (6, "flag", pa.bool_()),
        (7, "ids", pa.list_(pa.int32())),
        (8, "scores", pa.list_(pa.float32())),
    ]
)
# How the format calls each type, and how its values are laid out in bytes.
TYPES = {
    "id": ("string", None),
    "raw": ("binary", None),
    "small": ("int16", "<h"),
    "large": ("int64", "<q"),
    "score": ("float", "<f"),
    "flag": ("bool", "<?"),
    "ids": ("list<int32>", "<i"),
    "scores": ("list<float>", "<f"),
}


def content_by_definition(splits: dict[str, list[dict[str, Any]]]) -> str:
    """The content hash, as docs/format.md defines it, one value after another.

    Each column of each split is up to three streams of bytes: `valid` (a byte a row, 1 or 0 for
    null), `lengths` (of strings, binaries and lists: int64, little-endian, 0 for null) and `values`
    (little-endian; a scalar null is a zero). Their sha256s stand in a JSON document with sorted
    keys and no spaces, and the sha256 of that is the hash.
    """
    document = {}
    for split, rows in splits.items():
        columns = {}
        for name, (kind, layout) in TYPES.items():
            valid, lengths, values = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
            sized = kind in ("string", "binary") or kind.startswith("list")
            for row in rows:
                value = row[name]
                valid.update(b"\0" if value is None else b"\1")
                if kind == "string":
                    value = None if value is None else value.encode()
                if sized:
                    lengths.update(struct.pack("<q", 0 if value is None else len(value)))
                    if layout is None:
                        values.update(value or b"")
                    else:
                        for item in value or []:
                            values.update(struct.pack(layout, item))
                else:
                    values.update(struct.pack(str(layout), 0 if value is None else value))
            columns[name] = {
                "type": kind,
                "valid": valid.hexdigest(),
                "values": values.hexdigest(),
            } | ({"lengths": lengths.hexdigest()} if sized else {})
        document[split] = {"rows": len(rows), "columns": columns}
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def content_of(splits: dict[str, list[dict[str, Any]]], cut: int = 1000) -> str:
    """The store's own, fed with tables of ``cut`` rows."""
    content = ContentHash(KINDS)
    for split, rows in splits.items():
        table = pa.Table.from_pylist(rows, schema=KINDS)
        for start in range(0, max(len(rows), 1), cut):
            content.update(split, table.slice(start, cut))
    return content.hexdigest()


def null_or(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


FLOATS = st.floats(width=32, allow_nan=False)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "id": null_or(st.text(st.characters(codec="utf-8"), max_size=4)),
            "raw": null_or(st.binary(max_size=4)),
            "small": null_or(st.integers(-(2**15), 2**15 - 1)),
            "large": null_or(st.integers(-(2**63), 2**63 - 1)),
            "score": null_or(FLOATS),
            "flag": null_or(st.booleans()),
            "ids": null_or(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4)),
            "scores": null_or(st.lists(FLOATS, max_size=4)),
        }
    ),
    max_size=6,
)
ROW: dict[str, Any] = {
    "id": "x",
    "raw": b"y",
    "small": 1,
    "large": 2,
    "score": 0.5,
    "flag": True,
    "ids": [1, 2],
    "scores": [0.25],
}


@CHEAP
@given(ROWS, ROWS, st.integers(1, 7))
def test_the_content_hash_is_its_definition_however_the_rows_come(
    train: list[dict[str, Any]], test: list[dict[str, Any]], cut: int
) -> None:
    splits = {"train": train, "test": test}
    assert content_of(splits, cut) == content_by_definition(splits)


def test_a_content_hash_that_will_never_change() -> None:
    """One row, in figures: whoever changes the definition has to change this line too."""
    golden = "sha256:ae12bf5ba5f6cad3b216b875c9a80598458c321b70598addab34e8c1d49db5c7"
    assert content_by_definition({"train": [ROW]}) == golden
    assert content_of({"train": [ROW]}) == golden


@pytest.mark.parametrize(
    "other",
    [
        {"id": "z"},
        {"id": ""},
        {"id": None},
        {"raw": b"z"},
        {"small": 2},
        {"small": 0},
        {"small": None},  # not the 0 that stands for it among the values
        {"large": 3},
        {"score": 0.75},
        {"score": None},
        {"flag": False},
        {"flag": None},
        {"ids": [2, 1]},
        {"ids": [1, 2, 0]},
        {"ids": []},
        {"ids": None},  # a null list is not an empty one
        {"scores": [0.5]},
    ],
)
def test_any_changed_value_changes_the_content_hash(other: dict[str, Any]) -> None:
    nothing = dict.fromkeys(ROW)
    rows = [ROW, nothing, ROW | {"ids": [], "id": "", "small": 0}]
    assert content_of({"train": rows}) != content_of({"train": [rows[0] | other, *rows[1:]]})
    assert content_of({"train": [ROW | {"ids": []}]}) != content_of(
        {"train": [ROW | {"ids": None}]}
    )


def test_values_moved_from_one_row_to_the_next_change_the_content_hash() -> None:
    def two(**both: tuple[Any, Any]) -> str:
        first = {name: values[0] for name, values in both.items()}
        second = {name: values[1] for name, values in both.items()}
        return content_of({"train": [ROW | first, ROW | second]})

    assert two(id=("a", "bc")) != two(id=("ab", "c"))
    assert two(ids=([1], [2, 3])) != two(ids=([1, 2], [3]))
    assert two(small=(1, 2)) != two(small=(2, 1))  # the order of rows


def test_splits_count_by_name_and_not_by_order() -> None:
    other = ROW | {"id": "other"}
    assert content_of({"train": [ROW], "test": [other]}) == content_of(
        {"test": [other], "train": [ROW]}
    )
    assert content_of({"train": [ROW]}) != content_of({"test": [ROW]})
    assert content_of({"train": [ROW], "test": [other]}) != content_of({"train": [ROW, other]})


def test_the_content_hash_is_the_same_whatever_the_compression(tmp_path: Path) -> None:
    rows = pa.Table.from_pylist([ROW, dict.fromkeys(ROW)] * 50, schema=KINDS)
    expected = content_of({"train": rows.to_pylist()})
    for compression, group in (("zstd", 1000), ("snappy", 7), ("none", 1)):
        path = tmp_path / f"{compression}.parquet"
        pq.write_table(rows, path, compression=compression, row_group_size=group)
        content = ContentHash(KINDS)
        content.update("train", pq.read_table(path))
        assert content.hexdigest() == expected


def test_nulls_inside_a_list_are_refused() -> None:
    with pytest.raises(ValueError, match="a list holds nulls"):
        content_of({"train": [ROW | {"ids": [1, None]}]})


# Shards


def test_shards_are_parquet_with_ids_features_indexes_and_checksums(tmp_path: Path) -> None:
    path = tmp_path / "scores" / "shard.parquet"
    rows = pa.Table.from_pylist(
        [
            {"id": "a", "n_tokens": 2, "mean_logprob": -1.0, "min_logprob": -1.5}
            | {"logprob": [-1.5, -0.5], "rank": None, "entropy": [0.5, 0.25]}
        ],
        schema=schema_of("scores/base"),
    )
    write_shard(path, rows)
    file = pq.ParquetFile(path)

    stored = {field.name: field for field in file.schema_arrow}
    assert {n: int(f.metadata[b"PARQUET:field_id"]) for n, f in stored.items()} == {
        "id": 1,
        "n_tokens": 2,
        "mean_logprob": 3,
        "min_logprob": 4,
        "logprob": 5,
        "rank": 6,
        "entropy": 7,
    }
    items = stored["logprob"].type.value_field
    assert (items.name, items.metadata[b"PARQUET:field_id"]) == ("element", b"1005")
    features = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
    assert features["id"] == {"dtype": "string", "_type": "Value"}
    assert features["rank"] == {"feature": {"dtype": "int32", "_type": "Value"}, "_type": "List"}

    group = file.metadata.row_group(0)
    columns = {group.column(k).path_in_schema: group.column(k) for k in range(group.num_columns)}
    assert {column.compression for column in columns.values()} == {"ZSTD"}
    assert all(column.has_offset_index and column.has_column_index for column in columns.values())
    encodings = {name: set(column.encodings) - {"RLE"} for name, column in columns.items()}
    assert encodings["id"] == {"DELTA_LENGTH_BYTE_ARRAY"}
    assert encodings["n_tokens"] == {"DELTA_BINARY_PACKED"}
    assert encodings["mean_logprob"] == {"BYTE_STREAM_SPLIT"}
    assert encodings["logprob.list.element"] == {"BYTE_STREAM_SPLIT"}
    assert encodings["rank.list.element"] == {"PLAIN", "RLE_DICTIONARY"}  # the first, of its words
    assert read_shard(path).equals(rows)
    assert read_shard(path, ["rank", "id"]).column_names == ["rank", "id"]
    with pytest.raises(DataError, match=r"shard\.parquet: cannot be read.*position"):
        read_shard(path, ["position"])


@pytest.mark.parametrize("table", ["examples", "vocab", "tokens", "scores/base", "placements/x"])
def test_the_features_of_every_table_are_what_datasets_makes_of_its_columns(table: str) -> None:
    datasets = pytest.importorskip("datasets")
    schema = schema_of(table)
    plain = datasets.Features.from_arrow_schema(schema.remove_metadata())
    assert datasets.Features.from_arrow_schema(schema) == plain


def test_any_parquet_reader_reads_a_shard(root: Path) -> None:
    folder = open_version(root).folder
    path = str(folder / "scores/base" / SHARDS[0][1])
    expected = read_shard(Path(path)).to_pylist()

    duck = duckdb.sql(f"select id, n_tokens, logprob from '{path}'").fetchall()
    assert duck == [(row["id"], row["n_tokens"], row["logprob"]) for row in expected]
    every = pyarrow.dataset.dataset(folder / "scores/base", format="parquet").to_table()
    assert sorted(every["id"].to_pylist()) == ["a", "b", "c", "d"]
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(path)
    assert frame["id"].tolist() == ["a", "b"]
    assert frame["rank"][0].tolist() == [1, 2, 2, 2]


@pytest.mark.parametrize("table", ["examples", "vocab", "tokens", "scores/base", "placements/low"])
def test_duckdb_and_polars_read_every_column_of_a_table(root: Path, table: str) -> None:
    """Not every reader knows every encoding that pyarrow writes."""
    stored = open_version(root).table(table)
    expected = [row for shard in stored.shards for row in stored.read(shard).to_pylist()]
    paths = [str(path) for path in stored.paths()]
    reader = duckdb.connect().execute("select * from read_parquet(?)", [paths])
    names = [column[0] for column in reader.description or []]
    assert [dict(zip(names, row, strict=True)) for row in reader.fetchall()] == expected
    polars = pytest.importorskip("polars")
    assert polars.read_parquet(paths).to_dicts() == expected


def test_equal_rows_make_equal_bytes(tmp_path: Path) -> None:
    rows = pa.Table.from_pylist([ROW, dict.fromkeys(ROW), ROW], schema=KINDS)
    write_shard(tmp_path / "one", rows)
    write_shard(tmp_path / "two", pa.concat_tables([rows.slice(0, 1), rows.slice(1)]))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_shard_may_have_no_rows(tmp_path: Path) -> None:
    """A split of which no row could be used still has one shard, empty."""
    write_shard(tmp_path / "empty", schema_of("tokens").empty_table())
    rows = read_shard(tmp_path / "empty")
    assert rows.num_rows == 0 and rows.schema.equals(schema_of("tokens"))
    offsets, values = list_parts(rows, "prompt_ids")
    assert offsets.tolist() == [0] and values.tolist() == []


def test_a_damaged_or_missing_shard_is_named(tmp_path: Path) -> None:
    path = tmp_path / "shard.parquet"
    with pytest.raises(DataError, match=r"shard\.parquet: the shard is missing"):
        read_shard(path)
    # Floats that do not compress: nothing but the page's checksum tells that one was changed.
    floats = np.random.default_rng(0).random(500).tolist()
    write_shard(path, pa.Table.from_pylist([ROW | {"score": x} for x in floats], schema=KINDS))
    whole = path.read_bytes()
    group = pq.ParquetFile(path).metadata.row_group(0)
    (column,) = (
        group.column(k)
        for k in range(group.num_columns)
        if group.column(k).path_in_schema == "score"
    )
    for part in (0.25, 0.5, 0.75):
        damaged = bytearray(whole)
        damaged[column.data_page_offset + int(column.total_compressed_size * part)] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"shard\.parquet: cannot be read as Parquet"):
            read_shard(path)


def _placement(*ids: str) -> pa.Table:
    rows = [{"id": id, "position": [0], "count": [len(id)]} for id in ids]
    return pa.Table.from_pylist(rows, schema=schema_of("placements"))


@pytest.mark.parametrize(
    "written",
    [
        ["train 0", "train 1", "test 0"],  # in order: hashed as they are written
        ["test 0", "train 0", "train 1"],
        ["train 1", "train 0", "test 0"],
        ["train 0", "train 0", "train 1", "test 0"],  # once more after a stop
        ["train 0", "train 1", "train 0", "test 0"],
        ["train 0", "train 1", "train 1", "test 0"],
        ["train 1", "test 0", "| train 0"],  # some by another process (after |)
        ["train 0", "| train 1", "test 0"],
    ],
)
def test_a_staged_table_has_the_content_of_its_shards_whoever_wrote_them_in_whatever_order(
    tmp_path: Path, written: list[str]
) -> None:
    shards = {
        "train 0": ("train", "placements/x/train-00000-of-00002.parquet", _placement("a", "bb")),
        "train 1": ("train", "placements/x/train-00001-of-00002.parquet", _placement("ccc")),
        "test 0": ("test", "placements/x/test-00000-of-00001.parquet", _placement("d")),
    }
    stage = Stage(tmp_path)
    for name in written:
        if name.startswith("| "):
            stage = Stage(tmp_path)
        _, path, rows = shards[name.removeprefix("| ")]
        stage.write(path, rows)
    paths: list[tuple[str | None, str]] = [(split, path) for split, path, _ in shards.values()]
    entry = stage.table("placements/x", schema_of("placements"), paths, {}).entry

    content = ContentHash(schema_of("placements"))
    for split, _, rows in shards.values():
        content.update(split, rows)
    assert entry.content == content.hexdigest()
    assert [(s.split, s.rows, s.first_row) for s in entry.shards] == [
        ("train", 2, 0),
        ("train", 1, 2),
        ("test", 1, 0),
    ]
    for shard in entry.shards:
        assert shard.sha256 == hashlib.sha256((tmp_path / shard.path).read_bytes()).hexdigest()


def test_a_shard_written_again_with_other_rows_counts_as_it_is_now(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    path = "placements/x/train-00000-of-00001.parquet"
    stage.write(path, _placement("before"))
    stage.write(path, _placement("now", "and"))
    entry = stage.table("placements/x", schema_of("placements"), [("train", path)], {}).entry
    content = ContentHash(schema_of("placements"))
    content.update("train", _placement("now", "and"))
    assert (entry.content, entry.rows) == (content.hexdigest(), 2)


def test_list_parts_counts_from_the_slice_it_is_given() -> None:
    table = pa.table({"x": pa.array([[1], [2, 3], [], [4]], pa.list_(pa.int32()))})
    offsets, values = list_parts(table.slice(1, 3), "x")
    assert offsets.tolist() == [0, 2, 2, 3] and values.tolist() == [2, 3, 4]
    in_chunks = pa.concat_tables([table.slice(3), table.slice(0, 2)])
    offsets, values = list_parts(in_chunks, "x")
    assert offsets.tolist() == [0, 1, 2, 4] and values.tolist() == [4, 1, 2, 3]


@CHEAP
@given(st.lists(st.integers(0, 7), max_size=6), st.integers(1, 6))
def test_regrouping_cuts_the_same_rows_into_equal_portions(sizes: list[int], rows: int) -> None:
    numbers = iter(range(100))
    tables = [
        pa.table({"x": pa.array([next(numbers) for _ in range(n)], pa.int64())}) for n in sizes
    ]
    portions = [table["x"].to_pylist() for table in regrouped(tables, rows)]
    assert [x for portion in portions for x in portion] == list(range(sum(sizes)))
    assert all(len(portion) == rows for portion in portions[:-1])
    assert all(0 < len(portion) <= rows for portion in portions[-1:])


@pytest.mark.parametrize(
    ("examples", "tokens", "rows"),
    [
        # 250 tokens an example: 1,000 examples are the 250,000 tokens of a shard.
        (7_473, 7_473 * 250, 1_000),
        # Fewer tokens than one shard takes: more than all examples fit, so there is one shard.
        (64, 6_400, 2_500),
        # 10^9 tokens would be 4,000 shards: a thousand of 10^6 tokens instead.
        (1_000_000, 10**9, 1_000),
        # 10^11 tokens: ten million a shard at most, however many shards that makes.
        (1_000_000, 10**11, 100),
        # An example longer than a shard's budget still has a shard.
        (2, 10**9, 1),
        (0, 0, 1),
    ],
)
def test_a_shard_is_some_minutes_of_scoring(examples: int, tokens: int, rows: int) -> None:
    assert choose_shard_rows(examples, tokens) == rows


@CHEAP
@given(st.integers(1, 10**8), st.integers(1, 10**4))
def test_a_shard_holds_its_budget_and_no_more_than_one_example_beyond(
    examples: int, each: int
) -> None:
    rows = choose_shard_rows(examples, examples * each)
    assert rows >= 1
    assert SHARD_TOKENS <= rows * each < MOST_SHARD_TOKENS + each


def test_shards_are_named_as_datasets_and_the_hub_name_them() -> None:
    assert shard_name("train", 3, 12) == "train-00003-of-00012.parquet"


# The first version


def test_the_first_version_is_whole_and_the_pointer_names_it(root: Path) -> None:
    version = open_version(root)
    manifest = (root / "versions" / "0001" / "manifest.json").read_bytes()
    assert json.loads((root / "pausedata.json").read_text()) == {
        "format": "pausedata/1",
        "current": 1,
        "sha256": hashlib.sha256(manifest).hexdigest(),
    }
    assert (root / "current").is_symlink()
    assert (root / "current").readlink() == Path("versions/0001")
    assert version.number == 1 and version.manifest.parent is None
    assert list(version.manifest.tables) == [
        *("examples", "vocab", "tokens", "scores/base"),
        *("placements/low", "placements/spare", "exports/low-tokenized"),
    ]
    for table in version.tables.values():
        for entry in [*table.shards, *table.entry.files]:
            raw = (version.folder / entry.path).read_bytes()
            assert (len(raw), hashlib.sha256(raw).hexdigest()) == (entry.bytes, entry.sha256)
    assert [(s.split, s.rows, s.first_row) for s in version.table("tokens").shards] == [
        ("train", 2, 0),
        ("train", 1, 2),
        ("test", 1, 0),
    ]


def test_files_of_a_version_are_read_only(root: Path) -> None:
    for path in open_version(root).folder.rglob("*"):
        assert path.is_dir() or not path.stat().st_mode & 0o222, path


def test_the_manifest_is_valid_by_its_schema(root: Path) -> None:
    place(root, {"more": appended(1)})
    schema = manifest_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    for folder in sorted((root / "versions").iterdir()):
        jsonschema.validate(json.loads((folder / "manifest.json").read_text()), schema)

    broken = json.loads((root / "versions" / "0001" / "manifest.json").read_text())
    broken["tables"]["vocab"]["shards"][0]["path"] = "../../elsewhere.parquet"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)


def test_nothing_of_this_machine_stands_in_a_version(root: Path, original: Path) -> None:
    version = open_version(root)
    for name in ("manifest.json", "README.md"):
        text = (version.folder / name).read_text()
        assert str(original.parent) not in text and str(Path.home()) + "/" not in text


def test_what_is_committed_leaves_no_staging_behind(root: Path) -> None:
    place(root, {"more": appended(1)})
    left = [p.name for p in (root / "staging").iterdir()]
    assert left == ["commit.lock"]


# Later versions


def inodes(version: Version) -> dict[str, int]:
    return {
        path.relative_to(version.folder).as_posix(): path.stat().st_ino
        for path in version.folder.rglob("*.parquet")
    }


def test_a_version_shares_unchanged_files_with_its_parent(root: Path) -> None:
    first = open_version(root)
    outcome = place(root, {"more": appended(1)})
    second = outcome.version
    assert second.number == 2
    assert second.manifest.parent is not None
    assert (second.manifest.parent.version, second.manifest.parent.sha256) == (1, first.sha256)
    old, new = inodes(first), inodes(second)
    assert {path: new[path] for path in old} == old
    assert {path for path in new if path not in old} == {
        f"placements/more/{file}" for _, file, _ in SHARDS
    }
    assert outcome.copied == 0
    assert (root / "current").readlink() == Path("versions/0002")


def test_where_links_are_not_to_be_had_files_are_copied_and_counted(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "no links on this file system")

    monkeypatch.setattr(os, "link", refuse)
    outcome = place(root, {"more": appended(1)})
    entries = [
        entry
        for table in outcome.version.tables.values()
        for entry in [*table.shards, *table.entry.files]
    ]
    assert outcome.copied == sum(entry.bytes for entry in entries)
    for entry in entries:
        full = outcome.version.folder / entry.path
        assert files.sha256_of(full) == entry.sha256 and not full.stat().st_mode & 0o222


def test_an_old_version_can_be_deleted_without_harm_to_the_next(root: Path) -> None:
    place(root, {"more": appended(1)})
    shutil.rmtree(root / "versions" / "0001")
    version = open_version(root)
    for table in version.tables.values():
        assert sum(table.read(shard).num_rows for shard in table.shards) == table.entry.rows


def test_numbers_are_never_used_twice(root: Path) -> None:
    assert place(root, {"x": appended(1)}).version.number == 2
    assert place(root, {"y": appended(2)}).version.number == 3
    shutil.rmtree(root / "versions" / "0001")
    shutil.rmtree(root / "versions" / "0002")
    assert place(root, {"z": appended(3)}).version.number == 4


def test_doing_the_same_again_commits_nothing(root: Path) -> None:
    first = place(root, {"more": appended(1)})
    again = place(root, {"more": appended(1)})
    assert first.committed and not again.committed
    assert again.kept[0] == "placements/more"
    assert version_numbers(root) == [1, 2]


def test_a_reader_stays_with_the_version_that_it_opened(root: Path) -> None:
    reader = open_version(root)
    place(root, {"low": appended(7)}, replace=True)
    assert open_version(root).number == 2
    shard = reader.table("placements/low").shards[0]
    assert reader.table("placements/low").read(shard)["count"].to_pylist() == [[2], [2]]
    assert open_version(root, 1).sha256 == reader.sha256


# Kills


class Killed(BaseException):
    """What stands for a kill: nothing in the store catches it to go on."""


def states_seen(root: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any]) -> set[Any]:
    """What a reader sees before and after every step that a commit takes on the disk."""
    seen = set()

    def watched(step: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **named: Any) -> Any:
            look()
            result = step(*args, **named)
            look()
            return result

        return run

    def look() -> None:
        version = open_version(root)
        for table in version.tables.values():
            assert all(path.is_file() for path in table.paths())
        seen.add((version.number, tuple(version.placements)))

    for holder, name in (
        (os, "link"),
        (Path, "rename"),
        (Path, "replace"),
        (Path, "chmod"),
        (Path, "symlink_to"),
        (os, "fsync"),
    ):
        monkeypatch.setattr(holder, name, watched(getattr(holder, name)))
    act()
    monkeypatch.undo()
    return seen


def test_a_reader_sees_the_old_version_or_the_new_one_at_every_step(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 6."""
    seen = states_seen(root, monkeypatch, lambda: place(root, {"more": appended(1)}))
    assert seen == {(1, ("low", "spare")), (2, ("low", "spare", "more"))}


@pytest.mark.parametrize(
    ("holder", "step", "every"),
    [(os, "link", 11), (os, "fsync", 15), (Path, "rename", 1), (Path, "replace", 3)],
)
def test_a_kill_anywhere_loses_nothing_and_the_next_command_goes_on(
    original: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    holder: Any,
    step: str,
    every: int,
) -> None:
    """Killed at the first such step, at a later one, and so on until the command gets through."""
    for nth in itertools.count(1, every):
        root = shutil.copytree(original, tmp_path / str(nth), symlinks=True)
        real, calls = getattr(holder, step), itertools.count(1)

        def kill(
            *args: Any, real: Any = real, calls: Any = calls, nth: int = nth, **named: Any
        ) -> Any:
            if next(calls) == nth:
                raise Killed
            return real(*args, **named)

        with monkeypatch.context() as patch:
            patch.setattr(holder, step, kill)
            try:
                place(root, {"more": appended(1)})
                assert nth > 1
                return
            except Killed:
                pass
        assert open_version(root).number in (1, 2)
        after = place(root, {"more": appended(1)}).version
        assert (after.number, after.placements) == (2, ["low", "spare", "more"])
        assert version_numbers(root) == [1, 2]


def test_a_kill_between_rename_and_pointer_is_finished_by_the_next_writer(root: Path) -> None:
    pointer = (root / "pausedata.json").read_bytes()
    place(root, {"more": appended(1)})
    (root / "pausedata.json").write_bytes(pointer)  # as if the kill had come before it was written

    assert open_version(root).number == 1  # readers see the old one until a writer comes
    recovered = current_version(root)
    assert recovered is not None and recovered.number == 2
    assert open_version(root).number == 2
    assert place(root, {"third": appended(2)}).version.number == 3


def test_a_first_version_that_no_pointer_names_yet_is_finished_too(root: Path) -> None:
    (root / "pausedata.json").unlink()
    (root / "current").unlink()
    with pytest.raises(UsageError, match="not a pausedata dataset"):
        open_version(root)
    recovered = current_version(root)
    assert recovered is not None and recovered.number == 1
    assert open_version(root).sha256 == recovered.sha256


def test_a_next_number_with_another_parent_is_left_alone_and_never_taken(root: Path) -> None:
    """As after a pointer that was put back by hand: 0002 does not come from what is current."""
    place(root, {"more": appended(1)})
    foreign = root / "versions" / "0002" / "manifest.json"
    data = json.loads(foreign.read_text())
    data["parent"]["sha256"] = "0" * 64
    rewrite(foreign, json.dumps(data))
    first = root / "versions" / "0001" / "manifest.json"
    point_at(root, 1, hashlib.sha256(first.read_bytes()).hexdigest())

    assert place(root, {"other": appended(2)}).version.number == 3
    assert open_version(root).placements == ["low", "spare", "other"]
    assert json.loads(foreign.read_text()) == data


def test_a_number_that_another_machine_took_is_a_conflict(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where locks do not reach, the rename is the check: it never replaces a version."""
    taken = root / "versions" / "0002"
    shutil.copytree(root / "versions" / "0001", taken)
    monkeypatch.setattr(commit_module, "version_numbers", lambda root: [])
    with pytest.raises(ConflictError, match="version 2 was taken by another writer"):
        place(root, {"more": appended(1)})
    assert open_version(root).number == 1
    assert not list((root / "staging").glob("commit-*"))


def test_what_a_kill_left_in_staging_is_never_read(root: Path) -> None:
    shutil.copytree(root / "versions" / "0001", root / "staging" / "commit-left")
    shutil.copytree(root / "versions" / "0001" / "placements", root / "staging" / "placements-x")
    assert open_version(root).number == 1
    version = place(root, {"more": appended(1)}).version
    assert version.number == 2
    assert all(table.folder == version.folder for table in version.tables.values())


def test_a_step_whose_files_are_staged_and_whole_need_not_be_made_again(tmp_path: Path) -> None:
    rows = pa.Table.from_pylist([ROW], schema=KINDS)
    before = Staging(tmp_path)
    stage = before.stage("scores/base", {"model": "m"})
    assert stage.finished("x.parquet") is None
    stage.write("x.parquet", rows, {"seconds": 2})
    before.close()
    now = Staging(tmp_path)
    stage = now.stage("scores/base", {"model": "m"})
    record = stage.finished("x.parquet")
    assert record is not None and record["seconds"] == 2
    (stage.folder / "x.parquet").write_bytes(b"PAR1 cut off")
    assert stage.finished("x.parquet") is None
    other = now.stage("scores/base", {"model": "another"})
    assert other.finished("x.parquet") is None  # other inputs, another folder


def test_a_step_is_one_process_alone(tmp_path: Path) -> None:
    ours, theirs = Staging(tmp_path), Staging(tmp_path)
    ours.stage("scores/base", {})
    ours.stage("scores/base", {})  # as often as we like
    said = rf"process \(process {os.getpid()}, since .*\) is making 'scores/base'"
    with pytest.raises(BusyError, match=said):
        theirs.stage("scores/base", {})
    theirs.stage("scores/base", {"other": "inputs"})
    ours.close()
    theirs.stage("scores/base", {})


def test_who_waits_goes_on_when_the_stage_is_let_go(tmp_path: Path) -> None:
    ours, theirs = Staging(tmp_path), Staging(tmp_path)
    ours.stage("scores/base", {})
    with pytest.raises(BusyError) as busy:
        theirs.stage("scores/base", {})
    waiting = threading.Thread(target=busy.value.wait)
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    ours.close()
    waiting.join(30)
    assert not waiting.is_alive()


def test_discarding_removes_the_folders_of_what_was_committed(tmp_path: Path) -> None:
    staging = Staging(tmp_path)
    tables = stage_corpus(tmp_path, staging=staging)
    folder = stage_folder(tmp_path, "tokens", {"handmade": ""})
    other = stage_folder(tmp_path, "scores/base", {})
    other.mkdir()
    assert folder.is_dir()
    staging.discard(tables)
    assert list((tmp_path / "staging").iterdir()) == [other]


# Two writers


def test_a_second_writer_is_rebased_on_the_first(root: Path) -> None:
    """Both work from version 1; what they add can stand side by side."""
    base = open_version(root)
    slow, quick = Transaction(root, base, Silent()), Transaction(root, base, Silent())
    add_placement(slow, "slow", appended(1))
    add_placement(quick, "quick", appended(2))
    assert quick.commit("place quick").version.number == 2
    version = slow.commit("place slow").version
    assert version.number == 3
    assert version.manifest.parent is not None and version.manifest.parent.version == 2
    assert version.placements == ["low", "spare", "quick", "slow"]


def test_an_export_that_is_rebased_names_the_number_that_it_got(root: Path) -> None:
    base = open_version(root)
    slow = Transaction(root, base, Silent())
    add_export(slow, "more", Export(placement="spare", format="tokenized"))
    place(root, {"quick": appended(2)})
    version = slow.commit("export more").version
    meta = json.loads((version.folder / "exports" / "more" / "train.meta.json").read_text())
    assert meta["version"] == version.number == 3


def test_two_writers_of_one_name_conflict_and_nothing_is_lost(root: Path) -> None:
    base = open_version(root)
    slow = Transaction(root, base, Silent())
    add_placement(slow, "more", appended(1))
    place(root, {"more": appended(2)})
    with pytest.raises(ConflictError, match="'placements/more' was changed by another writer"):
        slow.commit("place more")
    version = open_version(root)
    assert version.number == 2 and version_numbers(root) == [1, 2]
    shard = version.table("placements/more").shards[0]
    assert version.table("placements/more").read(shard)["count"].to_pylist() == [[2], [2]]
    # What was made is still staged, for the command that is run again.
    assert slow.made["placements/more"].paths()[0].is_file()


def test_a_placement_of_examples_that_another_writer_replaced_conflicts(root: Path) -> None:
    base = open_version(root)
    slow = Transaction(root, base, Silent())
    add_placement(slow, "more", appended(1))
    replaced = {table.name: table for table in stage_corpus(root, said="otherwise")}
    commit(root, base, Change("build", tables={"examples": replaced["examples"]}), card)
    with pytest.raises(ConflictError, match="'examples' was changed by another writer"):
        slow.commit("place more")
    assert open_version(root).number == 2


def test_a_placement_from_scores_that_another_writer_removed_conflicts(root: Path) -> None:
    base = open_version(root)
    slow = Transaction(root, base, Silent())
    lowest = Placement(strategy="lowest_logprob", positions=2)  # type: ignore[call-arg]
    add_placement(slow, "more", lowest)
    removed = frozenset({"scores/base", "placements/low", "placements/spare"})
    exports = frozenset({"exports/low-tokenized"})
    commit(root, base, Change("rm", tables={}, removed=removed | exports), card)
    with pytest.raises(ConflictError, match="'scores/base' was changed"):
        slow.commit("place more")


def test_a_placement_that_another_writer_added_keeps_its_examples(root: Path) -> None:
    """New examples while another places pauses in the old ones: they would not fit together."""
    base = open_version(root)
    replaced = {table.name: table for table in stage_corpus(root, said="otherwise")}
    place(root, {"more": appended(1)})
    with pytest.raises(ConflictError, match="'placements/more' was made from 'tokens'"):
        commit(root, base, Change("build --replace", tables=replaced), card)
    assert open_version(root).number == 2


@pytest.mark.parametrize("remake", [True, False])
def test_what_another_writer_made_from_a_table_keeps_that_table(root: Path, remake: bool) -> None:
    """One replaces (removes) a placement while another exports it: the export must not dangle."""
    base = open_version(root)
    slow = Transaction(root, base, Silent())
    if remake:
        add_placement(slow, "spare", appended(9))
    else:
        slow.drop("placements/spare", "no longer wanted")
    export(root, "spare-rows", Export(placement="spare", format="tokenized"))
    with pytest.raises(
        ConflictError, match="'exports/spare-rows' was made from 'placements/spare'"
    ):
        slow.commit("place spare")
    version = open_version(root)
    assert version.number == 2 and "spare-rows" in version.exports


def test_two_first_versions_do_not_overwrite_each_other(tmp_path: Path) -> None:
    commit_handmade(tmp_path / "data")
    with pytest.raises(ConflictError):
        commit_handmade(tmp_path / "data")  # from no version, as a second process would
    assert version_numbers(tmp_path / "data") == [1]


def test_many_writers_at_once_all_get_in(root: Path) -> None:
    base = open_version(root)
    works = []
    for k in range(6):
        work = Transaction(root, base, Silent())
        add_placement(work, f"writer-{k}", appended(k + 1))
        works.append(work)
    threads = [threading.Thread(target=work.commit, args=("place",)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    version = open_version(root)
    assert version_numbers(root) == list(range(1, 8)) and version.number == 7
    assert sorted(version.placements[2:]) == [f"writer-{k}" for k in range(6)]


# Folders and files that are not what they should be


def rewrite(path: Path, text: str) -> None:
    path.unlink()  # files of a version are read-only
    path.write_text(text)


def point_at(root: Path, number: int, sha256: str) -> None:
    pointer = {"format": "pausedata/1", "current": number, "sha256": sha256}
    rewrite(root / "pausedata.json", json.dumps(pointer))


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    for name in ("thesis.tex", "a.txt", "b.txt", "c.txt"):
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match=r"holds something else \(a\.txt, b\.txt, c\.txt …\)"):
        prepare_folder(tmp_path)
    assert not (tmp_path / "staging").exists()


def test_a_file_where_the_dataset_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("here")
    with pytest.raises(UsageError, match="is a file; a dataset is a folder"):
        prepare_folder(tmp_path / "data")
    with pytest.raises(UsageError, match="not a pausedata dataset"):
        open_version(tmp_path / "data")


def test_a_dataset_or_an_unfinished_one_or_an_empty_folder_is_taken(
    root: Path, tmp_path: Path
) -> None:
    (root / "notes.txt").touch()  # beside a dataset a person may keep what they like
    for folder in (root, tmp_path / "new", tmp_path / "new"):
        prepare_folder(folder)
        assert (folder / "staging").is_dir()


def test_what_is_not_there_is_said(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        open_version(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"no version 9\. There: 1\."):
        open_version(root, 9)
    with pytest.raises(UsageError, match=r"no run 'bsae'\. Did you mean 'base'\? There: 'base'\."):
        open_version(root).table("scores/bsae")
    prepare_folder(tmp_path / "started")
    with pytest.raises(UsageError, match="first build is unfinished"):
        open_version(tmp_path / "started")


@pytest.mark.parametrize(
    "newer", [{"format": "pausedata/2"}, {"format": "pausedata/1", "min_reader": 2}]
)
def test_a_newer_format_is_refused_with_the_upgrade_to_run(
    root: Path, newer: dict[str, Any]
) -> None:
    pointer = json.loads((root / "pausedata.json").read_text())
    rewrite(root / "pausedata.json", json.dumps(pointer | newer))
    with pytest.raises(DataError, match="Upgrade: pip install -U pausedata"):
        open_version(root)
    rewrite(root / "pausedata.json", json.dumps(pointer))
    manifest = root / "versions" / "0001" / "manifest.json"
    rewrite(manifest, json.dumps(json.loads(manifest.read_text()) | newer))
    point_at(root, 1, files.sha256_of(manifest))
    with pytest.raises(DataError, match=r"manifest\.json: format .*Upgrade: pip install -U"):
        open_version(root)


def test_what_a_later_release_adds_to_a_manifest_is_kept(root: Path) -> None:
    manifest = root / "versions" / "0001" / "manifest.json"
    data = json.loads(manifest.read_text())
    data["tables"]["vocab"]["added_later"] = {"x": 1}
    rewrite(manifest, json.dumps(data))
    point_at(root, 1, files.sha256_of(manifest))
    version = place(root, {"more": appended(1)}).version
    again = json.loads((version.folder / "manifest.json").read_text())
    assert again["tables"]["vocab"]["added_later"] == {"x": 1}


DAMAGE = [
    b"",
    b"{",
    b"\xff\xfe",
    b"[]",
    b"null",
    b"{}",
    b'{"format": "other"}',
    b'{"format": "pausedata/1"}',
    b'{"format": "pausedata/1", "min_reader": "x"}',
    b'{"format": "pausedata/1", "min_reader": null}',
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_pointer_is_a_data_error(root: Path, damage: bytes) -> None:
    (root / "pausedata.json").write_bytes(damage)
    for read in (open_version, current_version):
        with pytest.raises(DataError, match=r"pausedata\.json: damaged: "):
            read(root)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_manifest_is_a_data_error(root: Path, damage: bytes) -> None:
    manifest = root / "versions" / "0001" / "manifest.json"
    whole = manifest.read_bytes()
    manifest.unlink()
    manifest.write_bytes(damage)
    with pytest.raises(DataError, match=r"manifest\.json: its sha256 is not the one"):
        open_version(root)
    point_at(root, 1, hashlib.sha256(damage).hexdigest())
    with pytest.raises(DataError, match=r"manifest\.json: damaged: "):
        open_version(root)
    manifest.unlink()
    with pytest.raises(DataError, match=r"manifest\.json: cannot be read"):
        open_version(root)
    manifest.write_bytes(whole)


def test_a_manifest_names_only_files_of_its_own_folder(root: Path) -> None:
    manifest = root / "versions" / "0001" / "manifest.json"
    data = json.loads(manifest.read_text())
    for path in ("/etc/passwd", "../0002/x.parquet", "a/../../x", "a\\b", "./x", "a//b", ""):
        data["tables"]["vocab"]["shards"][0]["path"] = path
        rewrite(manifest, json.dumps(data))
        point_at(root, 1, files.sha256_of(manifest))
        with pytest.raises(DataError, match=r"damaged: tables\.vocab\.shards\.0\.path"):
            open_version(root)


def test_the_pointer_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pausedata.json"
    files.write_json(path, {"current": 1})

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_json(path, {"current": 2})
    assert json.loads(path.read_text()) == {"current": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_tables_are_read_side_by_side(root: Path) -> None:
    version = open_version(root)
    found = [
        (shard.split, id, len(logprobs))
        for shard, (tokens, scores) in aligned(version, "tokens", "scores/base")
        for id, logprobs in zip(
            tokens["id"].to_pylist(), scores["logprob"].to_pylist(), strict=True
        )
    ]
    assert found == [(split, id, len(response)) for id, split, _, _, _, response, _ in EXAMPLES]
    assert np.isclose(
        version.table("scores/base")
        .read(version.table("scores/base").shards[0])["logprob"][0][1]
        .as_py(),
        -4.158883,
    )  # ln 1/64
