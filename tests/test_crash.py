"""Two hundred kills at seeded moments, over scoring, placing, exporting, committing and gc.

And a disk that is full, at as many moments as a third of that. After each: what is there is whole,
and the same commands run again make the same contents. `make test-crash` runs this; it takes some
minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Recipe, make_model

MOMENTS = 210
SEED = 14


@pytest.fixture(scope="module")
def moments(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> list[dict[str, Any]]:
    """What became of the dataset at every moment."""
    folder = tmp_path_factory.mktemp("crash")
    recipe = Recipe(folder, {
        "format": "pausedata-recipe/1",
        "name": "crash",
        "source": {"files": [str(ROOT / "recipes" / "data" / "word_problems.jsonl")], "limit": 6},
        "prompt": "Question: {{ question }}\nAnswer:",
        "response": " {{ answer }}",
        "model": {"id": str(model_folder)},
        "placements": {"dit": {"strategy": "lowest_logprob", "positions": 3}},
        "exports": {"dit-tokenized": {"placement": "dit", "format": "tokenized"}},
        "shard_rows": 3,
        "output": "unused",
    })  # fmt: skip
    other = make_model(folder / "epoch-1", seed=1)
    words = [folder, recipe.write(), other, MOMENTS, SEED]
    ended = subprocess.run(
        [sys.executable, Path(__file__).with_name("crash.py"), *map(str, words)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return [json.loads(line) for line in ended.stdout.splitlines()]


@pytest.mark.crash
def test_the_session_was_ended_at_every_moment(moments: list[dict[str, Any]]) -> None:
    killed = [m for m in moments if m["kind"] in ("call", "seconds")]
    assert len(killed) >= 200
    assert all(m["ended"] for m in killed if m["kind"] == "call")
    # A moment by time may come when all is done, as may a disk with just enough room; and without
    # room for `current`, which is a convenience, a commit goes on.
    assert sum(m["ended"] for m in moments) > 0.9 * len(moments)
    assert [m for m in moments if m["kind"] == "refused"]


@pytest.mark.crash
@pytest.mark.parametrize(
    ("key", "right"),
    [("after", []), ("same", True), ("finally", [])],
    ids=["what-is-there-is-whole", "the-rerun-makes-the-same", "and-is-whole"],
)
def test_at_every_moment(moments: list[dict[str, Any]], key: str, right: Any) -> None:
    assert [m for m in moments if "error" in m] == []
    assert [m for m in moments if m[key] != right] == []


@pytest.mark.crash
def test_the_last_gc_leaves_no_staging(moments: list[dict[str, Any]]) -> None:
    left = {name for m in moments for name in m["staging"]}
    assert {name for name in left if not name.endswith(".lock")} == {"pins.json"}
