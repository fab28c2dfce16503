"""Older datasets, newer datasets: what every release reads, keeps and refuses.

tests/data/pausedata-1 was made once, by release 0.1.0 (make_compat.py), and stays as it is. What
a later release may add is added by hand here, to datasets of today.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
import reader
from conftest import ROOT, Recipe, Run, write_rows
from handmade import commit_handmade
from test_verify import edit_manifest, reseal

import pausedata
from pausedata.analysis.verify import verify
from pausedata.core.errors import DataError, UsageError
from pausedata.core.progress import Silent
from pausedata.pipeline.commands import export, place
from pausedata.pipeline.recipe import Export, Placement
from pausedata.store.dataset import Version, open_version
from pausedata.store.files import sha256_of
from pausedata.store.shards import read_shard, write_shard

KEPT = ROOT / "tests" / "data" / "pausedata-1"
LOWEST = Placement(strategy="lowest_logprob", positions=2, tokens=2)  # type: ignore[call-arg]
APPEND = Placement(strategy="append", tokens=1)  # type: ignore[call-arg]


# A dataset of release 0.1.0


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A copy to write to."""
    return shutil.copytree(KEPT, tmp_path / "kept", symlinks=True)


def test_a_dataset_of_the_first_release_opens() -> None:
    data = pausedata.open(KEPT)
    assert (data.version, data.manifest.created_by) == (2, "pausedata 0.1.0")
    assert data.manifest.name == "pausedata-1"
    assert data.splits == ["train", "test"]
    assert data.runs == ["base", "epoch-1"]
    assert data.placement_names == ["dit", "dit-epoch-1"]
    assert data.export_names == ["dit-rows", "dit-hf"]
    assert data.manifest.rows["train"].dropped == {"null": 1}
    assert data.examples.to_table(columns=["id"])["id"].to_pylist() == ["e1", "e2", "e3", "e4"]
    assert data.scores("epoch-1").to_table()["logprob"].to_pylist()[0] == [
        *(-0.125, -1.5, -0.25, -3.0, -0.5)
    ]
    assert data.placements("dit").to_table()["position"].to_pylist() == [
        *([1, 3], [0, 2], [0, 1], [0, 1])
    ]


def test_it_is_whole() -> None:
    progress = Silent()
    assert verify(open_version(KEPT), progress) == []
    assert progress.warnings == []


def test_it_answers_in_sql(run: Callable[..., Run]) -> None:
    query = (
        "SELECT id, run, pos, token, logprob, rank FROM tokens WHERE logprob < -2.75 "
        "ORDER BY logprob, run"
    )
    rows = json.loads(run("sql", KEPT, query, "--format", "json").out)
    assert [list(row.values()) for row in rows] == [
        ["e2", "base", 1, "🙂(2)", -12.0, 900],
        ["e2", "epoch-1", 2, ".", -12.0, None],
        ["e2", "base", 0, " 🙂", -9.0, 500],
        ["e2", "epoch-1", 3, "<eos>", -9.0, None],
        ["e4", "base", 1, "<eos>", -6.5, 33],
        ["e4", "epoch-1", 0, " 4", -6.5, None],
        ["e1", "base", 1, " sum", -3.0, 9],
        ["e1", "epoch-1", 3, " 4", -3.0, None],
    ]
    pauses = "SELECT pos, count, token, logprob FROM pauses WHERE placement = 'dit' AND id = 'e1'"
    rows = json.loads(run("sql", KEPT, pauses, "--format", "json").out)
    assert [list(row.values()) for row in rows] == [[1, 2, " sum", -3.0], [3, 2, " 4", -1.5]]


def test_it_is_shown(run: Callable[..., Run]) -> None:
    shown = json.loads(run("show", KEPT, "e3", "--placement", "dit", "--json").out)
    assert shown["id"] == "e3"
    assert run("show", KEPT).status == 0


def test_its_exports_are_those_of_the_specification() -> None:
    exports = KEPT / "versions" / "0002" / "exports"
    for split in ("train", "test"):
        lines = (exports / "dit-rows" / f"{split}.jsonl").read_bytes()
        assert reader.read(KEPT, "dit", split) == lines
        loaded = datasets.load_from_disk(str(exports / "dit-hf" / "hf"))
        assert list(loaded[split]) == [json.loads(line) for line in lines.splitlines()]


def test_placing_and_exporting_give_what_they_gave(kept: Path) -> None:
    """Equal content hashes and, of the trainer's file, equal bytes."""
    place(kept, {"again": LOWEST})
    made = export(kept, "again-rows", Export(placement="again", format="tokenized")).version
    assert made.number == 4
    for new, old in (
        ("placements/again", "placements/dit"),
        ("exports/again-rows", "exports/dit-rows"),
    ):
        assert made.table(new).entry.content == made.table(old).entry.content
    for split in ("train", "test"):
        new, old = (made.folder / "exports" / f"{name}-rows" for name in ("again", "dit"))
        assert (new / f"{split}.jsonl").read_bytes() == (old / f"{split}.jsonl").read_bytes()
    assert verify(made, Silent()) == []
    before = open_version(KEPT).manifest.tables
    assert {name: made.manifest.tables[name] for name in before} == before


def test_what_is_there_is_not_made_again(kept: Path) -> None:
    """The recorded inputs still mean the same."""
    assert not place(kept, {"dit": LOWEST}).committed
    assert not export(kept, "dit-rows", Export(placement="dit", format="tokenized")).committed
    assert not export(kept, "dit-hf", Export(placement="dit", format="hf-disk")).committed


def test_no_checkout_changes_its_bytes() -> None:
    assert "tests/data/** binary" in (ROOT / ".gitattributes").read_text()
    files = [path for path in KEPT.rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(path.stat().st_size for path in files) < 110_000


# A dataset of a later release that this one can read


def later(root: Path) -> Version:
    """The handmade dataset with all that the format lets a later release add."""
    folder = commit_handmade(root).folder
    for table in ("tokens", "scores/base", "placements/low"):
        for path in sorted((folder / table).iterdir()):
            rows = read_shard(path)
            field = pa.field("weight", pa.float64(), metadata={"PARQUET:field_id": "99"})
            weights = pa.array([0.5] * len(rows), pa.float64())
            write_shard(path, rows.append_column(field, weights))
    for name, columns in {
        "weights/x": {"w": [1.5]},
        "exports/packed": {"pack": [[1, 2, 16]]},
    }.items():
        (folder / name).mkdir(parents=True)
        write_shard(folder / name / "whole-00000-of-00001.parquet", pa.table(columns))
        (folder / name / "more.bin").write_bytes(b"\0later")

    def entry(name: str, inputs: dict[str, Any], made_from: list[str]) -> dict[str, Any]:
        nothing = {"bytes": 0, "sha256": "0" * 64}  # `reseal` fills them in
        shard = {"path": f"{name}/whole-00000-of-00001.parquet", "split": "whole", "rows": 1}
        return {
            "rows": 1, "content": "sha256:" + "0" * 64, "a_key": {"of": "an entry"},
            "provenance": {"inputs": inputs, "made_from": made_from, "a_key": 1},
            "shards": [shard | nothing | {"first_row": 0, "histogram": [1]}],
            "files": [{"path": f"{name}/more.bin", **nothing, "encrypted": False}],
        }  # fmt: skip

    def edit(manifest: dict[str, Any]) -> None:
        manifest |= {"license": "cc-by-4.0", "min_release": "0.4.0"}
        manifest["rows"]["train"]["noted"] = {"a_reason": 1}
        manifest["pause"]["a_key"] = None
        tables = manifest["tables"]
        made_by = tables["placements/spare"]["provenance"]
        made_by["inputs"] |= {"strategy": "by_entropy", "parameters": {"share": 0.1}}
        tables["scores/base"]["provenance"]["device_name"] = "a later release says it"
        tables["weights/x"] = entry("weights/x", {"made": "somehow"}, ["tokens"])
        inputs = {"format": "packed", "options": {"length": 512}, "placement": "low"}
        made_from = ["tokens", "placements/low"]
        tables["exports/packed"] = entry("exports/packed", inputs, made_from)

    edit_manifest(root, edit)
    reseal(root)
    # The export that rests on `low` has to name its new content hash.
    low = open_version(root).table("placements/low").entry.content
    tokens = open_version(root).table("tokens").entry.content

    def rest(manifest: dict[str, Any]) -> None:
        tables = manifest["tables"]
        inputs = tables["exports/low-tokenized"]["provenance"]["inputs"]
        inputs |= {"placement_content": low, "tokens": tokens, "pause": manifest["pause"]}
        for name in ("placements/low", "placements/spare"):
            scores = tables["scores/base"]["content"]
            tables[name]["provenance"]["inputs"] |= {"tokens": tokens, "scores": scores}

    edit_manifest(root, rest)
    return open_version(root)


FROM_LATER = {"weights/x", "exports/packed", "placements/spare"}


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    later(tmp_path / "newer")
    return tmp_path / "newer"


def test_what_a_later_release_added_is_read_past(newer: Path) -> None:
    data = pausedata.open(newer)
    assert data.manifest.rows["train"].noted == {"a_reason": 1}
    assert "weight" not in data.tokens.schema.names
    assert data.exports("packed").to_table().to_pylist() == [{"pack": [1, 2, 16]}]
    assert data.placements("spare").to_table()["position"].to_pylist() == [[1], [4], [0], [1]]


def test_sql_and_show_go_on(newer: Path, run: Callable[..., Run]) -> None:
    query = "SELECT placement, count(*) AS n FROM pauses GROUP BY placement ORDER BY placement"
    done = run("sql", newer, query, "--format", "json")
    assert json.loads(done.out) == [{"placement": "low", "n": 4}, {"placement": "spare", "n": 4}]
    rows = json.loads(run("sql", newer, "SELECT * FROM scores", "--format", "json").out)
    assert "weight" not in rows[0] and len(rows) == 4
    assert run("show", newer, "a", "--placement", "spare").status == 0


def test_verify_checks_what_it_can_and_says_what_it_cannot(newer: Path) -> None:
    progress = Silent()
    assert verify(open_version(newer), progress) == []
    assert [warning.split(":")[0] for warning in progress.warnings] == [
        *("weights/x", "exports/packed")
    ]
    assert "a later release made it" in progress.warnings[0]


@pytest.mark.parametrize("table", sorted(FROM_LATER - {"placements/spare"}))
@pytest.mark.parametrize("file", ["whole-00000-of-00001.parquet", "more.bin"])
def test_verify_finds_damage_in_what_it_does_not_know(newer: Path, table: str, file: str) -> None:
    path = open_version(newer).folder / table / file
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert any(
        line.startswith(f"{table}/{file}: ") for line in verify(open_version(newer), Silent())
    )


def test_verify_hashes_the_column_that_it_does_not_know(newer: Path) -> None:
    """Equal checksums, another value: the content hash is over every column that is there."""
    path = open_version(newer).folder / "tokens" / "test-00000-of-00001.parquet"
    rows = read_shard(path)
    column = rows.column_names.index("weight")
    write_shard(path, rows.set_column(column, rows.field(column), pa.array([0.25], pa.float64())))

    def fit(manifest: dict[str, Any]) -> None:
        for shard in manifest["tables"]["tokens"]["shards"]:
            full = open_version(newer, 1).folder / shard["path"]
            shard.update(bytes=full.stat().st_size, sha256=sha256_of(full))

    edit_manifest(newer, fit)
    assert verify(open_version(newer), Silent()) == [
        "tokens: its values do not hash to the manifest's content hash"
    ]


def test_a_new_version_keeps_what_it_does_not_know(newer: Path) -> None:
    before = open_version(newer)
    place(newer, {"one": APPEND})
    after = export(newer, "one-rows", Export(placement="one", format="tokenized")).version
    assert after.number == 3
    kept = {name: entry for name, entry in after.manifest.tables.items() if "one" not in name}
    assert kept == before.manifest.tables
    assert after.manifest.model_extra == {"license": "cc-by-4.0", "min_release": "0.4.0"}
    assert after.manifest.pause == before.manifest.pause
    for name in FROM_LATER:
        for file in [*after.table(name).shards, *after.table(name).entry.files]:
            old, new = ((v.folder / file.path).stat().st_ino for v in (before, after))
            assert old == new  # linked, not made again
    assert verify(after, Silent()) == []


def test_a_card_names_only_what_has_rows_of_a_split(newer: Path, tmp_path: Path) -> None:
    def without_rows(manifest: dict[str, Any]) -> None:
        manifest["tables"]["weights/y"] = manifest["tables"]["weights/x"] | {
            "shards": [], "files": [], "rows": 0
        }  # fmt: skip

    edit_manifest(newer, without_rows)
    folder = place(newer, {"one": APPEND}).version.folder
    assert {"weights-x", "packed", "placements-one"} <= set(
        datasets.get_dataset_config_names(str(folder))
    )
    loaded: Any = datasets.load_dataset(str(folder), "weights-x", cache_dir=str(tmp_path / "cache"))
    assert loaded["whole"].to_list() == [{"w": 1.5}]


def test_a_build_keeps_what_it_does_not_know_or_says_why_it_cannot(recipe: Recipe) -> None:
    """Where the examples change, what rests on the old ones cannot stay."""
    recipe.data["exports"]["append-tokenized"] = {"placement": "append", "format": "tokenized"}
    recipe.build()
    del recipe.data["placements"]["append"], recipe.data["exports"]["append-tokenized"]

    def as_later(manifest: dict[str, Any]) -> None:
        tables = manifest["tables"]
        tables["placements/append"]["provenance"]["inputs"]["strategy"] = "a_later_one"
        tables["weights/x"] = tables["vocab"] | {"shards": [], "rows": 0} | {
            "provenance": {"inputs": {}, "made_from": ["placements/append"]}
        }  # fmt: skip
        tables["weights/y"] = tables["weights/x"] | {
            "provenance": {"inputs": {}, "made_from": ["source"]}
        }

    edit_manifest(recipe.out, as_later)
    recipe.data["placements"]["two"] = {"strategy": "lowest_logprob", "positions": 2}
    kept = recipe.build()
    assert kept.made == ["placements/two"] and kept.removed == {}
    assert {"placements/append", "weights/x", "weights/y"} <= set(kept.version.tables)

    rows = [json.loads(line) for line in (recipe.folder / "rows.jsonl").read_text().splitlines()]
    write_rows(recipe.folder / "rows.jsonl", rows[:-1])
    replaced = recipe.build(replace=True)
    assert replaced.removed == {
        "placements/append": "made from tokens, which changed; this release cannot remake it",
        "exports/append-tokenized": "placement 'append' could not be remade",
        "weights/x": "made from placements/append, which changed; this release cannot remake it",
    }
    assert "weights/y" in replaced.version.tables
    assert [p for p in verify(replaced.version, Silent()) if "weights" not in p] == []


def test_a_run_of_a_later_release_is_not_scored_again(built: Recipe) -> None:
    """Known by its name alone, it might cost days, and lose what that release added."""

    def as_later(manifest: dict[str, Any]) -> None:
        manifest["tables"]["scores/base"]["provenance"]["inputs"]["temperature"] = 0.5

    edit_manifest(built.out, as_later)
    with pytest.raises(UsageError, match=r"scores/base was made by a later .*\(temperature\)"):
        built.build()
    assert open_version(built.out).number == 1
    place(built.out, {"one": APPEND})  # what reads the run, or does not, goes on
    assert place(built.out, {"two": LOWEST}).version.number == 3


def test_a_strategy_with_a_parameter_of_a_later_release_is_not_made_again(tmp_path: Path) -> None:
    """Known by name, but this release would place otherwise."""
    root = tmp_path / "data"
    commit_handmade(root)

    def as_later(manifest: dict[str, Any]) -> None:
        for name, key in (("low", "parameters"), ("spare", "")):
            inputs = manifest["tables"][f"placements/{name}"]["provenance"]["inputs"]
            (inputs[key] if key else inputs)["a_later_key"] = 7
        options = manifest["tables"]["exports/low-tokenized"]["provenance"]["inputs"]["options"]
        options["a_later_option"] = 512

    edit_manifest(root, as_later)
    before = open_version(root)
    after = place(root, {"one": APPEND}).version
    for name in ("placements/low", "placements/spare", "exports/low-tokenized"):
        assert after.table(name).entry == before.table(name).entry
    progress = Silent()
    verify(after, progress)
    assert [warning.split(":")[0] for warning in progress.warnings] == ["exports/low-tokenized"]


# A dataset of a later release that this one cannot read


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (
            {"min_reader": 2, "min_release": "0.4.0"},
            "It needs pausedata 0.4.0 or newer: pip install -U 'pausedata>=0.4.0'",
        ),
        (
            {"format": "pausedata/2", "min_release": "1.0"},
            "It needs pausedata 1.0 or newer: pip install -U 'pausedata>=1.0'",
        ),
        (
            {"min_reader": 2, "created_by": "pausedata 0.5.1"},
            "Upgrade: pip install -U pausedata (it was made by pausedata 0.5.1)",
        ),
        (  # what goes into a command is a version and nothing else
            {"min_reader": 2, "min_release": "1'; rm -r ~ #"},
            "Upgrade: pip install -U pausedata (it was made by pausedata 0.1.0)",
        ),
    ],
)
def test_a_manifest_for_later_readers_says_which_release_reads_it(
    tmp_path: Path, run: Callable[..., Run], keys: dict[str, Any], told: str
) -> None:
    root = tmp_path / "data"
    commit_handmade(root)
    edit_manifest(root, lambda manifest: manifest.update(keys))
    with pytest.raises(DataError) as error:
        pausedata.open(root)
    assert str(error.value).endswith(told)
    assert "manifest.json: format pausedata/" in str(error.value)
    for words in (("verify", root), ("place", root, "x", "--strategy", "none")):
        done = run(*words)
        assert done.status == 1
        assert " ".join(told.split()) in " ".join(done.err.split())
    assert [path.name for path in (root / "versions").iterdir()] == ["0001"]


@pytest.mark.parametrize(
    ("release", "told"),
    [
        ("1.0.0", "It needs pausedata 1.0.0 or newer: pip install -U 'pausedata>=1.0.0'"),
        (None, "Upgrade: pip install -U pausedata"),
    ],
)
def test_a_pointer_of_a_later_format_says_it_too(
    tmp_path: Path, release: str | None, told: str
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    pointer = {"format": "pausedata/2", "head": "abc"} | (
        {"min_release": release} if release else {}
    )
    (root / "pausedata.json").write_text(json.dumps(pointer))
    with pytest.raises(DataError) as error:
        pausedata.open(root)
    assert str(error.value).endswith(told)
