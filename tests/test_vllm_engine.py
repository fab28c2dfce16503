"""Engines in processes of their own: their scores, and what happens when they or we are killed.

vLLM itself is a stand-in here (tests/stand_in), which answers from a table; test_vllm_real.py runs
the real one.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, Recipe, Run, wait_until
from conftest import start as launch

from pausedata.core.errors import DataError, UsageError
from pausedata.scorers import EngineLostError, Example, Scores, ignore_progress
from pausedata.scorers.vllm import VllmScorer
from pausedata.scorers.vllm.process import EngineProcess
from pausedata.store.dataset import open_version

STAND_IN = ROOT / "tests" / "stand_in"
Start = Callable[..., VllmScorer]
MARK = "PAUSEDATA_TEST"  # in the environment: which test a process belongs to


@pytest.fixture(autouse=True)
def mark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Other tests, and other runs of these, have such processes too."""
    monkeypatch.setenv(MARK, str(tmp_path))


def examples(count: int = 10, seed: int = 0) -> list[Example]:
    """Examples of random ids, of many lengths."""
    draw = np.random.default_rng(seed)
    return [
        Example(
            draw.integers(3, 390, draw.integers(1, 20)).astype(np.int32),
            draw.integers(3, 390, draw.integers(1, 40)).astype(np.int32),
        )
        for _ in range(count)
    ]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Start]:
    """Start engines of the stand-in; keywords say what goes wrong in it."""
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(STAND_IN), str(ROOT)]))
    # Where that is set, all that is printed is in the log at once, whatever we do.
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    started: list[VllmScorer] = []

    def call(
        engines: int = 1, engine: dict[str, Any] | None = None, warn: Any = print, **how: Any
    ) -> VllmScorer:
        monkeypatch.setenv("STAND_IN", json.dumps(how))
        processes = [
            EngineProcess(
                f"engine {k}",
                {
                    "model": "any",
                    "revision": None,
                    "dtype": "float32",
                    "longest": 64,
                    "batch_tokens": None,
                    "engine": engine or {},
                },
                {"OMP_NUM_THREADS": "1"},
                tmp_path / "logs" / f"engine-{k}.log",
                warn,
            )
            for k in range(engines)
        ]
        scorer = VllmScorer(processes, warn)
        started.append(scorer)
        for process in processes:
            process.start()
        for process in processes:
            process.ready()
        return scorer

    yield call
    for scorer in started:
        scorer.close()


# What the stand-in answers from: the logits of a token, by the token before it.
TABLE = np.random.default_rng(0).normal(0, 3, (400, 400)).astype(np.float32)


def reference(example: Example) -> tuple[list[float], list[int]]:
    """Log-probabilities and ranks of a response, token by token."""
    ids = [*example.prompt_ids, *example.response_ids]
    logprobs, ranks = [], []
    for k in range(len(example.prompt_ids), len(ids)):
        logits = [float(x) for x in TABLE[ids[k - 1]]]
        own = logits[ids[k]]
        logprobs.append(own - math.log(sum(math.exp(x) for x in logits)))
        ranks.append(sum(x >= own for x in logits))
    return logprobs, ranks


def assert_right(examples: list[Example], scores: list[Scores], *, ranked: bool = True) -> None:
    for example, found in zip(examples, scores, strict=True):
        logprobs, ranks = reference(example)
        np.testing.assert_allclose(found.logprob, logprobs, atol=1e-4)
        assert (None if found.rank is None else found.rank.tolist()) == (ranks if ranked else None)


def children(command: str) -> list[int]:
    """The processes, started by this very test, with ``command`` in their command line."""
    mark = f"{MARK}={os.environ[MARK]}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
                environment = (folder / "environ").read_bytes()
            except (OSError, UnicodeDecodeError):
                continue
            if command in line and state != "Z" and mark in environment.split(b"\0"):
                found.append(int(folder.name))
    return found


def gone(pids: list[int], seconds: float = 60) -> bool:
    """Whether all of these end within some time."""
    wait_until(lambda: all(map(zombie, pids)), seconds=seconds)
    return True


def zombie(pid: int) -> bool:
    """Whether a process is no more, or all but gone."""
    try:
        return " Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


@pytest.mark.parametrize(("v2", "path"), [(False, "flat"), (True, "target-only")])
def test_scores_are_the_models_by_either_way(start: Start, v2: bool, path: str) -> None:
    scorer, given, done = start(v2=v2), examples(30), list[int]()
    assert_right(given, scorer.score(given, done.append), ranked=not v2)
    assert sum(done) == sum(map(len, given))
    assert scorer.settings()["path"] == path
    assert scorer.rank_ties == (None if v2 else "included")
    assert scorer.versions()["vllm"] == "0.32.0"


def test_target_only_scores_that_are_wrong_are_found_at_the_first_examples(start: Start) -> None:
    warnings: list[str] = []
    scorer = start(v2=True, wrong=True, warn=warnings.append)
    given = examples()
    assert_right(given, scorer.score(given))
    assert scorer.settings()["path"] == "flat"
    assert len(warnings) == 1 and "target-only scores differ from prompt_logprobs by" in warnings[0]


def test_scores_that_target_only_leaves_out_later_are_asked_for_again(start: Start) -> None:
    scorer = start(v2=True, drop=37)  # request 0, and some of those after the first 16
    given = examples(60)
    for example, found in zip(given, scorer.score(given), strict=True):
        np.testing.assert_allclose(found.logprob, reference(example)[0], atol=1e-4)


def test_scores_of_other_tokens_are_refused(start: Start) -> None:
    with pytest.raises(DataError, match="fault of vLLM's"):
        start(shift=True).score(examples())


def test_two_threads_share_an_engine(start: Start) -> None:
    scorer = start()
    assert scorer.workers == 2
    units = [examples(12, seed) for seed in range(4)]
    results: dict[int, Any] = {}

    def score(number: int) -> None:
        results[number] = scorer.score(units[number])

    threads = [threading.Thread(target=score, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, unit in enumerate(units):
        assert_right(unit, results[number])


def test_what_vllm_prints_is_in_its_log_alone(
    start: Start, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    start().score(examples(2))
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""
    log = (tmp_path / "logs" / "engine-0.log").read_text()
    assert "noise of the engine" in log and "Chat template warmup failed" in log


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ({"tensor_paralel_size": 2}, "no such setting. Did you mean 'tensor_parallel_size'?"),
        ({"max_model_len": 5}, "not yours to set: it follows from scoring.max_length"),
        ({"data_parallel_size": 2}, "see scoring.engines"),
    ],
)
def test_settings_that_cannot_be_are_named(start: Start, engine: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=r"scoring\.engine") as error:
        start(engine=engine)
    assert said in str(error.value)


def test_an_engine_that_cannot_start_says_why_and_where_more_is(
    start: Start, tmp_path: Path
) -> None:
    with pytest.raises(EngineLostError) as error:
        start(fail="no memory for the cache")
    assert "RuntimeError: no memory for the cache" in str(error.value)
    assert str(tmp_path / "logs" / "engine-0.log") in str(error.value)
    assert "Traceback" in (tmp_path / "logs" / "engine-0.log").read_text()


def test_a_killed_engine_is_told_of_with_the_log(start: Start) -> None:
    with pytest.raises(EngineLostError, match="was ended by SIGKILL") as error:
        start(die=2).score(examples(40))
    assert "the same command goes on" in str(error.value)


def test_the_others_go_on_where_one_engine_is_lost(start: Start) -> None:
    warnings: list[str] = []
    scorer = start(engines=2, die=2, where="engine-1", warn=warnings.append)
    assert scorer.workers == 4
    given, lost = examples(40), 0
    scores: list[Any] = []
    progress: list[int] = []
    while not scores:
        scorer._under_way = [int(lost == 0), 0]  # the one that dies has least to do
        try:
            scores = scorer.score(given, progress.append)
        except EngineLostError:
            lost += 1
    assert lost == 1 and scorer.workers == 2
    assert sum(progress) == sum(map(len, given))  # what was lost is taken back
    assert len(warnings) == 1 and "The others take over" in warnings[0]
    assert_right(given, scores)


def test_closing_ends_vllms_own_processes(start: Start) -> None:
    scorer = start(child=True)
    scorer.score(examples(2))
    pids = [*children("scorers.vllm.worker"), *children("a child of vLLM")]
    assert len(pids) == 2
    scorer.close()
    assert gone(pids)


def test_closing_makes_a_call_under_way_fail(start: Start, tmp_path: Path) -> None:
    scorer = start(slow=0.2, tell=str(tmp_path))
    errors: list[BaseException] = []

    def score() -> None:
        try:
            scorer.score(examples(200))
        except EngineLostError as error:
            errors.append(error)

    thread = threading.Thread(target=score)
    thread.start()
    wait_until(lambda: list(tmp_path.glob("slow-*")))
    scorer.close()
    thread.join(10)
    assert not thread.is_alive() and len(errors) == 1


def test_engines_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from pausedata.scorers.vllm.process import EngineProcess\n"
        "job = {'model': sys.argv[2], 'revision': None, 'dtype': 'float32', 'longest': 64,\n"
        "       'batch_tokens': None, 'engine': {}}\n"
        "engine = EngineProcess('engine', job, {}, Path(sys.argv[3]), print)\n"
        "engine.start(); engine.ready(); print('ready', flush=True); input()\n"
    )
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(STAND_IN), str(ROOT)]),
        "STAND_IN": json.dumps({"child": True}),
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }
    log = tmp_path / "orphan.log"
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(ROOT), "any", str(log)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert parent.stdout is not None and parent.stdout.readline() == "ready\n"
    pids = [*children("scorers.vllm.worker"), *children("a child of vLLM")]
    assert len(pids) >= 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert gone(pids)


def test_progress_may_be_refused(start: Start) -> None:
    scorer = start()

    def refuse(tokens: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scorer.score(examples(), refuse)
    assert len(scorer.score(examples(), ignore_progress)) == 10  # the engine is not harmed


# The whole command


@pytest.fixture
def vllm_recipe(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The twelve problems by two engines of the stand-in, which no model would confirm."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(STAND_IN), str(ROOT)]))
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.syspath_prepend(str(STAND_IN))
    recipe.data["scoring"] = {"backend": "vllm", "cross_check": 0, "engines": 2}
    recipe.data["exports"] = {}
    return recipe


def test_a_build_records_how_its_scores_were_made(
    vllm_recipe: Recipe, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    vllm_recipe.data["scoring"]["engine"] = {"max_num_seqs": 7}
    done = run("build", vllm_recipe.write())
    assert done.status == 0, done.err
    assert "not checked against transformers: scoring.cross_check is 0" in done.err
    assert "noise" not in done.err
    version = open_version(vllm_recipe.out)
    facts = version.table("scores/base").entry.provenance
    assert facts["rank_ties"] == "included" and facts["versions"]["vllm"] == ["0.32.0"]
    assert facts["settings"] == [
        {
            "device": "cpu",
            "runner": "v1",
            "path": "flat",
            "max_num_batched_tokens": 1024,
            "engine": {"max_num_seqs": 7},
            "engines": 2,
        }
    ]
    # It moves last bits alone: the same run with another number is there already.
    vllm_recipe.data["scoring"]["engine"] = {"max_num_seqs": 9}
    assert run("build", vllm_recipe.write()).status == 0
    assert open_version(vllm_recipe.out).number == 1
    tokens, scores = version.table("tokens"), version.table("scores/base")
    for shard, scored in zip(tokens.shards, scores.shards, strict=True):
        rows, found = tokens.read(shard), scores.read(scored)
        for k in range(rows.num_rows):
            example = Example(rows["prompt_ids"][k].as_py(), rows["response_ids"][k].as_py())
            logprobs, ranks = reference(example)
            np.testing.assert_allclose(found["logprob"][k].as_py(), logprobs, atol=1e-4)
            assert found["rank"][k].as_py() == ranks


@pytest.mark.processes
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"]
)
@pytest.mark.parametrize("when", ["loading", "scoring", "closing"])
def test_a_build_that_is_stopped_leaves_no_engine(
    vllm_recipe: Recipe, number: signal.Signals, status: int, when: str, tmp_path: Path
) -> None:
    how: dict[str, Any] = {
        "loading": {"load": 60},
        "scoring": {"slow": 2},
        "closing": {"linger": 3},  # the engines take their time to end
    }[when]
    (begun,) = how
    (tmp_path / "told").mkdir()
    how |= {"child": True, "tell": str(tmp_path / "told")}
    # An engine that loads hears nothing of its end; it is given less time for it than it would be.
    less = "import pausedata.scorers.vllm.process as p; p.PATIENCE = 1.0" * (when == "loading")
    process = launch("build", vllm_recipe.write(), first=less, env={"STAND_IN": json.dumps(how)})
    wait_until(lambda: len(list((tmp_path / "told").glob(f"{begun}-*"))) == 2, process)
    pids = [*children("scorers.vllm.worker"), *children("a child of vLLM")]
    assert len(pids) >= 2
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == status, said
    assert "finished shards are kept" in said and "Traceback" not in said
    assert gone(pids)
