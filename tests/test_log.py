"""`log`: what each version changed, by whom, also where some of them are gone or damaged."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pausedata import __version__
from pausedata.analysis.history import Changes, history
from pausedata.pipeline.commands import place, remove
from pausedata.pipeline.recipe import Placement
from pausedata.store.dataset import open_version
from pausedata.store.files import sha256_of
from pausedata.store.opening import version_folder
from tests.small_dataset import E1, E2, E3, E4, E5, make_dataset

CORPUS = ["examples", "vocab", "tokens"]
RUNS = ["scores/base", "scores/other"]
PLACED = ["placements/three", "placements/fixed"]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1 made by hand, 2 places `front`, 3 remakes it, 4 removes `fixed`, 5 has other examples."""
    root = tmp_path_factory.mktemp("log") / "small"
    make_dataset(root)
    place(root, {"front": append(2)}, command="place front 2")
    place(root, {"front": append(3)}, command="place front 3", replace=True)
    removed = remove(root, ["placements/fixed"], command="rm fixed").version
    grown = [("train", 0, 1, [E1, E2, E3, E4]), ("new", 0, 1, [E5])]
    make_dataset(root, shards=grown, placements=False, base=removed)
    return root


@pytest.fixture
def root(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "small", symlinks=True)


def append(tokens: int) -> Placement:
    return Placement(strategy="append", tokens=tokens)  # type: ignore[call-arg]


def changes(compared_with: int | None, **lists: Any) -> Changes:
    nothing: dict[str, Any] = {"made": [], "remade": [], "same_values": [], "removed": []}
    return Changes(compared_with, **(nothing | {"rows": {}} | lists))


def delete(root: Path, *numbers: int) -> None:
    for number in numbers:
        shutil.rmtree(version_folder(root, number))


def alter(root: Path, number: int, old: str, new: str) -> None:
    """Edit a manifest, which nobody may do."""
    path = version_folder(root, number) / "manifest.json"
    text = path.read_text("utf-8")
    assert old in text
    path.chmod(0o644)
    path.write_text(text.replace(old, new), "utf-8")


def test_newest_first_each_with_its_changes_against_its_parent(root: Path) -> None:
    entries = history(root)
    assert [(e.number, e.state, e.parent) for e in entries] == [
        (5, "current", 4),
        (4, "earlier", 3),
        (3, "earlier", 2),
        (2, "earlier", 1),
        (1, "earlier", None),
    ]
    assert [e.command for e in entries][1:] == [
        "rm fixed",
        "place front 3",
        "place front 2",
        "by hand",
    ]
    assert {e.created_by for e in entries} == {f"pausedata {__version__}"}
    assert all(e.parent_is_there for e in entries[:-1])
    assert [e.problem for e in entries] == [None] * 5
    assert [e.changes for e in entries] == [
        # The same examples, but e5 in another split, so that the values of all tables differ.
        changes(
            4,
            remade=["examples", "tokens", *RUNS],
            rows={"train": (4, 4), "test": (1, None), "new": (None, 1)},
        ),
        changes(3, removed=["placements/fixed"]),
        changes(2, remade=["placements/front"]),
        changes(1, made=["placements/front"]),
        changes(
            None,
            made=[*CORPUS, *RUNS, *PLACED],
            rows={"train": (None, 4), "test": (None, 1)},
        ),
    ]


def test_a_table_that_was_made_again_with_the_same_values_is_told_apart(root: Path) -> None:
    """Nine places asked for where there are five at most: all of them, whatever the seed."""
    first = Placement(strategy="random", positions=9, tokens=1, seed=0)  # type: ignore[call-arg]
    place(root, {"all": first})
    second = Placement(strategy="random", positions=9, tokens=1, seed=1)  # type: ignore[call-arg]
    place(root, {"all": second}, replace=True)
    found = history(root, 1)[0].changes
    assert found == changes(6, same_values=["placements/all"])


def test_the_newest_few_know_their_parents_too(root: Path) -> None:
    assert [e.number for e in history(root, 2)] == [5, 4]
    assert history(root, 2)[-1].changes == changes(3, removed=["placements/fixed"])


def test_a_gap_is_bridged_to_the_next_version_that_is_there(root: Path) -> None:
    delete(root, 2, 3)
    fourth = history(root)[1]
    assert (fourth.number, fourth.parent, fourth.parent_is_there) == (4, 3, False)
    assert fourth.changes == changes(1, made=["placements/front"], removed=["placements/fixed"])


def test_where_nothing_earlier_is_there_it_says_what_the_version_has(
    root: Path, run: Callable[..., Any]
) -> None:
    delete(root, 1, 2, 3)
    entries = history(root)
    assert [e.number for e in entries] == [5, 4]
    assert entries[1].changes is None and not entries[1].parent_is_there
    assert list(entries[1].tables) == [*CORPUS, *RUNS, "placements/three", "placements/front"]
    printed = run("log", root)
    assert printed.status == 0
    assert "its parent, version 3, is gone, and no earlier one can be read. It has:" in printed.out


@pytest.mark.parametrize("damage", ["no manifest", "half a manifest", "edited", "other number"])
def test_a_damaged_version_is_told_on_its_line_and_the_others_all_the_same(
    root: Path, run: Callable[..., Any], damage: str
) -> None:
    path = version_folder(root, 3) / "manifest.json"
    if damage == "no manifest":
        path.unlink()
    elif damage == "half a manifest":
        path.chmod(0o644)
        path.write_text(path.read_text("utf-8")[:100], "utf-8")
    elif damage == "edited":  # whole, and right in itself: only the child's record tells
        alter(root, 3, "place front 3", "place front 9")
    else:
        path.unlink()
        shutil.copy(version_folder(root, 1) / "manifest.json", path)
    expected = {
        "no manifest": "cannot be read: No such file",
        "half a manifest": "damaged: ",
        "edited": "its sha256 is not the one that was recorded",
        "other number": "its sha256 is not the one that was recorded",
    }[damage]
    entries = history(root)
    assert [e.number for e in entries] == [5, 4, 3, 2, 1]
    assert expected in str(entries[2].problem) and entries[2].command is None
    assert entries[1].changes == changes(
        2, remade=["placements/front"], removed=["placements/fixed"]
    )
    assert entries[3].changes == changes(1, made=["placements/front"])
    printed = run("log", root)
    assert printed.status == 1
    assert re.search(r"version 3\n  damaged: .*versions/0003/manifest.json", printed.out)
    assert "version 1  " in printed.out
    as_json = run("log", root, "--json")
    assert as_json.status == 1 and expected in json.loads(as_json.out)["versions"][2]["problem"]


def test_the_current_version_is_told_where_its_folder_is_gone(root: Path) -> None:
    delete(root, 5)
    entries = history(root)
    assert (entries[0].number, entries[0].state) == (5, "current")
    assert "cannot be read" in str(entries[0].problem)
    assert entries[1].changes == changes(3, removed=["placements/fixed"])


def test_a_missing_shard_is_told_though_the_manifest_is_whole(root: Path) -> None:
    version = open_version(root, 2)
    version.table("scores/base").paths()[0].unlink()
    assert history(root)[3].problem == (
        "scores/base/train-00000-of-00003.parquet: missing, or not of the recorded size. "
        "`pausedata verify --version 2` says more."
    )
    assert history(root, 3)[-1].problem is None


def test_what_a_killed_writer_left_is_told_apart_from_the_line(root: Path) -> None:
    """A version that no pointer ever named, and that later ones passed by; and one at the top."""
    shutil.copytree(version_folder(root, 5), version_folder(root, 6))
    alter(root, 6, '"version": 5', '"version": 6')
    # A kill before 3 was seen: 4 was then made from 2.
    second = hash_of(root, 2)
    fourth = open_version(root, 4)
    alter(root, 4, '"version": 3', '"version": 2')
    alter(root, 4, str(fourth.manifest.parent.sha256), second)  # type: ignore[union-attr]
    alter(root, 5, fourth.sha256, hash_of(root, 4))
    pointer = json.loads((root / "pausedata.json").read_text())
    pointer["sha256"] = hash_of(root, 5)
    (root / "pausedata.json").write_text(json.dumps(pointer))
    entries = history(root)
    assert [(e.number, e.state) for e in entries] == [
        (6, "uncommitted"),
        (5, "current"),
        (4, "earlier"),
        (3, "abandoned"),
        (2, "earlier"),
        (1, "earlier"),
    ]
    assert [e.problem for e in entries] == [None] * 6
    assert entries[2].changes == changes(2, made=[], removed=["placements/fixed"],
                                         remade=["placements/front"])  # fmt: skip
    assert entries[3].changes == changes(2, remade=["placements/front"])


def hash_of(root: Path, number: int) -> str:
    return sha256_of(version_folder(root, number) / "manifest.json")


def test_models_that_scored_are_named_from_what_is_recorded(recipe: Any) -> None:
    """A local model's scores record the hash of its weights; the recipe knows its name."""
    recipe.build()
    entry = history(recipe.out)[0]
    model = entry.models["base"]
    assert (model["model"], model["dtype"], model["backend"]) == ("tiny", "float32", "transformers")
    assert re.fullmatch("[0-9a-f]{64}", model["weights_sha256"])
    assert entry.tables["scores/base"] == "tiny (float32, transformers)"
    assert entry.tables["placements/dit"] == "lowest_logprob of base"
    assert entry.tables["exports/dit-tokenized"] == "tokenized of dit"


def test_the_terminal_shows_a_paragraph_for_each_version(
    root: Path, run: Callable[..., Any]
) -> None:
    printed = run("log", root, "-n", 2)
    lines = [line.rstrip() for line in printed.out.splitlines()]
    when = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC  pausedata \d"
    assert re.match(rf"version 5  \(current\)  {when}", lines[0])
    assert "  remade   scores/base                  by-hand" in lines
    assert "  train: 4 rows, as many as before" in lines
    assert "  test: 1 → none rows" in lines and "  new: none → 1 rows" in lines
    second = lines.index("")
    assert re.match(rf"version 4  {when}", lines[second + 1])
    assert lines[second + 2 :] == ["  rm fixed", "  removed  placements/fixed"]


def test_where_there_is_no_dataset_the_usual_error_is_given(
    tmp_path: Path, run: Callable[..., Any]
) -> None:
    result = run("log", tmp_path / "none")
    assert result.status == 2 and "no such folder" in result.err
