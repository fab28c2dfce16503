"""A source and a model of the Hub, at the commit that a dataset was made from."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import PROBLEMS, ROOT, make_model
from loopback_hub import READ, LoopbackHub
from machine import Machine

from pausedata.store.dataset import open_version

pytestmark = pytest.mark.hub

MODEL, SOURCE = "HuggingFaceTB/SmolLM2-135M-Instruct", "openai/gsm8k"
CARD = b"""---
configs:
- config_name: main
  data_files:
  - split: train
    path: main/train-*
  - split: test
    path: main/test-*
---
# Grade school math, with eight problems
"""
GSM8K = ROOT / "recipes" / "gsm8k.yaml"
BUILD = ("build", GSM8K, "--set", "source.holdout=null")  # of eight rows none may be held out


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    columns = {name: [row[name] for row in rows] for name in ("question", "answer")}
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def problems(start: int, stop: int) -> bytes:
    lines = PROBLEMS.read_text(encoding="utf-8").splitlines()[start:stop]
    return parquet([json.loads(line) for line in lines])


def add_source(hub: LoopbackHub, rows: bytes, **how: Any) -> str:
    files = {
        "README.md": CARD,
        "main/train-00000-of-00001.parquet": rows,
        "main/test-00000-of-00001.parquet": problems(20, 24),
    }
    return hub.add("datasets", SOURCE, files, **how)


def add_model(hub: LoopbackHub, folder: Path, **how: Any) -> str:
    make_model(folder)
    return hub.add("models", MODEL, {path.name: path for path in folder.iterdir()}, **how)


@pytest.fixture
def commits(hub: LoopbackHub, tmp_path: Path) -> dict[str, str]:
    return {
        "source.revision": add_source(hub, problems(0, 8)),
        "model.revision": add_model(hub, tmp_path / "model"),
    }


def contents(root: Path) -> dict[str, str]:
    return {name: entry.content for name, entry in open_version(root).manifest.tables.items()}


def test_the_recipe_runs_unchanged_and_its_dataset_is_shared(
    hub: LoopbackHub, machine: Machine, commits: dict[str, str], tmp_path: Path
) -> None:
    machine.ok(*BUILD, "--output", "a")
    manifest = open_version(tmp_path / "a").manifest
    assert commits["source.revision"] in manifest.pins.values()
    assert commits["model.revision"] in manifest.pins.values()
    source = manifest.tables["examples"].provenance["source"]
    assert source == {"hub": SOURCE, "config": "main", "revision": commits["source.revision"]}
    model = manifest.tables["scores/base"].provenance["model"]
    assert (model["id"], model["revision"]) == (MODEL, commits["model.revision"])

    machine.ok("push", "a", "org/gsm8k-dit", "--license", "mit")
    card = hub.repo("datasets", "org/gsm8k-dit").files("v1")["README.md"].decode()
    for line in ("license: mit", f"- {MODEL}", f"- {SOURCE}", "- config_name: random-tokenized"):
        assert line in card
    machine.ok("pull", "org/gsm8k-dit", "b")
    machine.ok("verify", "b")
    code = """
from datasets import load_dataset
rows = load_dataset("org/gsm8k-dit", "dit-tokenized", revision="v1", split="train")
print(rows.num_rows, sum(ids.count(400) for ids in rows["input_ids"]))
"""
    done = machine.python("-c", code)
    assert done.out.split() == ["8", "40"], done.err  # five pauses in each of eight


def test_the_same_commits_give_the_same_contents_and_stay(
    hub: LoopbackHub, machine: Machine, commits: dict[str, str], tmp_path: Path
) -> None:
    machine.ok(*BUILD, "--output", "a")
    before = contents(tmp_path / "a")
    add_source(hub, problems(8, 16))  # the Hub moves on
    # What is there is pinned, and needs no network.
    done = machine.ok(*BUILD, "--output", "a", HF_HUB_OFFLINE="1")
    assert "nothing to do" in done.out + done.err
    for number, revision in enumerate((commits["source.revision"], None)):
        name = f"other-{number}"
        pinned = ["--set", f"source.revision={revision}"] if revision else []
        other = Machine(hub, tmp_path / name)
        other.folder.mkdir()
        other.ok(*BUILD, "--output", "x", *pinned)
        assert (contents(other.folder / "x") == before) == (revision is not None)
    done = machine.run(*BUILD, "--output", "a", "--update")
    assert done.status == 2 and "--replace" in done.err
    machine.ok(*BUILD, "--output", "a", "--update", "--replace")
    assert contents(tmp_path / "a") == contents(tmp_path / "other-1" / "x")


@pytest.mark.parametrize("what", ["source", "model"])
@pytest.mark.parametrize("how", ["private", "gated"])
def test_what_is_private_or_gated_is_told(
    hub: LoopbackHub, tmp_path: Path, what: str, how: str
) -> None:
    add_source(hub, problems(0, 8), **({how: True} if what == "source" else {}))
    add_model(hub, tmp_path / "model", **({how: True} if what == "model" else {}))
    token = None if how == "private" else READ
    done = Machine(hub, tmp_path, token).run(*BUILD, "--output", "a")
    assert done.status in (1, 2)
    assert (SOURCE if what == "source" else MODEL) in done.err
    assert "hf auth login" in done.err and "HF_TOKEN" in done.err
    if how == "gated":
        assert re.search("access|terms", done.err)
    assert len(done.err.strip().splitlines()) <= 3
    # With a login it goes on.
    Machine(hub, tmp_path).ok(*BUILD, "--output", "a")


def test_what_is_not_there_is_told(hub: LoopbackHub, machine: Machine) -> None:
    done = machine.run(*BUILD, "--output", "a")
    assert done.status == 2 and f"no dataset '{SOURCE}'" in done.err
    add_source(hub, problems(0, 8))
    done = machine.run(*BUILD, "--output", "a")
    assert done.status == 2 and MODEL in done.err
    done = machine.run(*BUILD, "--output", "a", "--set", "source.revision=v9")
    assert done.status == 2 and "v9" in done.err


def test_code_of_a_model_repository_is_never_run(
    hub: LoopbackHub, machine: Machine, tmp_path: Path
) -> None:
    """Nobody is asked, and nothing is fetched to be run: pausedata has no way to turn it on."""
    add_source(hub, problems(0, 8))
    folder = make_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    mark = tmp_path / "was-run"
    config |= {
        "model_type": "of-its-own",
        "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(mark)!r}, 'w').write('x')\n")
    hub.add("models", MODEL, {path.name: path for path in folder.iterdir()})
    done = machine.run(*BUILD, "--output", "a")
    assert done.status in (1, 2) and not mark.exists()
    assert "code of its own" in done.err and MODEL in done.err
