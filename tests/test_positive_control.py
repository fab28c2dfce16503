"""The positive control: the gate says go where pauses help, and only there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

FOLDER = ROOT / "examples" / "positive_control"
sys.path.insert(0, str(FOLDER))


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What the quick form found: a seed, and three look-ups instead of four."""
    out = tmp_path_factory.mktemp("control") / "out"
    command = [sys.executable, FOLDER / "run.py", "--quick", "--jobs", "1", "--output", out]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shown = (out / "results.md").read_text("utf-8")
    assert "| pauses help | +" in shown and shown in done.stdout
    return json.loads((out / "results.json").read_text("utf-8"))["verdicts"]


@pytest.mark.trainers
@pytest.mark.parametrize(
    ("what", "verdict"),
    [
        ("pauses help", "go"),
        ("pauses help, answers", "go"),
        ("pauses cannot help", "no-go"),
        ("twenty rows", "not-enough-data"),
        ("coin flips, places that tell", "not-enough-data"),
        ("coin flips, random places", "no-go"),
    ],
)
def test_the_gate_tells_help_from_what_only_looks_like_it(
    verdicts: dict[str, list[dict[str, Any]]], what: str, verdict: str
) -> None:
    (told,) = verdicts[what]
    assert told["verdict"] == verdict, told["reasons"]
    if what == "pauses help, answers":
        assert told["generated"]["accuracy_gain"] > 0.2 and told["generated"]["pauses"] == 5
    if what == "pauses help":  # before the answer in every row: the place tells nothing
        assert told["leak"] == 0 and told["gain_interval"][0] > 0.01
    if what == "coin flips, places that tell":
        assert told["gain"] > 0.2 and told["leak"] > told["gain"]


def test_a_problem_is_the_parity_of_its_look_ups() -> None:
    from tasks import problems, tables

    found = tables()
    some = list(islice(problems(4, seed=0), 200))
    for one in some:
        digits, key = one.prompt[:-1].split(":")
        odd = sum(found[int(key)][int(digit)] for digit in digits) % 2
        assert one.response == f"{odd}\n#### {odd}"
    assert {len(one.digits) for one in some} == {1, 4}
    assert [one.prompt for one in some] != [p.prompt for p in islice(problems(4, 1), 200)]


def test_no_prompt_that_is_trained_on_is_measured(tmp_path: Path) -> None:
    from tasks import problems, write

    write(tmp_path / "corpus", lambda s: ((p.prompt, p.response) for p in problems(4, s)), 300, 50)
    train, test = (
        [json.loads(line) for line in (tmp_path / "corpus" / f"{s}.jsonl").read_text().splitlines()]
        for s in ("train", "test")
    )
    assert (len(train), len(test)) == (300, 50)
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in test}
