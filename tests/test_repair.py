"""Damage and what becomes of it: read by nobody, named by verify, mended by build."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Recipe, Run, make_model

from pausedata.analysis.verify import verify, verify_others
from pausedata.core.errors import DataError, UsageError
from pausedata.core.progress import Silent
from pausedata.pipeline.commands import place
from pausedata.pipeline.recipe import Placement
from pausedata.store.dataset import Version, open_version
from pausedata.store.files import sha256_of
from pausedata.store.known_damage import marks

FIRST = "train-00000-of-00003.parquet"


def flip(path: Path) -> None:
    """Flip one bit in the middle of a file, in every version that shares it."""
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    path.chmod(0o644)
    path.write_bytes(raw)
    path.chmod(0o444)


def cut(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-9])
    path.chmod(0o444)


def contents(version: Version) -> dict[str, str]:
    return {name: entry.content for name, entry in version.manifest.tables.items()}


def bytes_of(version: Version) -> dict[str, str]:
    files = sorted(p for p in version.folder.rglob("*") if p.is_file())
    return {p.relative_to(version.folder).as_posix(): sha256_of(p) for p in files}


def whole(root: Path) -> bool:
    version = open_version(root)
    return not verify(version, Silent()) and not verify_others(version, Silent())


@pytest.mark.parametrize(
    "path",
    [
        f"examples/{FIRST}",
        "vocab.parquet",
        f"tokens/{FIRST}",
        f"scores/base/{FIRST}",
        f"placements/dit/{FIRST}",
        f"exports/dit-tokenized/{FIRST}",
        "exports/dit-tokenized/train.jsonl",
        "exports/dit-tokenized/train.meta.json",
    ],
)
def test_build_makes_a_damaged_file_again_as_it_was(built: Recipe, path: str) -> None:
    version = open_version(built.out)
    before = bytes_of(version)
    flip(version.folder / path)
    assert not whole(built.out)
    outcome = built.build()
    assert not outcome.committed and outcome.version.number == 1
    assert bytes_of(version) == before and whole(built.out)
    assert {p.name for p in (built.out / "staging").iterdir()} == {"commit.lock", "pins.json"}


def test_every_damaged_file_at_once(built: Recipe) -> None:
    version = open_version(built.out)
    before = bytes_of(version)
    for path in before:
        if path == f"tokens/{FIRST}":
            (version.folder / path).unlink()
        elif path not in ("manifest.json", "README.md"):
            cut(version.folder / path)
    outcome = built.build()
    assert outcome.repaired == [
        "examples", "vocab", "tokens", "scores/base", "placements/dit", "placements/append",
        "exports/dit-tokenized",
    ]  # fmt: skip
    assert not outcome.committed and bytes_of(version) == before


def test_only_the_damaged_shard_is_scored_again(
    built: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pausedata.scorers.transformers import TransformersScorer

    scored = []
    score = TransformersScorer.score

    def counting(self: Any, examples: Any, *rest: Any) -> Any:
        scored.append(len(examples))
        return score(self, examples, *rest)

    monkeypatch.setattr(TransformersScorer, "score", counting)
    (open_version(built.out).folder / "scores/base" / FIRST).unlink()
    built.build()
    assert scored == [4] and whole(built.out)


def test_the_file_is_put_back_in_every_version_that_has_it(built: Recipe) -> None:
    place(built.out, {"more": Placement(strategy="append", tokens=2)})  # type: ignore[call-arg]
    one, two = open_version(built.out, 1), open_version(built.out)
    path = f"scores/base/{FIRST}"
    assert (one.folder / path).samefile(two.folder / path)
    flip(two.folder / path)
    built.build()
    assert (one.folder / path).samefile(two.folder / path) and whole(built.out)


def test_a_file_that_another_version_holds_whole_comes_from_there(
    built: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(built.out, {"more": Placement(strategy="append", tokens=2)})  # type: ignore[call-arg]
    two = open_version(built.out)
    target = two.folder / "scores/base" / FIRST
    whole_bytes = target.read_bytes()
    target.unlink()
    target.write_bytes(whole_bytes[:-1])  # of this version alone
    monkeypatch.setattr("pausedata.scorers.load_scorer", None)  # no model is needed
    built.build()
    assert target.read_bytes() == whole_bytes and whole(built.out)


def test_scores_that_come_out_otherwise_make_a_new_version_and_the_old_one_is_marked(
    built: Recipe, monkeypatch: pytest.MonkeyPatch, run: Any
) -> None:
    """As on another machine, whose last bits differ."""
    from pausedata.scorers.transformers import TransformersScorer

    score = TransformersScorer.score

    def otherwise(self: Any, *rest: Any) -> Any:
        found = score(self, *rest)
        for scores in found:
            scores.logprob[0] -= 1e-6
        return found

    monkeypatch.setattr(TransformersScorer, "score", otherwise)
    flip(open_version(built.out).folder / "scores/base" / FIRST)
    outcome = built.build()
    assert outcome.version.number == 2 and outcome.marked == [1]
    assert "scores/base" in outcome.made and "placements/dit" in outcome.made
    scores = outcome.version.table("scores/base").entry.provenance
    assert scores["scored_examples"] == 4 and scores["carried_examples"] == 8
    assert list(marks(built.out)[1]) == [f"scores/base/{FIRST}"]
    assert whole(built.out)  # what is marked is known
    ended: Run = run("verify", built.out)
    assert ended.status == 0 and "version 1: marked as damaged: scores/base/" in ended.err
    assert run("verify", built.out, "--version", 1).status == 1
    with pytest.raises(DataError, match="sha256 is not the manifest's"):
        old = open_version(built.out, 1).table("scores/base")
        old.read(old.shards[0])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize(
    "words",
    [
        ("sql", "select avg(logprob) from tokens"),
        ("sql", "select count(*) from scores"),
        ("place", "more", "--strategy", "lowest_logprob", "--param", "positions=1"),
        ("show",),
    ],
    ids=["sql", "sql-stored", "place", "show"],
)
def test_nothing_reads_bad_data_silently(
    built: Recipe, run: Any, damage: Any, words: tuple[str, ...]
) -> None:
    damage(open_version(built.out).folder / "scores/base" / FIRST)
    command, *rest = words
    ended: Run = run(command, built.out, *rest)
    assert ended.status == 1
    assert FIRST in ended.err and "pausedata verify" in ended.err
    assert "Traceback" not in ended.err and not ended.out


def test_a_query_of_whole_tables_does_not_mind_damaged_others(built: Recipe, run: Any) -> None:
    flip(open_version(built.out).folder / "scores/base" / FIRST)
    ended: Run = run("sql", built.out, "select count(*) as n from examples", "--format", "csv")
    assert (ended.status, ended.out) == (0, "n\n12\n")


def test_a_run_that_the_recipe_does_not_name_is_said_to_stay_damaged(
    built: Recipe, tmp_path: Path, run: Any
) -> None:
    other = make_model(tmp_path / "epoch-1", seed=1)
    built.data["runs"] = {"epoch-1": {"model": {"id": str(other)}}}
    built.data["placements"]["later"] = {
        "strategy": "lowest_logprob", "positions": 1, "run": "epoch-1",
    }  # fmt: skip
    built.build()
    del built.data["runs"], built.data["placements"]["later"]
    flip(open_version(built.out).folder / "scores/epoch-1" / FIRST)
    flip(open_version(built.out).folder / "placements/dit" / FIRST)
    ended: Run = run("build", built.write())
    assert ended.status == 1 and "scores/epoch-1 is still damaged" in ended.err
    assert "placements/later stays as it is" in ended.err and "--run epoch-1 --model" in ended.err
    assert open_version(built.out).number == 2
    assert verify(open_version(built.out), Silent()) == [
        f"scores/epoch-1/{FIRST}: its sha256 is not the manifest's: the file was changed or damaged"
    ]


@pytest.mark.parametrize(
    ("table", "path"),
    [
        ("placements/append", f"placements/append/{FIRST}"),
        ("exports/dit-tokenized", "exports/dit-tokenized/train.jsonl"),
        ("scores/base", f"scores/base/{FIRST}"),
        ("vocab", "vocab.parquet"),
    ],
)
def test_a_table_that_lacks_a_file_goes_on_as_a_damaged_one(
    built: Recipe, run: Any, table: str, path: str
) -> None:
    """A command that does not need it says so; the recipe's next build makes it again."""
    (open_version(built.out).folder / path).unlink()
    ended: Run = run("place", built.out, "more", "--strategy", "append", "--param", "tokens=2")
    assert ended.status == 1 and "Traceback" not in ended.err
    assert f"version 1: {path}: missing" in ended.err and f"{table} is still damaged" in ended.err
    assert open_version(built.out).number == 2 and "more" in open_version(built.out).placements
    assert verify(open_version(built.out), Silent()) == [f"{path}: missing"]
    assert built.build().repaired == [table]
    assert whole(built.out) and verify(open_version(built.out, 1), Silent()) == []


def test_a_missing_file_that_another_version_has_is_put_back_by_any_command(
    built: Recipe, run: Any
) -> None:
    place(built.out, {"more": Placement(strategy="append", tokens=2)})  # type: ignore[call-arg]
    (open_version(built.out).folder / "placements/append" / FIRST).unlink()
    assert run("rm", built.out, "placements/more").status == 0
    assert open_version(built.out).number == 3 and whole(built.out)
    assert verify(open_version(built.out, 2), Silent()) == []


def test_a_build_leaves_a_run_that_lacks_a_file_as_it_is(built: Recipe) -> None:
    """Nobody can score it again here; what else the recipe asks for is made."""
    built.data["runs"] = {"more": {"model": built.data["model"]}}
    built.build()
    del built.data["runs"]
    (open_version(built.out).folder / "scores/more" / FIRST).unlink()
    built.data["placements"]["new"] = {"strategy": "append", "tokens": 2}
    progress = Silent()
    outcome = built.build(progress=progress)
    assert (outcome.made, outcome.damaged) == (["placements/new"], ["scores/more"])
    assert len([line for line in progress.warnings if FIRST in line]) == 1  # once


def test_a_recipe_that_cuts_other_shards_says_how_to_repair(built: Recipe) -> None:
    flip(open_version(built.out).folder / "tokens" / FIRST)
    built.data["shard_rows"] = 6
    with pytest.raises(UsageError, match="--set shard_rows=4"):
        built.build()


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_build_goes_on_from_the_version_before_one_whose_manifest_is_lost(
    built: Recipe, run: Any, damage: Any
) -> None:
    place(built.out, {"more": Placement(strategy="append", tokens=2)})  # type: ignore[call-arg]
    before = contents(open_version(built.out, 1))
    damage(built.out / "versions" / "0002" / "manifest.json")
    assert run("verify", built.out).status == 1
    assert run("sql", built.out, "select 1").status == 1
    ended: Run = run("build", built.write())
    assert ended.status == 0
    assert "version 2: manifest.json" in ended.err
    assert "going on from version 1, the newest that is whole" in ended.err
    assert open_version(built.out).number == 1 and contents(open_version(built.out)) == before
    assert list(marks(built.out)) == [2] and run("verify", built.out).status == 0
    # Its number is not used again, nor is it taken for a commit that was cut off.
    place(built.out, {"more": Placement(strategy="append", tokens=3)})  # type: ignore[call-arg]
    assert open_version(built.out).number == 3 and whole(built.out)


@pytest.mark.parametrize("text", ["", "{", "null", '{"format": "pausedata/1"}'])
def test_build_finds_the_newest_version_where_the_pointer_is_damaged(
    built: Recipe, run: Any, text: str
) -> None:
    place(built.out, {"more": Placement(strategy="append", tokens=2)})  # type: ignore[call-arg]
    (built.out / "pausedata.json").write_text(text)
    assert run("verify", built.out).status == 1
    ended: Run = run("build", built.write())
    assert ended.status == 0 and "going on from version 2" in ended.err
    assert open_version(built.out).number == 2 and whole(built.out)


def test_a_lost_pointer_is_not_a_dataset_that_begins_anew(built: Recipe, run: Any) -> None:
    place(built.out, {"more": Placement(strategy="append", tokens=2)})  # type: ignore[call-arg]
    (built.out / "pausedata.json").unlink()
    for command in (("verify",), ("place", "x", "--strategy", "none"), ("log",)):
        ended: Run = run(command[0], built.out, *command[1:])
        assert ended.status == 1 and "versions 1 to 2" in ended.err
    ended = run("build", built.write())
    assert ended.status == 0 and "going on from version 2" in ended.err
    assert open_version(built.out).number == 2 and whole(built.out)


def test_a_manifest_that_may_not_be_read_for_now_is_not_lost(
    built: Recipe, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(built.out, {"more": Placement(strategy="append", tokens=2)})  # type: ignore[call-arg]
    read = Path.read_bytes

    def refused(path: Path) -> bytes:
        if path.name == "manifest.json" and path.parent.name == "0002":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refused)
        ended: Run = run("build", built.write())
        assert ended.status == 1 and "Permission denied" in ended.err
    assert open_version(built.out).number == 2 and not marks(built.out)


def test_a_shard_that_may_not_be_read_is_not_made_again(
    built: Recipe, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pausedata.store import hashes

    path = open_version(built.out).folder / "scores/base" / FIRST
    digest = hashes._digest

    def refused(file: Path) -> str:
        if file.samefile(path):
            raise PermissionError(13, "Permission denied", str(file))
        return digest(file)

    monkeypatch.setattr(hashes, "_digest", refused)
    monkeypatch.setattr("os.access", lambda file, _: not Path(file).samefile(path))
    ended: Run = run("build", built.write())
    assert ended.status == 1 and "Change its permissions" in ended.err


def test_older_versions_are_put_right_too_or_marked(built: Recipe, run: Any) -> None:
    place(built.out, {"more": Placement(strategy="append", tokens=2)})  # type: ignore[call-arg]
    spec = Placement(strategy="append", tokens=3)  # type: ignore[call-arg]
    place(built.out, {"more": spec}, replace=True)
    old = built.out / "versions" / "0002"
    (built.out / "versions" / "0001" / "vocab.parquet").unlink()  # another version has it
    flip(old / "placements" / "more" / FIRST)  # no other has it, nor could it be made again
    flip(built.out / "versions" / "0001" / "manifest.json")
    assert run("verify", built.out).status == 1
    ended: Run = run("build", built.write())
    assert ended.status == 0
    assert {n: list(paths) for n, paths in marks(built.out).items()} == {
        1: ["manifest.json"], 2: [f"placements/more/{FIRST}"],
    }  # fmt: skip
    assert run("verify", built.out).status == 0
    ended = run("log", built.out)
    assert ended.status == 0 and "marked as that" in ended.out


@pytest.mark.parametrize("path", [f"placements/dit/{FIRST}", "vocab.parquet"])
def test_a_folder_in_a_file_s_place_makes_room(built: Recipe, run: Any, path: str) -> None:
    target = open_version(built.out).folder / path
    target.unlink()
    target.mkdir()
    (target / "stray").touch()
    ended: Run = run("verify", built.out)
    assert f"{path}: is no file" in ended.out
    assert run("build", built.write()).status == 0
    assert whole(built.out)
    assert not list(built.out.glob("staging/repair-*"))
    assert run("gc", built.out, "--yes", "--older-than", "0").status == 0
    assert {p.name for p in (built.out / "staging").iterdir()} == {"commit.lock", "pins.json"}


def test_a_pointer_that_is_a_folder_says_what_to_do(built: Recipe, run: Any) -> None:
    (built.out / "pausedata.json").unlink()
    (built.out / "pausedata.json").mkdir()
    for words in (("verify", built.out), ("build", built.write())):
        ended: Run = run(*words)
        assert ended.status == 1 and "is a folder. Move it away" in ended.err


def test_a_stray_file_does_not_keep_a_damaged_pointer_from_repair(built: Recipe, run: Any) -> None:
    (built.out / "notes.txt").touch()
    (built.out / "pausedata.json").write_text("garbage")
    assert run("build", built.write()).status == 0
    assert whole(built.out)


def test_what_vanishes_with_a_version_is_named(built: Recipe, run: Any) -> None:
    place(built.out, {"more": Placement(strategy="append", tokens=2)})  # type: ignore[call-arg]
    manifest = built.out / "versions" / "0002" / "manifest.json"
    manifest.unlink()
    shutil.copy(built.out / "versions" / "0001" / "manifest.json", manifest)
    ended: Run = run("build", built.write())
    assert "It also had placements/more: make them again" in ended.err
    ended = run("verify", built.out)
    assert ended.status == 0 and "version 2: marked as damaged" in ended.err


def test_where_no_manifest_is_left_build_says_so(built: Recipe, run: Any) -> None:
    flip(built.out / "versions" / "0001" / "manifest.json")
    ended: Run = run("build", built.write())
    assert ended.status == 1 and "no version has a manifest that can be read" in ended.err


def test_what_a_later_release_wrote_is_not_taken_for_damage(built: Recipe, run: Any) -> None:
    pointer = built.out / "pausedata.json"
    later = json.loads(pointer.read_text()) | {"format": "pausedata/2"}
    pointer.write_text(json.dumps(later))
    ended: Run = run("build", built.write())
    assert ended.status == 1 and "format pausedata/2" in ended.err
    assert json.loads(pointer.read_text()) == later


def test_a_version_of_a_later_release_is_not_marked_as_lost(built: Recipe, run: Any) -> None:
    place(built.out, {"more": Placement(strategy="append", tokens=2)})  # type: ignore[call-arg]
    manifest = built.out / "versions" / "0001" / "manifest.json"
    later = json.loads(manifest.read_text()) | {"min_reader": 99}
    manifest.unlink()
    manifest.write_text(json.dumps(later))
    child = built.out / "versions" / "0002" / "manifest.json"
    text = json.loads(child.read_text())
    text["parent"]["sha256"] = sha256_of(manifest)
    child.unlink()
    child.write_text(json.dumps(text))
    pointer = built.out / "pausedata.json"
    said = json.loads(pointer.read_text()) | {"sha256": sha256_of(child)}
    pointer.write_text(json.dumps(said))
    assert run("build", built.write()).status == 0
    assert not marks(built.out)
    # Nor does a lost pointer pass it over, had it been the newest.
    shutil.rmtree(built.out / "versions" / "0002")
    pointer.write_text("garbage")
    ended: Run = run("build", built.write())
    assert ended.status == 1 and "reader 99" in ended.err and not marks(built.out)


def test_an_older_version_is_not_read_through_a_changed_manifest(built: Recipe, run: Any) -> None:
    place(built.out, {"more": Placement(strategy="append", tokens=2)})  # type: ignore[call-arg]
    manifest = built.out / "versions" / "0001" / "manifest.json"
    text = manifest.read_text().replace('"rows": 4', '"rows": 5', 1)
    manifest.unlink()
    manifest.write_text(text)
    ended: Run = run("sql", built.out, "select 1", "--version", 1)
    assert ended.status == 1 and "its sha256 is not the one that was recorded" in ended.err


def test_a_manifest_of_another_dataset_is_named(built: Recipe, tmp_path: Path, run: Any) -> None:
    other = shutil.copytree(built.out, tmp_path / "other", symlinks=True)
    place(other, {"more": Placement(strategy="append", tokens=2)})  # type: ignore[call-arg]
    place(built.out, {"less": Placement(strategy="append", tokens=1)})  # type: ignore[call-arg]
    for number in ("0001", "0002"):
        target = built.out / "versions" / number / "manifest.json"
        target.unlink()
        shutil.copy(other / "versions" / "0002" / "manifest.json", target)
    ended: Run = run("verify", built.out)
    assert ended.status == 1 and "manifest.json: its sha256 is not the one" in ended.err
    shutil.rmtree(built.out)
    shutil.copytree(other, built.out, symlinks=True)
    place(built.out, {"less": Placement(strategy="append", tokens=1)})  # type: ignore[call-arg]
    manifest = built.out / "versions" / "0001" / "manifest.json"
    text = json.loads(manifest.read_text()) | {"created": "2020-01-01T00:00:00Z"}
    manifest.unlink()
    manifest.write_text(json.dumps(text))
    ended = run("verify", built.out)
    assert ended.status == 1
    assert ended.out == (
        "version 1: manifest.json: not the one that later versions were made from\n"
    )


def test_an_error_of_the_disk_is_said(
    built: Recipe, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pausedata.store import hashes

    digest = hashes._digest

    def failing(path: Path) -> str:
        if path.name == FIRST and "base" in path.parts:
            raise OSError(5, "Input/output error", str(path))
        return digest(path)

    monkeypatch.setattr(hashes, "_digest", failing)
    ended: Run = run("verify", built.out)
    assert ended.status == 1
    assert ended.out == f"scores/base/{FIRST}: cannot be read (Input/output error)\n"
    more = ("place", built.out, "x", "--strategy", "lowest_logprob", "--param", "positions=1")
    assert "cannot be read (Input/output error)" in run(*more).err
    monkeypatch.undo()
