"""Several processes at one dataset: they meet at their commits, and readers never notice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Recipe, held_scoring, make_model, start, wait_until
from handmade import commit_handmade

from pausedata.analysis.verify import verify, verify_others
from pausedata.core.progress import Silent
from pausedata.pipeline.commands import place
from pausedata.pipeline.recipe import Placement
from pausedata.store.dataset import open_version
from pausedata.store.gc import collect, plan_gc

pytestmark = pytest.mark.crash

COMMITS = 50
READER = """
import json, sys
from pathlib import Path
from pausedata.core.progress import Silent
from pausedata.store.dataset import open_version
from pausedata.analysis.verify import verify

root, stop = map(Path, sys.argv[1:])
seen, problems = set(), []
print("ready", flush=True)
while True:
    last = stop.exists()
    version = open_version(root)
    problems += verify(version, Silent())
    seen.add(version.number)
    if last:
        break
print(json.dumps({"seen": sorted(seen), "problems": problems}))
"""


def test_eight_readers_see_only_whole_versions_through_fifty_commits(tmp_path: Path) -> None:
    root, stop = tmp_path / "data", tmp_path / "stop"
    commit_handmade(root)
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, root, stop],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
    for number in range(COMMITS):
        place(root, {f"p{number}": Placement(strategy="append", tokens=1 + number)})  # type: ignore[call-arg]
        if number % 10 == 9:
            collect(plan_gc(root, older_than=0))  # nor does it take a version away under a reader
    stop.touch()
    seen: set[int] = set()
    for reader in readers:
        out, err = reader.communicate(timeout=300)
        assert reader.returncode == 0, err
        found = json.loads(out)
        assert found["problems"] == [] and found["seen"][-1] == 1 + COMMITS
        seen |= set(found["seen"])
    assert len(seen) > 3  # they did read meanwhile
    assert open_version(root).number == 1 + COMMITS


def test_a_long_score_and_ten_placements_lose_nothing(built: Recipe) -> None:
    other = make_model(built.folder / "epoch-1", seed=1)
    go = built.folder / "go"
    scoring = start(
        *("score", built.out, "--run", "epoch-1", "--model", other), first=held_scoring(go)
    )
    wait_until((built.folder / "held").exists, scoring)
    placing: list[Any] = [
        start(
            *("place", built.out, f"p{number}", "--strategy", "lowest_logprob"),
            *("--param", f"positions={1 + number}"),
        )
        for number in range(10)
    ]
    for process in placing[:5]:  # they do not wait for it
        assert process.wait(300) == 0, process.communicate()
    go.touch()
    for process in [*placing, scoring]:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    version = open_version(built.out)
    assert version.number == 12
    assert set(version.placements) == {"dit", "append"} | {f"p{number}" for number in range(10)}
    assert version.runs == ["base", "epoch-1"]
    assert not verify(version, Silent()) and not verify_others(version, Silent())
