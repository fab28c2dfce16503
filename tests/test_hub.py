"""Published and fetched, through a Hub on loopback, with the commands that a person types."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import problems, tiny_recipe
from loopback_hub import READ, WRITE, LoopbackHub, Repo
from machine import Machine

from pausedata.analysis.verify import verify
from pausedata.core.progress import Silent
from pausedata.store.dataset import open_version

pytestmark = pytest.mark.hub

REPO = "org/corpus"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """Twelve word problems, scored and placed, in three shards."""
    placements = {
        "dit": {"strategy": "lowest_logprob", "positions": 3},
        "random": {"strategy": "random", "positions": 3},
    }
    recipe = tiny_recipe(
        *(tmp_path_factory.mktemp("hub"), model_folder, problems(12)),
        name="corpus",
        source={"files": ["rows.jsonl"], "id": "id"},
        placements=placements,
        shard_rows=5,
    )
    recipe.build()
    return recipe.out


@pytest.fixture
def dataset(built: Path, tmp_path: Path) -> Path:
    return shutil.copytree(built, tmp_path / "data", symlinks=True)


@pytest.fixture
def pushed(machine: Machine, dataset: Path) -> Path:
    machine.ok("push", dataset, REPO)
    return dataset


def repo(hub: LoopbackHub) -> Repo:
    return hub.repo("datasets", REPO)


def files_of(root: Path) -> dict[str, bytes]:
    folder = open_version(root).folder
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def append_three(machine: Machine, root: Path, name: str) -> None:
    """Another placement, and so another version."""
    machine.ok("place", root, name, "--strategy", "append", "--param", "tokens=3")


# Push


def test_a_pushed_version_is_the_folder_with_its_card(hub: LoopbackHub, pushed: Path) -> None:
    there = repo(hub)
    assert there.private
    assert there.tags == {"v1": there.head}
    assert len(there.commits) == 2  # the Hub's own, and one for the version
    files = there.files()
    assert files.pop(".gitattributes")
    card = files.pop("README.md").decode()
    ours = files_of(pushed)
    del ours["README.md"]
    assert files == ours
    assert "# corpus" in card and f'load_dataset("{REPO}", "dit-tokenized"' in card


def test_a_dry_run_lists_what_would_be_sent_and_sends_nothing(
    hub: LoopbackHub, machine: Machine, dataset: Path
) -> None:
    done = machine.ok("push", dataset, REPO, "--dry-run")
    for path, raw in files_of(dataset).items():
        if path != "README.md":
            assert f"{len(raw):,}  {path}\n" in done.out
    assert "a new private repository" in done.out and "nothing was sent" in done.out
    assert not hub.repos and not (dataset / "CARD.md").exists()


def test_only_what_is_new_travels(hub: LoopbackHub, machine: Machine, pushed: Path) -> None:
    with hub.watched() as seen:
        done = machine.json("push", pushed, REPO)
    assert done["files"] == [] and done["commit"] == repo(hub).head
    assert not any(r.method in ("PUT", "POST") for r in seen)

    append_three(machine, pushed, "three")
    with hub.watched() as seen:
        done = machine.json("push", pushed, REPO)
    version = open_version(pushed)
    shards = {shard.path for shard in version.table("placements/three").shards}
    assert {file["path"] for file in done["files"]} == shards | {"manifest.json", "README.md"}
    assert sum(r.method == "PUT" for r in seen) == len(shards)
    assert set(repo(hub).tags) == {"v1", "v2"}
    assert repo(hub).files("v1")["manifest.json"] != repo(hub).files("v2")["manifest.json"]

    machine.ok("rm", pushed, "placements/three")
    done = machine.json("push", pushed, REPO)
    assert set(done["deleted"]) == shards
    assert not shards & set(repo(hub).files())


def test_bytes_that_the_hub_has_are_not_sent_again(
    hub: LoopbackHub, machine: Machine, pushed: Path
) -> None:
    """Under another name: an export that is equal but for its own."""
    machine.ok("export", pushed, "--placement", "dit", "--format", "tokenized", "--name", "twin")
    with hub.watched() as seen:
        machine.ok("push", pushed, REPO)
    assert not [r for r in seen if r.method == "PUT"]  # small files go with the commit
    twins = [path for path in repo(hub).files() if path.startswith("exports/twin/")]
    assert len(twins) == len([p for p in files_of(pushed) if p.startswith("exports/twin/")])


def test_visibility_is_asked_for_and_not_changed(
    hub: LoopbackHub, machine: Machine, dataset: Path
) -> None:
    machine.ok("push", dataset, REPO, "--public", "--tag", "first")
    assert not repo(hub).private and set(repo(hub).tags) == {"first"}
    done = machine.run("push", dataset, REPO, "--private")
    assert done.status == 2 and "is public, and --private was given" in done.err


def test_some_tables_alone(hub: LoopbackHub, machine: Machine, dataset: Path) -> None:
    done = machine.json("push", dataset, REPO, "--only", "examples,exports")
    there = repo(hub).files()
    folders = {path.partition("/")[0] for path in there}
    assert folders == {"examples", "exports", "manifest.json", "README.md", ".gitattributes"}
    card = there["README.md"].decode()
    assert "config_name: examples" in card and "config_name: scores-base" not in card
    # The rest later, under the same version and tag.
    more = machine.json("push", dataset, REPO)
    assert {f["path"] for f in more["files"]}.isdisjoint(
        {f["path"] for f in done["files"]} - {"README.md"}
    )
    assert repo(hub).tags == {"v1": repo(hub).head}
    assert "config_name: scores-base" in repo(hub).files("v1")["README.md"].decode()


def test_a_pull_request_leaves_the_main_branch(
    hub: LoopbackHub, machine: Machine, pushed: Path
) -> None:
    head = repo(hub).head
    append_three(machine, pushed, "three")
    done = machine.json("push", pushed, REPO, "--pr", "--message", "Three more")
    assert done["pull_request"].endswith(f"/datasets/{REPO}/discussions/1")
    assert repo(hub).head == head and set(repo(hub).tags) == {"v1"}
    proposed = repo(hub).commits[repo(hub).branches["refs/pr/1"]]
    assert proposed.title == "Three more" and "placements/three" in str(list(proposed.tree))


def test_a_remote_that_has_moved_on_is_left_alone(
    hub: LoopbackHub, machine: Machine, pushed: Path, tmp_path: Path
) -> None:
    machine.ok("pull", REPO, tmp_path / "theirs")
    for folder, name in ((tmp_path / "theirs", "a"), (pushed, "b")):
        append_three(machine, folder, name)
    machine.ok("push", tmp_path / "theirs", REPO)
    head = repo(hub).head
    done = machine.run("push", pushed, REPO)
    assert done.status == 1 and "Nothing was sent" in done.err and "pausedata pull" in done.err
    assert repo(hub).head == head
    # Somebody who is behind has nothing to push, either.
    old = tmp_path / "old"
    machine.ok("pull", REPO, old, "--revision", "v1")
    done = machine.run("push", old, REPO, "--tag", "again")
    assert done.status == 1 and "moved on" in done.err and repo(hub).head == head


def test_a_tag_of_another_version_is_not_moved(
    hub: LoopbackHub, machine: Machine, pushed: Path
) -> None:
    append_three(machine, pushed, "three")
    head = repo(hub).head
    done = machine.run("push", pushed, REPO, "--tag", "v1")
    assert done.status == 1 and "'v1'" in done.err
    assert repo(hub).head == head


def test_a_card_that_was_edited_on_the_hub_is_not_lost(
    hub: LoopbackHub, machine: Machine, pushed: Path
) -> None:
    (pushed / "CARD.md").write_text("Ours.\n")
    machine.ok("push", pushed, REPO)  # no longer the one of the first push: ours to change
    hub.add("datasets", REPO, {"README.md": b"edited in the browser"})
    append_three(machine, pushed, "three")
    done = machine.run("push", pushed, REPO)
    assert done.status == 1 and "CARD.md" in done.err and "--replace-card" in done.err
    assert repo(hub).files()["README.md"] == b"edited in the browser"
    machine.ok("push", pushed, REPO, "--replace-card")
    assert b"Ours." in repo(hub).files()["README.md"]


def test_something_else_is_not_overwritten(
    hub: LoopbackHub, machine: Machine, dataset: Path
) -> None:
    hub.add("datasets", REPO, {"README.md": b"mine", "data.csv": b"a,b"})
    done = machine.run("push", dataset, REPO)
    assert done.status == 2 and "README.md, data.csv" in done.err
    assert repo(hub).files()["README.md"] == b"mine"


def test_versions_that_were_deleted_here_are_still_known(machine: Machine, pushed: Path) -> None:
    for name in ("a", "b"):
        append_three(machine, pushed, name)
    machine.ok("gc", pushed, "--yes", "--older-than", "0")
    machine.ok("push", pushed, REPO)


def test_a_damaged_file_is_not_sent(hub: LoopbackHub, machine: Machine, dataset: Path) -> None:
    shard = open_version(dataset).table("scores/base").paths()[0]
    raw = shard.read_bytes()
    shard.chmod(0o644)
    shard.write_bytes(raw[:-9] + b"x" + raw[-8:])
    done = machine.run("push", dataset, REPO)
    assert done.status == 1 and shard.name in done.err and not hub.repos


# Safety


def test_a_secret_stops_the_push_and_is_named_by_its_place(
    hub: LoopbackHub, machine: Machine, dataset: Path
) -> None:
    secret = "hf_" + "aB3" * 12
    for text, what in (
        (f"See {secret}", "CARD.md"),
        ("Made in /home/someone/data", "/home/someone"),
        ("Made by mmustermann", "mmustermann"),
        ("Ask m@example.org", "m@example.org"),
        (f"Use {WRITE}", "Hugging Face"),
    ):
        (dataset / "CARD.md").write_text(text)
        done = machine.run("push", dataset, REPO, USER="mmustermann", EMAIL="m@example.org")
        assert done.status == 1 and "nothing was sent" in done.err
        assert what in done.err and "README.md, line" in done.err
        assert secret not in done.err
    assert not hub.repos


def test_the_token_is_said_nowhere(hub: LoopbackHub, machine: Machine, dataset: Path) -> None:
    for words in (
        ("--debug", "push", dataset, REPO),
        ("--debug", "push", dataset, "other/corpus"),
        ("--debug", "pull", REPO, machine.folder / "x"),
        ("--debug", "pull", "org/none", machine.folder / "y"),
    ):
        machine.run(*words, HF_DEBUG="1", HF_HUB_VERBOSITY="debug")  # which looks for it
    for path in machine.folder.rglob("*"):
        assert not path.is_file() or WRITE.encode() not in path.read_bytes(), path
    for there in hub.repos.values():
        for raw in there.files().values():
            assert WRITE.encode() not in raw


def test_who_may_not_is_told_what_to_do(hub: LoopbackHub, pushed: Path, tmp_path: Path) -> None:
    anyone = Machine(hub, tmp_path, None)
    done = anyone.run("pull", REPO, tmp_path / "a")
    assert done.status == 2 and "it is private" in done.err and "hf auth login" in done.err
    stranger = Machine(hub, tmp_path, "hf_" + "wrong" * 6)
    done = stranger.run("pull", REPO, tmp_path / "a")
    assert done.status == 1 and "does not accept the token" in done.err
    reader = Machine(hub, tmp_path, READ)
    reader.ok("pull", REPO, tmp_path / "a")
    reader.ok("place", tmp_path / "a", "x", "--strategy", "append", "--param", "tokens=3")
    done = reader.run("push", tmp_path / "a", REPO)
    assert done.status == 1 and "write access to org" in done.err
    assert not (tmp_path / "b").exists()


def test_a_gates_record_travels_with_its_dataset(
    machine: Machine, dataset: Path, model_folder: Path, tmp_path: Path
) -> None:
    machine.ok("prepare-model", model_folder, tmp_path / "trained")
    measure = ("measure", dataset, "--model", tmp_path / "trained", "--placement", "dit")
    measure = (*measure, "--allow-trained")  # the dataset has an export of all its rows
    judged = machine.run(*measure, "--gate", "min_examples=2", "--gate", "max_token_overhead=0")
    assert judged.status == 1
    machine.ok("push", dataset, REPO)
    machine.ok("pull", REPO, tmp_path / "there")
    assert open_version(tmp_path / "there").manifest.names("gates") == ["dit"]
    machine.ok("verify", tmp_path / "there")
    loaded = machine.python(
        "-c",
        "from datasets import load_dataset\n"
        f"rows = load_dataset({REPO!r}, 'gates-dit', split='train')\n"
        "print(len(rows), rows[0]['pauses'])",
    )
    assert loaded.out.split() == ["2", "3"], loaded.err
    asked = machine.ok(
        "sql", f"hf://{REPO}", "select sum(pauses)::int n from gates", "--format", "json"
    )
    assert json.loads(asked.out) == [{"n": 6}]


# Pull


def test_what_is_pulled_is_what_was_pushed(
    hub: LoopbackHub, machine: Machine, pushed: Path, tmp_path: Path
) -> None:
    machine.ok("pull", REPO, tmp_path / "a")
    ours, theirs = files_of(pushed), files_of(tmp_path / "a")
    assert theirs.pop("README.md") == repo(hub).files()["README.md"]
    ours.pop("README.md")
    assert theirs == ours
    machine.ok("verify", tmp_path / "a")
    assert open_version(tmp_path / "a").sha256 == open_version(pushed).sha256
    assert not list((tmp_path / "a" / "staging").glob("*/"))


def test_a_later_version_is_fetched_into_the_same_folder(
    hub: LoopbackHub, machine: Machine, pushed: Path, tmp_path: Path
) -> None:
    machine.ok("pull", REPO, tmp_path / "a")
    for name in ("one", "two"):  # a version in between is not on the Hub
        append_three(machine, pushed, name)
    machine.ok("push", pushed, REPO)
    done = machine.json("pull", REPO, tmp_path / "a")
    assert done["version"] == 3
    assert done["files"] == 2 * len(open_version(pushed).table("placements/one").shards)
    machine.ok("verify", tmp_path / "a")
    assert machine.json("pull", REPO, tmp_path / "a")["files"] == 0
    # And an older one beside it, which readers of the current do not see.
    machine.ok("pull", REPO, tmp_path / "a", "--revision", "v1")
    assert open_version(tmp_path / "a").number == 3


def test_a_folder_that_went_on_by_itself_is_left_alone(
    machine: Machine, pushed: Path, tmp_path: Path
) -> None:
    machine.ok("pull", REPO, tmp_path / "a")
    for folder, name in ((tmp_path / "a", "mine"), (pushed, "theirs")):
        append_three(machine, folder, name)
    machine.ok("push", pushed, REPO)
    done = machine.run("pull", REPO, tmp_path / "a")
    assert done.status == 1 and "another folder" in done.err
    assert "mine" in open_version(tmp_path / "a").placements
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").touch()
    done = machine.run("pull", REPO, tmp_path / "b")
    assert done.status == 2 and "thesis.tex" in done.err


def test_some_tables_alone_and_the_rest_when_it_is_needed(
    hub: LoopbackHub, machine: Machine, pushed: Path, tmp_path: Path
) -> None:
    root = tmp_path / "a"
    with hub.watched() as seen:
        machine.ok("pull", REPO, root, "--only", "examples,tokens,vocab")
    assert not [r for r in seen if "/scores/" in r.path or "/placements/" in r.path]
    absent = {"scores/base", "placements/dit", "placements/random", "exports/dit-tokenized"}
    assert set(json.loads((root / "pausedata.json").read_text())["absent"]) == absent
    assert open_version(root).sha256 == open_version(pushed).sha256
    done = machine.ok("verify", root)
    assert "not pulled" in done.err and "'scores/base'" in done.err
    ask = ("sql", root, "select avg(logprob) from tokens")
    done = machine.run(*ask)
    assert done.status == 2 and "--only scores/base" in done.err
    command = done.err.rpartition("Fetch it: pausedata ")[2].split()
    machine.ok(*command)  # as it says
    machine.ok(*ask)
    machine.ok("place", root, "low", "--strategy", "lowest_logprob", "--param", "positions=2")
    assert open_version(root).number == 2
    machine.ok("verify", root)
    absent -= {"scores/base"}
    assert set(json.loads((root / "pausedata.json").read_text())["absent"]) == absent
    done = machine.run("sql", root, "select count(*) from pauses where placement = 'dit'")
    assert done.status == 2 and "--only placements/dit" in done.err
    # What is not here is there, and need not be for what was made here to be pushed.
    done = machine.json("push", root, REPO)
    assert [f["path"] for f in done["files"] if f["path"].startswith("placements/")]
    assert not [f["path"] for f in done["files"] if f["path"].startswith("placements/dit")]
    # With the same tables fetched, both versions have them.
    machine.ok("pull", REPO, root)
    machine.ok("verify", root)
    assert "absent" not in json.loads((root / "pausedata.json").read_text())


def test_what_was_not_pushed_is_said(machine: Machine, dataset: Path, tmp_path: Path) -> None:
    machine.ok("push", dataset, REPO, "--only", "examples,tokens,vocab,scores")
    done = machine.ok("pull", REPO, tmp_path / "a")
    assert "placements/dit" in done.err and "not in the repository" in done.err
    machine.ok("verify", tmp_path / "a")
    done = machine.run("pull", REPO, tmp_path / "b", "--only", "placements/dit")
    assert done.status == 2 and "no table 'placements/dit'" in done.err


# In a dataset's place


def test_a_dataset_of_the_hub_is_read_where_a_folder_is_named(
    hub: LoopbackHub, machine: Machine, pushed: Path
) -> None:
    address = f"hf://{REPO}@v1"
    query = "select count(*) as n, sum(logprob) as s from tokens"
    here = machine.ok("sql", pushed, query, "--format", "csv").out
    with hub.watched() as seen:
        assert machine.ok("sql", address, query, "--format", "csv").out == here
    fetched = [r.path for r in seen if r.method == "GET" and "/resolve/" in r.path]
    assert any("/scores/base/" in path for path in fetched)
    assert not any("/placements/" in path or "/exports/" in path for path in fetched)
    machine.ok("stats", address)
    for words in (("show", "--placement", "dit"), ("stats", "--placements")):
        assert (
            machine.ok(words[0], address, *words[1:]).out
            == machine.ok(words[0], pushed, *words[1:]).out
        )
    out = machine.folder / "rows.jsonl"
    machine.ok("export", address, "--placement", "dit", "--format", "tokenized", "-o", out)
    kept = open_version(pushed).folder / "exports/dit-tokenized/train.jsonl"
    assert out.read_bytes() == kept.read_bytes()
    # What is fetched is kept.
    with hub.watched() as seen:
        machine.ok("sql", address, query)
    assert not [r for r in seen if "/resolve/" in r.path]


def test_places_and_exports_of_a_dataset_of_the_hub(machine: Machine, pushed: Path) -> None:
    address = f"hf://{REPO}"
    machine.ok("place", address, "two", "--strategy", "lowest_logprob", "--param", "positions=2")
    machine.ok("export", address, "--placement", "two", "--format", "tokenized")
    done = machine.ok("sql", address, "select count(*) as n from pauses where placement = 'two'")
    assert "24" in done.out
    machine.ok("push", address, "org/another")
    machine.ok("pull", "org/another", machine.folder / "b")
    machine.ok("verify", machine.folder / "b")


def test_without_a_network_the_last_commit_is_read(
    hub: LoopbackHub, machine: Machine, pushed: Path
) -> None:
    query = "select count(*) as n from examples"
    before = machine.ok("sql", f"hf://{REPO}", query).out
    done = machine.ok("sql", f"hf://{REPO}", query, HF_HUB_OFFLINE="1")
    assert done.out == before and "as of commit" in done.err
    done = machine.run("sql", "hf://org/none", query)
    assert done.status == 2 and "no dataset 'org/none'" in done.err
    done = machine.run("sql", f"hf://{REPO}@v9", query)
    assert done.status == 2 and "no revision 'v9'" in done.err


def test_python_opens_it_too(machine: Machine, pushed: Path) -> None:
    code = f"import pausedata; print(pausedata.open('hf://{REPO}').scores().count_rows())"
    done = machine.python("-c", code)
    assert done.out.strip() == "12", done.err


# Without pausedata


def test_datasets_loads_each_config_at_its_tag(machine: Machine, pushed: Path) -> None:
    append_three(machine, pushed, "three")
    machine.ok("push", pushed, REPO)
    code = f"""
import json, sys
from datasets import Features, List, Value, load_dataset
rows = load_dataset({REPO!r}, "dit-tokenized", revision="v1", split="train")
ids = List(Value("int32"))
assert rows.features == Features(
    {{"input_ids": ids, "attention_mask": List(Value("int8")), "labels": ids}}
), rows.features
streamed = load_dataset({REPO!r}, "dit-tokenized", revision="v1", split="train", streaming=True)
assert list(streamed) == list(rows) and streamed.features == rows.features
scores = load_dataset({REPO!r}, "scores-base", revision="v1")["train"]
assert scores.features["logprob"] == List(Value("float32"))
assert load_dataset({REPO!r}, "placements-three", revision="v2")["train"][0]["count"] == [3]
assert load_dataset({REPO!r}, revision="v1")["train"][0] == rows[0]  # the default
assert not [name for name in sys.modules if name.startswith("pausedata")]
print(json.dumps(list(rows)))
"""
    done = machine.python("-c", code)
    assert done.status == 0, done.err
    kept = files_of(pushed)["exports/dit-tokenized/train.jsonl"].decode().splitlines()
    assert json.loads(done.out.splitlines()[-1]) == [json.loads(line) for line in kept]


# What goes wrong


def whole_there(hub: LoopbackHub, root: Path) -> bool:
    """Whether what the main branch holds is what its manifest says."""
    files = repo(hub).files()
    manifest = json.loads(files["manifest.json"])
    for table in manifest["tables"].values():
        for entry in [*table["shards"], *table["files"]]:
            if hashlib.sha256(files[entry["path"]]).hexdigest() != entry["sha256"]:
                return False
    return verify(open_version(root), Silent()) == []


PASSING = [
    ("GET", "/api/datasets/", {"status": 500}),
    ("GET", "/tree/", {"status": 503}),
    ("GET", "/refs", {"status": 429, "headers": {"Retry-After": "1"}}),
    ("POST", "/preupload/", {"status": 503}),
    ("POST", "/objects/batch", {"status": 500}),
    ("PUT", "/lfs/", {"status": 503, "times": 2}),
    ("PUT", "/lfs/", {"cut_after": 100}),
    ("POST", "/commit/", {"status": 500}),
    ("POST", "/commit/", {"lose_answer": True}),
    ("POST", "/commit/", {"cut_after": 100}),
    ("POST", "/tag/", {"status": 503}),
    ("PUT", "/lfs/", {"delay": 2.0}),
]


@pytest.mark.parametrize(("method", "path", "fault"), PASSING, ids=str)
def test_trouble_that_passes_is_waited_for(
    hub: LoopbackHub, machine: Machine, pushed: Path, method: str, path: str, fault: Any
) -> None:
    append_three(machine, pushed, "three")
    hub.fault(method, path, **fault)
    commits = len(repo(hub).commits)
    machine.ok("push", pushed, REPO)
    assert len(repo(hub).commits) == commits + 1
    assert repo(hub).tags["v2"] == repo(hub).head
    assert whole_there(hub, pushed)


LASTING = [
    ("POST", "/preupload/", 401, "hf auth login"),
    ("POST", "/preupload/", 403, "write access"),
    ("POST", "/preupload/", 404, "Nothing|private|org/corpus"),
    ("POST", "/commit/", 409, "changed by somebody else"),
    ("POST", "/commit/", 412, "changed by somebody else"),
    ("POST", "/commit/", 503, "Run the command again"),
    ("GET", "/refs", 429, "too many requests"),
]


@pytest.mark.parametrize(("method", "path", "status", "told"), LASTING, ids=str)
def test_trouble_that_lasts_is_told_and_breaks_nothing(
    hub: LoopbackHub,
    machine: Machine,
    pushed: Path,
    method: str,
    path: str,
    status: int,
    told: str,
) -> None:
    append_three(machine, pushed, "three")
    head = repo(hub).head
    headers = {"Retry-After": "100000"} if status == 429 else {}
    hub.fault(method, path, status=status, headers=headers, times=99)
    done = machine.run_without_waiting("push", pushed, REPO)
    assert done.status == 1 or status == 404
    assert re.search(told, done.err), done.err
    assert repo(hub).head == head and whole_there(hub, pushed)
    # And then it goes on: large files that were sent are not sent again.
    hub.heal()
    with hub.watched() as seen:
        machine.ok("push", pushed, REPO)
    if path == "/commit/":
        assert not [r for r in seen if r.method == "PUT"]
    assert whole_there(hub, pushed)


def test_two_pushes_at_once_lose_nothing(
    hub: LoopbackHub, machine: Machine, pushed: Path, tmp_path: Path
) -> None:
    """The other one comes between our look and our commit."""
    machine.ok("pull", REPO, tmp_path / "theirs")
    for folder, name in ((tmp_path / "theirs", "a"), (pushed, "b")):
        append_three(machine, folder, name)
    hub.fault("POST", "/preupload/", delay=6.0)
    slow = subprocess.Popen(
        [sys.executable, "-m", "pausedata", "push", str(pushed), REPO],
        env=machine.environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    while not any("/refs" in r.path for r in hub.requests[-3:]):
        assert slow.poll() is None
    machine.ok("push", tmp_path / "theirs", REPO)
    head = repo(hub).head
    _, err = slow.communicate(timeout=60)
    assert slow.returncode == 1 and "changed by somebody else" in err
    assert repo(hub).head == head


def test_anothers_commit_of_the_same_version_is_not_taken_for_ours(
    hub: LoopbackHub, machine: Machine, dataset: Path, tmp_path: Path
) -> None:
    twin = shutil.copytree(dataset, tmp_path / "twin", symlinks=True)
    hub.fault("POST", "/commit/", delay=8.0)
    slow = subprocess.Popen(
        [sys.executable, "-m", "pausedata", "push", str(dataset), REPO],
        env=machine.environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    while not any("/lfs/" in r.path for r in hub.requests):
        assert slow.poll() is None
    time.sleep(2)
    machine.ok("push", twin, REPO, "--only", "examples")
    _, err = slow.communicate(timeout=60)
    assert slow.returncode == 1 and "changed by somebody else" in err
    machine.ok("push", dataset, REPO)
    assert whole_there(hub, dataset)


def test_a_table_leaves_the_repository_as_a_whole(
    hub: LoopbackHub, machine: Machine, pushed: Path, tmp_path: Path
) -> None:
    """Of a placement that was made anew and is not pushed one shard may be as it was."""
    machine.ok("place", pushed, "dit", "--strategy", "lowest_logprob", "--param", "positions=2",
               "--replace")  # fmt: skip
    machine.ok("push", pushed, REPO, "--only", "examples")
    assert not [p for p in repo(hub).files() if p.startswith(("placements/dit/", "exports/"))]
    assert [p for p in repo(hub).files() if p.startswith("placements/random/")]
    machine.ok("pull", REPO, tmp_path / "a")
    machine.ok("verify", tmp_path / "a")


def test_what_is_committed_during_a_pull_is_not_touched(
    hub: LoopbackHub, machine: Machine, pushed: Path, tmp_path: Path
) -> None:
    root = tmp_path / "a"
    machine.ok("pull", REPO, root)
    append_three(machine, pushed, "theirs")
    machine.ok("push", pushed, REPO)
    hub.fault("GET", "/resolve/.*/placements/theirs/", delay=8.0)
    slow = subprocess.Popen(
        [sys.executable, "-m", "pausedata", "pull", REPO, str(root)],
        env=machine.environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    while not any("placements/theirs" in r.path for r in hub.requests[-8:]):
        assert slow.poll() is None
    machine.ok("place", root, "mine", "--strategy", "append", "--param", "tokens=4")
    _, err = slow.communicate(timeout=60)
    assert slow.returncode == 1 and "another folder" in err
    machine.ok("verify", root)
    assert "mine" in open_version(root).placements


def test_what_is_absent_is_fetched_also_after_old_versions_are_gone(
    machine: Machine, pushed: Path, tmp_path: Path
) -> None:
    root = tmp_path / "a"
    machine.ok("pull", REPO, root, "--only", "examples,tokens,vocab,scores")
    machine.ok("place", root, "mine", "--strategy", "append", "--param", "tokens=4")
    machine.ok("gc", root, "--yes", "--older-than", "0")
    words = ("export", root, "--placement", "dit", "--format", "tokenized", "--name", "again")
    done = machine.run(*words)
    assert done.status == 2
    machine.ok(*done.err.rpartition("Fetch it: pausedata ")[2].split())
    machine.ok(*words)
    machine.ok("verify", root)
    # A push elsewhere does not hide where the rest is.
    machine.ok("push", root, "org/mine", "--only", "examples,tokens")
    done = machine.run("sql", root, "select count(*) from pauses where placement = 'random'")
    assert f"pausedata pull {REPO} " in done.err


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 503, "times": 2},
        {"status": 429, "headers": {"Retry-After": "1"}},
        {"cut_after": 700},
        {"cut_after": 700, "times": 3},
        {"corrupt": True},
        {"delay": 2.0},
    ],
    ids=str,
)
def test_a_pull_goes_on_after_trouble(
    hub: LoopbackHub, machine: Machine, pushed: Path, tmp_path: Path, fault: dict[str, Any]
) -> None:
    hub.fault("GET", "/resolve/.*/scores/base/", **fault)
    machine.ok("pull", REPO, tmp_path / "a")
    machine.ok("verify", tmp_path / "a")


def test_a_pull_says_that_the_hub_does_not_answer(
    hub: LoopbackHub, machine: Machine, pushed: Path, tmp_path: Path
) -> None:
    """And not that a file is missing, as huggingface_hub has it."""
    hub.fault("HEAD", "/resolve/.*/scores/base/", status=503, times=999)
    hub.fault("GET", "/resolve/.*/scores/base/", status=503, times=999)
    done = machine.run_without_waiting("pull", REPO, tmp_path / "a")
    assert done.status == 1 and "the Hub cannot answer for org/corpus now" in done.err


def test_what_stays_damaged_is_refused_and_what_came_is_kept(
    hub: LoopbackHub, machine: Machine, pushed: Path, tmp_path: Path
) -> None:
    hub.fault("GET", "/resolve/.*/scores/base/", corrupt=True, times=99)
    done = machine.run("pull", REPO, tmp_path / "a")
    assert done.status == 1 and "scores/base" in done.err and "Nothing was changed" in done.err
    assert not (tmp_path / "a" / "pausedata.json").exists()
    hub.heal()
    with hub.watched() as seen:
        machine.ok("pull", REPO, tmp_path / "a")
    again = [r.path for r in seen if r.method == "GET" and "/examples/" in r.path]
    assert not again
    machine.ok("verify", tmp_path / "a")


def test_a_pull_mends_what_was_damaged_here(
    hub: LoopbackHub, machine: Machine, pushed: Path, tmp_path: Path
) -> None:
    machine.ok("pull", REPO, tmp_path / "a")
    shard = open_version(tmp_path / "a").table("scores/base").paths()[0]
    shard.chmod(0o644)
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert machine.run("verify", tmp_path / "a").status == 1
    assert machine.json("pull", REPO, tmp_path / "a")["files"] == 1
    machine.ok("verify", tmp_path / "a")


@pytest.mark.parametrize("only", [None, "examples,tokens,vocab"])
def test_a_pull_may_be_killed_at_any_moment(
    hub: LoopbackHub, machine: Machine, pushed: Path, tmp_path: Path, only: str | None
) -> None:
    """At each of the steps by which what was fetched becomes a version: then it goes on."""
    words = [REPO, str(tmp_path / "a"), *(["--only", only] if only else [])]
    for number in range(1, 40):
        shutil.rmtree(tmp_path / "a", ignore_errors=True)
        code = KILL.format(number=number, words=["pull", *words])
        done = machine.python("-c", code)
        assert done.status in (0, 137), done.err
        # Whoever reads it now sees the version before, or this one, and each of its tables whole.
        if (tmp_path / "a" / "pausedata.json").exists():
            assert verify(open_version(tmp_path / "a"), Silent()) == []
        machine.ok("pull", *words)
        assert verify(open_version(tmp_path / "a"), Silent()) == []
        if done.status == 0:
            break
    assert number > 5


# Ends the process, as a kill would, at the n-th of the calls that change what is on disk.
KILL = """
import os, sys, pathlib, shutil
left = {number}
def counting(function):
    def call(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            os._exit(137)
        return function(*args, **kwargs)
    return call
from pausedata.store import files
from pausedata.hub import pull
for module, name in ((pull, "_link_read_only"), (pull, "point_at"), (pull, "write_pointer")):
    setattr(module, name, counting(getattr(module, name)))
pathlib.Path.rename = counting(pathlib.Path.rename)
sys.argv = ["pausedata", *{words}]
from pausedata.cli import main
main()
"""


def test_a_hostile_repository_leaves_nothing_behind(
    hub: LoopbackHub, machine: Machine, pushed: Path, tmp_path: Path
) -> None:
    files = repo(hub).files()
    manifest = json.loads(files["manifest.json"])
    shard = manifest["tables"]["examples"]["shards"][0]
    before = sorted(p for p in tmp_path.iterdir())
    for path in ("../../outside.parquet", "/tmp/outside.parquet", "examples/../../outside.parquet"):
        shard["path"] = path
        hub.add(
            "datasets", REPO, {"manifest.json": json.dumps(manifest).encode(), path: b"outside"}
        )
        done = machine.run("pull", REPO, tmp_path / "a")
        assert done.status == 1 and "not to be trusted" in done.err
        for words in (("sql", f"hf://{REPO}", "select 1"), ("push", pushed, REPO)):
            assert machine.run(*words).status == 1
    after = sorted(p for p in tmp_path.iterdir() if p.name not in ("hf", "pausedata"))
    assert [p for p in before if p.name not in ("hf", "pausedata")] == after
    assert not list(tmp_path.rglob("outside*")) and not Path("/tmp/outside.parquet").exists()


@pytest.mark.parametrize(
    "name", ["corpus", "org/", "/corpus", "org/a/b", "../x/y", "org/..", "org/a--b", "http://x/y"]
)
def test_what_names_no_repository_is_refused(
    hub: LoopbackHub, machine: Machine, dataset: Path, name: str
) -> None:
    for words in (("push", dataset, name), ("pull", name, machine.folder / "x")):
        done = machine.run(*words)
        assert done.status == 2 and "ORG/NAME" in done.err
    assert not hub.requests and not (machine.folder / "x").exists()
