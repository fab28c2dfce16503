"""``hf-disk``: the rows of ``tokenized`` in the folder that ``datasets.load_from_disk`` opens."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from conftest import Recipe, Run, in_ci, start
from handmade import commit_handmade
from hypothesis import given, settings
from hypothesis import strategies as st
from small_dataset import make_dataset
from test_exports import TEST, TRAIN
from test_properties import EXAMPLES, PLACEMENTS, exported, stored

from pausedata.analysis.verify import verify
from pausedata.core.errors import UsageError
from pausedata.core.progress import Silent
from pausedata.exporters import hf_disk
from pausedata.pipeline.commands import export
from pausedata.pipeline.recipe import Export
from pausedata.store.dataset import Version, open_version

HF = Export(placement="low", format="hf-disk")
ROWS = {
    "train": [json.loads(line) for line in TRAIN],
    "test": [json.loads(line) for line in TEST],
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hf-disk") / "data"
    commit_handmade(root)
    export(root, "low-hf", HF)
    return root


@pytest.fixture
def root(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "data", symlinks=True)


@pytest.fixture
def version(original: Path) -> Version:
    return open_version(original)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file with its bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# What it writes


def test_load_from_disk_gives_the_rows_of_tokenized(version: Version) -> None:
    loaded = datasets.load_from_disk(str(version.folder / "exports" / "low-hf" / "hf"))
    assert isinstance(loaded, datasets.DatasetDict)
    assert {split: list(rows) for split, rows in loaded.items()} == ROWS
    integers = datasets.List(datasets.Value("int32"))
    assert loaded["train"].features == datasets.Features(
        {
            "input_ids": integers,
            "attention_mask": datasets.List(datasets.Value("int8")),
            "labels": integers,
        }
    )
    assert str(loaded["test"].split) == "test"


def test_one_split_can_be_loaded_alone(version: Version) -> None:
    folder = version.folder / "exports" / "low-hf" / "hf" / "train"
    assert list(datasets.load_from_disk(str(folder))) == ROWS["train"]


def test_the_files_are_named_as_datasets_names_them(version: Version) -> None:
    of_split = ("data-00000-of-00001.arrow", "dataset_info.json", "state.json")
    files = {f.path for f in version.table("exports/low-hf").entry.files}
    assert files == {
        "exports/low-hf/hf/dataset_dict.json",
        *(f"exports/low-hf/hf/{split}/{name}" for split in ROWS for name in of_split),
        *(f"exports/low-hf/{split}.meta.json" for split in ROWS),
        "exports/low-hf/README.md",
    }


def test_the_shards_and_the_meta_file_are_those_of_tokenized(version: Version) -> None:
    """But for the format's name, and the version in which it was made."""
    hf, jsonl = (version.table(f"exports/{name}") for name in ("low-hf", "low-tokenized"))
    assert hf.entry.content == jsonl.entry.content
    metas = [
        json.loads((version.folder / table.name / "train.meta.json").read_text())
        for table in (hf, jsonl)
    ]
    assert metas[0] == metas[1] | {"format": "hf-disk", "version": 2}
    assert metas[0]["pause_label_masked"] is True


def test_no_rows_are_a_split_all_the_same(tmp_path: Path) -> None:
    shards: Any = [("train", 0, 1, []), ("test", 0, 1, [])]
    make_dataset(tmp_path / "data", shards=shards)
    folder = export(tmp_path / "data", "e", Export(placement="three", format="hf-disk"))
    loaded = datasets.load_from_disk(str(folder.version.folder / "exports" / "e" / "hf"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 0, "test": 0}
    assert verify(folder.version, Silent()) == []


def test_large_splits_are_several_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hf_disk, "BATCH_ROWS", 2)
    monkeypatch.setattr(hf_disk, "FILE_BYTES", 1)
    commit_handmade(tmp_path / "data")
    version = export(tmp_path / "data", "low-hf", HF).version
    folder = version.folder / "exports" / "low-hf" / "hf"
    arrow = sorted(path.name for path in (folder / "train").glob("*.arrow"))
    assert arrow == ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    assert list(datasets.load_from_disk(str(folder))["train"]) == ROWS["train"]
    assert verify(version, Silent()) == []


# Its bytes


@settings(max_examples=in_ci(25), deadline=None)
@given(examples=EXAMPLES, chosen=PLACEMENTS, each=st.integers(1, 12))
def test_bytes_depend_on_no_shards_folder_or_moment(
    examples: list[Any], chosen: Any, each: int
) -> None:
    """Invariant 4. And invariant 1: without its pauses a row is the original tokens."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        whole = exported(Path(one), stored(Path(one), examples, len(examples)), chosen, "hf-disk")
        parts = exported(Path(other), stored(Path(other), examples, each), chosen, "hf-disk")
        assert tree(whole.folder / "exports/e/hf") == tree(parts.folder / "exports/e/hf")
        rows = list(datasets.load_from_disk(str(parts.folder / "exports/e/hf"))["train"])
        for row, (prompt, response) in zip(rows, examples, strict=True):
            kept = [token for token in row["input_ids"] if token != 16]
            assert kept == prompt + [token for token, _ in response]


def test_the_fingerprint_follows_from_the_rows(version: Version, tmp_path: Path) -> None:
    """`datasets` finds by it what it cached: equal rows, equal fingerprints; others, others."""
    hf = version.folder / "exports" / "low-hf" / "hf"
    fingerprints = {
        split: json.loads((hf / split / "state.json").read_text())["_fingerprint"] for split in ROWS
    }
    assert fingerprints["train"] != fingerprints["test"]
    commit_handmade(tmp_path / "again")
    again = export(tmp_path / "again", "low-hf", HF).version.folder / "exports" / "low-hf" / "hf"
    assert tree(again) == tree(hf)


# verify


def change_arrow(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    with pa.OSFile(str(path)) as source:
        rows = pa.ipc.open_stream(source).read_all()
    path.unlink()
    changed = change(rows)
    with path.open("wb") as sink, pa.ipc.new_stream(sink, changed.schema) as stream:
        stream.write_table(changed)


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows.slice(0, 2),
        lambda rows: rows.take([1, 0, 2]),
        lambda rows: pa.concat_tables([rows, rows.slice(2)]),
        lambda rows: rows.drop_columns("labels"),
    ],
    ids=["fewer", "swapped", "more", "a column less"],
)
def test_verify_compares_the_arrow_files_with_the_shards(
    root: Path, change: Callable[[pa.Table], pa.Table]
) -> None:
    """Though every checksum fits."""
    hf = open_version(root).folder / "exports" / "low-hf" / "hf"
    change_arrow(hf / "train" / "data-00000-of-00001.arrow", change)
    seal(root)
    assert verify(open_version(root), Silent()) == [
        "exports/low-hf/hf/train: does not hold the rows of the shards",
        "exports/low-hf/hf/train/state.json: does not fit the Arrow files",
    ]


@pytest.mark.parametrize(
    ("path", "text", "told"),
    [
        ("dataset_dict.json", '{"splits": ["train"]}', "does not list the splits"),
        ("train/dataset_info.json", "{}", "does not name the columns' types"),
        ("test/state.json", '{"_data_files": []}', "does not fit the Arrow files"),
        ("test/state.json", "{", "unreadable: "),
    ],
)
def test_verify_reads_the_json_beside_them(root: Path, path: str, text: str, told: str) -> None:
    file = open_version(root).folder / "exports" / "low-hf" / "hf" / path
    file.unlink()
    file.write_text(text)
    seal(root)
    found = verify(open_version(root), Silent())
    assert any(line.startswith(f"exports/low-hf/hf/{path}: {told}") for line in found), found


def seal(root: Path) -> None:
    """Make the checksums of version 2 fit the files."""
    from pausedata.store.files import sha256_of

    path = open_version(root).folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for entry in manifest["tables"]["exports/low-hf"]["files"]:
        full = path.parent / entry["path"]
        entry.update(bytes=full.stat().st_size, sha256=sha256_of(full))
    path.unlink()
    path.write_text(json.dumps(manifest))
    pointer = json.loads((root / "pausedata.json").read_text()) | {"sha256": sha256_of(path)}
    (root / "pausedata.json").write_text(json.dumps(pointer))


# The command line


def test_export_into_the_dataset_says_how_to_load_it(
    run: Callable[..., Run], tmp_path: Path
) -> None:
    commit_handmade(tmp_path / "data")
    done = run("export", tmp_path / "data", "--placement", "low", "--format", "hf-disk")
    assert done.status == 0, done.err
    folder = tmp_path / "data" / "versions" / "0002" / "exports" / "low-hf-disk" / "hf"
    assert f'rows = load_from_disk("{folder}")["train"]' in done.out
    assert "tokenized_path" in done.out
    rows: dict[str, Any] = {}
    exec(done.out.split("tokenizer.add_tokens")[0], rows)
    assert list(rows["rows"]) == ROWS["train"]


def test_export_outside_is_the_same_folder_with_the_meta_files(
    run: Callable[..., Run], root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ("export", root, "--placement", "low", "--format", "hf-disk", "-o", out, "--json")
    done = run(*words)
    assert json.loads(done.out)["files"] == [str(out)]
    inside = open_version(root).folder / "exports" / "low-hf"
    metas = {"README.md", *(f"{split}.meta.json" for split in ROWS)}
    assert {n: b for n, b in tree(out).items() if n not in metas} == tree(inside / "hf")
    assert metas <= set(tree(out))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    first = tree(out)
    assert run(*words).status == 0  # one of ours is replaced
    assert tree(out) == first


def test_one_split_outside_replaces_what_was_there(
    run: Callable[..., Run], root: Path, tmp_path: Path
) -> None:
    words = ("export", root, "--placement", "low", "--format", "hf-disk", "-o", tmp_path / "out")
    assert run(*words).status == 0
    assert run(*words, "--split", "test").status == 0
    loaded = datasets.load_from_disk(str(tmp_path / "out"))
    assert {split: list(rows) for split, rows in loaded.items()} == {"test": ROWS["test"]}


def test_a_jsonl_file_is_refused_with_what_to_do(
    run: Callable[..., Run], root: Path, tmp_path: Path
) -> None:
    file = tmp_path / "train.jsonl"
    done = run("export", root, "--placement", "low", "--format", "hf-disk", "-o", file)
    assert done.status == 2
    assert "hf-disk writes a folder" in done.err and "--format tokenized" in done.err
    assert not file.exists()


@pytest.mark.parametrize("kind", ["a file in it", "another DatasetDict", "more beside ours"])
def test_a_folder_with_something_else_is_left_alone(
    run: Callable[..., Run], root: Path, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "out"
    words = ("export", root, "--placement", "low", "--format", "hf-disk", "-o", out)
    if kind == "another DatasetDict":
        rows = datasets.Dataset.from_dict({"x": [1]})
        datasets.DatasetDict({"train": rows}).save_to_disk(str(out))
    elif kind == "more beside ours":
        assert run(*words).status == 0
        (out / "notes.txt").write_text("mine")
    else:
        out.mkdir()
        (out / "notes.txt").write_text("mine")
    before = tree(out)
    done = run(*words)
    assert done.status == 2
    assert "holds something else" in done.err
    assert tree(out) == before


def test_an_empty_folder_is_filled(run: Callable[..., Run], root: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    words = ("export", root, "--placement", "low", "--format", "hf-disk", "-o", tmp_path / "out")
    assert run(*words).status == 0
    assert list(datasets.load_from_disk(str(tmp_path / "out"))["test"]) == ROWS["test"]


@pytest.mark.processes
def test_a_kill_leaves_no_half_folder(root: Path, tmp_path: Path) -> None:
    """Killed where all but the last file is written: the folder is not there; nor is a later
    export hindered by what is beside it."""
    first = (
        "import os, signal\n"
        "from pausedata.exporters import hf_disk\n"
        "write = hf_disk._write_text\n"
        "def killed(path, text):\n"
        "    if path.name == hf_disk.INDEX: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    write(path, text)\n"
        "hf_disk._write_text = killed\n"
    )
    words = ("export", root, "--placement", "low", "--format", "hf-disk", "-o", tmp_path / "out")
    process = start(*words, first=first)
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    process = start(*words)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert list(datasets.load_from_disk(str(tmp_path / "out"))["train"]) == ROWS["train"]


def test_a_failed_swap_puts_the_old_folder_back(
    monkeypatch: pytest.MonkeyPatch, run: Callable[..., Run], root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ("export", root, "--placement", "low", "--format", "hf-disk", "-o", out)
    assert run(*words).status == 0
    before = tree(out)
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name.endswith(".tmp") and Path(target).name == "out":
            raise OSError(os.strerror(5))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    assert run(*words).status == 1
    assert tree(out) == before


def test_formats_lists_it(run: Callable[..., Run]) -> None:
    described = {entry["name"]: entry for entry in json.loads(run("formats", "--json").out)}
    assert "LLaMA-Factory" in described["hf-disk"]["readers"]
    options = {option["name"]: option for option in described["hf-disk"]["options"]}
    assert options["pause_label"]["default"] == "ignore"
    assert options["pack"]["default"] is None


def test_a_recipe_can_ask_for_it(recipe: Recipe) -> None:
    recipe.data["exports"]["dit-hf"] = {"placement": "dit", "format": "hf-disk"}
    version = recipe.build().version
    loaded = datasets.load_from_disk(str(version.folder / "exports" / "dit-hf" / "hf"))
    jsonl = version.folder / "exports" / "dit-tokenized" / "train.jsonl"
    assert list(loaded["train"]) == [json.loads(line) for line in jsonl.read_text().splitlines()]
    assert verify(version, Silent()) == []
    with pytest.raises(UsageError, match="Did you mean 'hf-disk'"):
        recipe.data["exports"]["dit-hf"]["format"] = "hf-disc"
        recipe.build()
