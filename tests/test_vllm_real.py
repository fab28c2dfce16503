"""vLLM itself, on the CPU, with the real SmolLM2 (make test-vllm): equal to transformers, and safe.

Each start of an engine costs half a minute, so that these tests do much at a time.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import PROBLEMS, ROOT, SMOLLM2, start

import pausedata
from pausedata.scorers.agreement import BOUNDS
from pausedata.store.dataset import open_version
from pausedata.store.tables import list_parts

pytestmark = pytest.mark.vllm

BOUND = BOUNDS["float32"].largest


def write_recipe(folder: Path, rows: int, **scoring: Any) -> Path:
    """A recipe over real word problems."""
    recipe = {
        "format": "pausedata-recipe/1",
        "name": "real",
        "source": {"files": [str(PROBLEMS)], "limit": rows},
        "prompt": "Question: {{ question }}\nAnswer:",
        "response": " {{ answer }}",
        "model": {"id": str(SMOLLM2)},
        "scoring": {"backend": "vllm", "cross_check": 4} | scoring,
        "placements": {"dit": {"strategy": "lowest_logprob", "positions": 5}},
        "shard_rows": 4,
        "output": str(folder / "out"),
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def scores_of(root: Path, run: str) -> tuple[list[np.ndarray[Any, Any]], list[Any]]:
    """Log-probabilities and ranks of a run, by example."""
    table = open_version(root).table(f"scores/{run}")
    logprobs: list[np.ndarray[Any, Any]] = []
    ranks: list[Any] = []
    for shard in table.shards:
        rows = table.read(shard, ["logprob", "rank"])
        offsets, values = list_parts(rows, "logprob")
        logprobs += np.split(values, offsets[1:-1])
        ranks += rows.column("rank").to_pylist()
    return logprobs, ranks


def positions_of(root: Path, placement: str) -> list[list[int]]:
    table = open_version(root).table(f"placements/{placement}")
    return [p for s in table.shards for p in table.read(s).column("position").to_pylist()]


def same_but_for_near_ties(
    logprobs: list[np.ndarray[Any, Any]], ours: list[list[int]], theirs: list[list[int]]
) -> int:
    """How many examples got other positions; where they did, it was between equals."""
    differing = 0
    for values, a, b in zip(logprobs, ours, theirs, strict=True):
        here, there = set(a) - set(b), set(b) - set(a)
        assert len(here) == len(there)
        differing += bool(here)
        between = [values[k] for k in here | there]
        assert not between or max(between) - min(between) < 2 * BOUND
    return differing


def workers(root: Path) -> list[int]:
    """The processes of engines, and vLLM's own, that were started for a dataset."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                log = str((folder / "fd" / "1").readlink())
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if log.startswith(str(root)) and state != "Z":
                found.append(int(folder.name))
    return found


def wait_until(what: Callable[[], Any], seconds: float, process: Any = None) -> Any:
    """The first true value of ``what``."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := what():
            return found
        if process is not None and process.poll() is not None:
            pytest.fail(f"it ended: {process.communicate()}")
        time.sleep(0.05)
    return pytest.fail("it did not come about in time")


def staged(root: Path) -> dict[str, int]:
    """The finished shards of scores in staging, with their inodes: those that have a record."""
    return {
        shard.name: shard.stat().st_ino
        for shard in root.glob("staging/scores-*/scores/*/*.parquet")
        if (
            shard.parents[2] / "records" / "scores" / shard.parent.name / f"{shard.name}.json"
        ).is_file()
    }


def test_scores_equal_transformers_and_so_do_positions(tmp_path: Path) -> None:
    """With a warm-up, so that two models score in turn, each in an engine of its own."""
    warmup = {"rows": 16, "rank": 4}
    recipe = write_recipe(tmp_path, 36, cross_check=8, warmup=warmup)
    root = tmp_path / "out"
    process = start("build", recipe)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    # The person sees pausedata's own lines alone.
    assert not re.search(r"INFO|WARNING|Traceback|EngineCore|it/s", out + err), err
    # Nothing is left behind in staging, and no process.
    assert not list(root.glob("staging/scores-*")) and not workers(root)

    facts = open_version(root).table("scores/base").entry.provenance
    check = facts["cross_check"]
    assert check["examples"] == 8 and check["largest"] <= check["bound"]["largest"] == BOUND
    assert facts["rank_ties"] == "included"
    assert facts["settings"][0]["path"] == "flat" and facts["settings"][0]["runner"] == "v1"
    assert facts["versions"]["vllm"] == ["0.32.0"]
    assert facts["inputs"]["backend"] == "vllm" and facts["inputs"]["dtype"] == "float32"

    assert facts["warmup"]["outcome"] == "warmed"

    words = ["--run", "tf", "--backend", "transformers", "--model", str(SMOLLM2)]
    words += [f"--warmup-param={key}={value}" for key, value in warmup.items()]
    process = start("score", root, *words)
    assert process.wait(timeout=900) == 0, process.communicate()
    process = start(
        "place", root, "tf", "--strategy", "lowest_logprob", "--param", "positions=5", "--run", "tf"
    )
    assert process.wait(timeout=100) == 0, process.communicate()
    assert open_version(root).table("scores/tf").entry.provenance["warmup"] == facts["warmup"]
    ours, our_ranks = scores_of(root, "base")
    theirs, their_ranks = scores_of(root, "tf")
    largest = max(np.abs(a - b).max() for a, b in zip(ours, theirs, strict=True))
    print(f"largest difference over {sum(map(len, ours))} tokens: {largest:.2e} nats")
    assert largest <= BOUND
    both = our_ranks, their_ranks
    # vLLM counts equals: never less than transformers, but for what the last bits reorder.
    first = [(np.array(a) == 1) == (np.array(b) == 1) for a, b in zip(*both, strict=True)]
    assert np.concatenate(first).mean() > 0.999
    differing = same_but_for_near_ties(theirs, positions_of(root, "dit"), positions_of(root, "tf"))
    print(f"examples with other positions: {differing} of {len(ours)}")
    assert pausedata.open(root).version == 3


def test_kills_of_engine_and_parent_cost_what_was_under_way_alone(tmp_path: Path) -> None:
    recipe, root = write_recipe(tmp_path, 72), tmp_path / "out"

    def build_until(shards: int) -> subprocess.Popen[str]:
        process = start("build", recipe, start_new_session=True)
        wait_until(lambda: len(staged(root)) >= shards, 600, process)
        return process

    # The engine is killed.
    process = build_until(1)
    (engine,) = workers(root)
    os.kill(engine, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "was ended by SIGKILL" in err and "Traceback" not in err
    log = re.search(r"own words: (\S+)", err)
    assert log and "vllm" in Path(log[1]).read_text().lower()
    wait_until(lambda: not workers(root), 20)
    before = staged(root)

    # The parent is killed: the engine ends with it, and what was staged is not scored again.
    process = build_until(len(before) + 1)
    assert before.items() <= staged(root).items()
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not workers(root), 20)
    before = staged(root)

    # Ctrl-C while an engine loads, and a scheduler's SIGTERM while one works.
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = start("build", recipe, start_new_session=True)
        wait_until(lambda: workers(root), 100, process)
        if number == signal.SIGTERM:
            wait_until(lambda: len(staged(root)) > len(before), 600, process)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == status, err
        assert "finished shards are kept" in err and "Traceback" not in err
        wait_until(lambda: not workers(root), 20)

    process = start("build", recipe)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert "shards were scored before and are kept" in err
    facts = open_version(root).table("scores/base").entry.provenance
    assert facts["scored_examples"] == 72 and facts["cross_check"]["examples"] == 4
    for path, inode in before.items():  # the very files that were staged before the kills
        assert (root / "current" / "scores" / "base" / path).stat().st_ino == inode


def test_one_of_two_engines_is_killed_and_the_other_takes_its_work(tmp_path: Path) -> None:
    recipe, root = write_recipe(tmp_path, 72, engines=2), tmp_path / "out"
    process = start("build", recipe)
    wait_until(lambda: len(staged(root)) >= 1, 900, process)
    both = workers(root)
    assert len(both) == 2
    os.kill(both[0], signal.SIGKILL)
    _, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    assert err.count("The others take over what it had.") == 1
    facts = open_version(root).table("scores/base").entry.provenance
    assert facts["scored_examples"] == 72 and facts["settings"][0]["engines"] == 2
    assert facts["cross_check"]["largest"] <= BOUND
    assert not workers(root)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def serving(
    folder: Path, port: int, log: Path, *words: str, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """``vllm serve`` on loopback, with a key."""
    # What `vllm serve` runs; that command itself looks for a distribution of the name vllm, which
    # the build for CPUs is not.
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)),
        *("--host", "127.0.0.1", "--port", str(port), "--max-model-len", "1024"),
        *("--dtype", "float32", "--enforce-eager", "--no-enable-prefix-caching"),
        *("--max-num-batched-tokens", "1024", "--served-model-name", "SmolLM2", *words),
    ]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env=os.environ
            | {"VLLM_API_KEY": "a-secret", "VLLM_CPU_KVCACHE_SPACE": "1"}
            | environment,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_real_server_that_restarts_in_mid_run(tmp_path: Path) -> None:
    from pausedata.models.cache import folder_for_engine
    from pausedata.models.ref import ModelRef

    folder, _ = folder_for_engine(ModelRef.parse(str(SMOLLM2), None, ROOT))
    port = free_port()
    root, log = tmp_path / "out", tmp_path / "serve.log"
    url = f"http://127.0.0.1:{port}"
    recipe = write_recipe(tmp_path, 32, backend="server", url=url)
    key = {"VLLM_API_KEY": "a-secret"}
    with serving(Path(folder), port, log):
        wait_until(lambda: b"startup complete" in log.read_bytes(), 300)
        process = start("build", recipe, env=key)
        wait_until(lambda: len(staged(root)) >= 1, 600, process)
    with serving(Path(folder), port, log):
        _, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    facts = open_version(root).table("scores/base").entry.provenance
    assert facts["scored_examples"] == 32 and facts["rank_ties"] == "included"
    assert facts["cross_check"]["largest"] <= BOUND
    manifest = (root / "current" / "manifest.json").read_text()
    assert "127.0.0.1" not in manifest and "a-secret" not in manifest + err
    assert json.loads(manifest)["recipe"]["scoring"]["backend"] == "server"
