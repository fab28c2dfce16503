"""The paper in miniature runs: corpus, scores, placements, exports, TRL, answers, gate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from pausedata.store.dataset import open_version

pytestmark = pytest.mark.trainers
FOLDER = ROOT / "examples" / "paper_in_miniature"
WAYS = ["none", "every_word", "lowest_logprob"]  # of five, the two that are unlike one another


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the quick version wrote: the chain alone, on sizes that prove nothing."""
    out = tmp_path_factory.mktemp("miniature") / "out"
    command = [sys.executable, FOLDER / "run.py", "--quick", "--output", out]
    command += ["--ways", *WAYS]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def results(output: Path) -> dict[str, Any]:
    """Of each way what `measure --json` printed."""
    return json.loads((output / "results.json").read_text())["results"]


def test_every_way_has_its_row_with_figures_and_a_verdict(
    output: Path, results: dict[str, Any]
) -> None:
    assert list(results) == WAYS
    for way, (told,) in results.items():
        assert told["placement"] == way and told["examples"] == 24
        assert told["verdict"] in ("go", "no-go", "not-enough-data")
        low, high = told["gain_interval"]
        assert low <= told["gain"] <= high
        assert 0 <= told["generated"]["accuracy_with"] <= 1
    lines = (output / "results.md").read_text().splitlines()
    assert len(lines) == 2 + len(WAYS)


def test_plain_fine_tuning_gains_nothing_over_itself(results: dict[str, Any]) -> None:
    (plain,) = results["none"]
    assert plain["gain"] == 0 and plain["token_overhead"] == 0
    assert plain["generated"]["pauses"] == 0


def test_exports_hold_the_pauses_of_their_placements(output: Path) -> None:
    version = open_version(output / "dataset")
    pause = version.manifest.pause.id
    for way in WAYS:
        lines = (version.folder / "exports" / way / "train.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        counts = [row["input_ids"].count(pause) for row in rows]
        assert len(rows) == 128
        if way == "none":
            assert set(counts) == {0}
        elif way == "every_word":
            assert min(counts) >= 5  # four steps at least, and the answer
        else:
            assert set(counts) == {5}
        masked = [label for row in rows for label in row["labels"] if label == pause]
        assert not masked  # no loss on predicting a pause


def test_the_trained_models_load_and_their_answers_have_no_pauses(output: Path) -> None:
    from transformers import AutoModelForCausalLM

    before = AutoModelForCausalLM.from_pretrained(output / "prepared").state_dict()
    for way in WAYS:
        after = AutoModelForCausalLM.from_pretrained(output / "models" / f"{way}-0").state_dict()
        assert any((after[name] != before[name]).any() for name in after), way
        text = (output / "measured" / f"{way}-0.jsonl").read_text()
        assert len(text.splitlines()) == 24 and "[PAUSE]" not in text


def test_the_records_are_in_the_dataset(output: Path, results: dict[str, Any]) -> None:
    version = open_version(output / "dataset")
    assert version.manifest.names("gates") and len(version.manifest.names("gates")) == len(WAYS)
    for way, (told,) in results.items():
        assert version.table(f"gates/{way}-0").entry.provenance["result"] == told
