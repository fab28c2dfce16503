"""Engines in processes of their own: their scores, and what happens when they or we are killed.

vLLM itself is a stand-in here (tests/stand_in), which answers as a transformers model does;
test_vllm_real.py runs the real one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from pausedata.errors import UsageError
from pausedata.scorers import EngineLostError, Example, ignore_progress, load_scorer
from pausedata.scorers.vllm import VllmScorer
from pausedata.scorers.vllm.process import EngineProcess

STAND_IN = ROOT / "tests" / "stand_in"
Start = Callable[..., VllmScorer]


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
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model_folder: Path) -> Iterator[Start]:
    """Start engines of the stand-in; keywords say what goes wrong in it."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(STAND_IN), str(ROOT)]))
    started: list[VllmScorer] = []

    def call(
        engines: int = 1, engine: dict[str, Any] | None = None, warn: Any = print, **how: Any
    ) -> VllmScorer:
        monkeypatch.setenv("STAND_IN", json.dumps(how))
        processes = [
            EngineProcess(
                f"engine {k}",
                {
                    "model": str(model_folder),
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


def reference(model_folder: Path) -> Any:
    """The same model with transformers."""
    from pausedata.models import ModelRef

    model = ModelRef.parse(str(model_folder), None, Path.cwd())
    return load_scorer("transformers", model, device="cpu")


def children(command: str) -> list[int]:
    """The processes, started by these tests, with ``command`` in their command line."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
                environment = (folder / "environ").read_bytes()
            except (OSError, UnicodeDecodeError):
                continue
            if command in line and state != "Z" and str(STAND_IN).encode() in environment:
                found.append(int(folder.name))
    return found


def gone(pids: list[int], seconds: float = 20) -> bool:
    """Whether all of these end within some time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not any(Path(f"/proc/{pid}/stat").exists() and not zombie(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def zombie(pid: int) -> bool:
    try:
        return " Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


@pytest.mark.parametrize(("v2", "path"), [(False, "flat"), (True, "target-only")])
def test_scores_are_the_models_by_either_way(
    start: Start, model_folder: Path, v2: bool, path: str
) -> None:
    scorer, wanted = start(v2=v2), reference(model_folder)
    given = examples(30)
    done: list[int] = []
    for ours, theirs in zip(scorer.score(given, done.append), wanted.score(given), strict=True):
        np.testing.assert_allclose(ours.logprob, theirs.logprob, atol=1e-4)
        if v2:
            assert ours.rank is None
        else:
            np.testing.assert_array_equal(ours.rank, theirs.rank)
    assert sum(done) == sum(map(len, given))
    assert scorer.settings()["path"] == path
    assert scorer.rank_ties == (None if v2 else "included")
    assert scorer.versions()["vllm"] == "0.32.0"


def test_target_only_scores_that_are_wrong_are_found_at_the_first_examples(
    start: Start, model_folder: Path
) -> None:
    warnings: list[str] = []
    scorer = start(v2=True, wrong=True, warn=warnings.append)
    given = examples()
    for ours, theirs in zip(scorer.score(given), reference(model_folder).score(given), strict=True):
        np.testing.assert_allclose(ours.logprob, theirs.logprob, atol=1e-4)
    assert scorer.settings()["path"] == "flat"
    assert len(warnings) == 1 and "target-only scores differ from prompt_logprobs by" in warnings[0]


def test_scores_that_target_only_leaves_out_later_are_asked_for_again(
    start: Start, model_folder: Path
) -> None:
    scorer = start(v2=True, drop=37)  # request 0, and some of those after the first 16
    given = examples(60)
    for ours, theirs in zip(scorer.score(given), reference(model_folder).score(given), strict=True):
        np.testing.assert_allclose(ours.logprob, theirs.logprob, atol=1e-4)


def test_scores_of_other_tokens_are_refused(start: Start) -> None:
    from pausedata.errors import DataError

    with pytest.raises(DataError, match="fault of vLLM's"):
        start(shift=True).score(examples())


def test_two_threads_share_an_engine(start: Start, model_folder: Path) -> None:
    scorer, wanted = start(), reference(model_folder)
    assert scorer.lanes == 2
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
        for ours, theirs in zip(results[number], wanted.score(unit), strict=True):
            np.testing.assert_allclose(ours.logprob, theirs.logprob, atol=1e-4)


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


def test_the_others_go_on_where_one_engine_is_lost(start: Start, model_folder: Path) -> None:
    warnings: list[str] = []
    scorer = start(engines=2, die=2, where="engine-1", warn=warnings.append)
    assert scorer.lanes == 4
    given, lost = examples(40), 0
    scores: list[Any] = []
    progress: list[int] = []
    while not scores:
        scorer._engines[0].under_way = lost == 0  # the one that dies has least to do
        try:
            scores = scorer.score(given, progress.append)
        except EngineLostError:
            lost += 1
    assert lost == 1 and scorer.lanes == 2
    assert sum(progress) == sum(map(len, given))  # what was lost is taken back
    assert len(warnings) == 1 and "The others take over" in warnings[0]
    for ours, theirs in zip(scores, reference(model_folder).score(given), strict=True):
        np.testing.assert_allclose(ours.logprob, theirs.logprob, atol=1e-4)


def test_closing_ends_vllms_own_processes(start: Start) -> None:
    scorer = start(child=True)
    scorer.score(examples(2))
    pids = [*children("scorers.vllm.worker"), *children("a child of vLLM")]
    assert len(pids) == 2
    scorer.close()
    assert gone(pids)


def test_closing_makes_a_call_under_way_fail(start: Start) -> None:
    scorer = start(slow=0.2)
    errors: list[BaseException] = []

    def score() -> None:
        try:
            scorer.score(examples(200))
        except EngineLostError as error:
            errors.append(error)

    thread = threading.Thread(target=score)
    thread.start()
    time.sleep(0.5)
    scorer.close()
    thread.join(10)
    assert not thread.is_alive() and len(errors) == 1


def test_engines_end_when_their_parent_is_killed(start: Start, model_folder: Path) -> None:
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
    }
    log = model_folder.parent / "orphan.log"
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(ROOT), str(model_folder), str(log)],
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
