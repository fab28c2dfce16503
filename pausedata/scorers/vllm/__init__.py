"""Scoring with vLLM: prompt log-probabilities, from one engine for each device or group of them."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pausedata.models import cache as model_cache
from pausedata.scorers import EngineLostError, Example, Job, Scores, devices, ignore_progress
from pausedata.scorers.vllm.engine import EngineScores
from pausedata.scorers.vllm.process import EngineProcess

# Units that an engine has at a time: while one ends, the other keeps the engine busy.
UNITS_AHEAD = 2


class AnyEngine(Protocol):
    """What scores units; `EngineProcess` does."""

    facts: dict[str, Any]

    @property
    def alive(self) -> bool:
        """Whether it can still score."""
        ...

    def score(self, examples: Sequence[Example], on_tokens: Callable[[int], None]) -> EngineScores:
        """The scores of ``examples``; called from several threads."""
        ...

    def stop(self) -> None:
        """Tell it to end."""
        ...

    def close(self) -> None:
        """Wait until it has ended."""
        ...


def load(job: Job) -> VllmScorer:
    """Start an engine for each device, or group of devices, and wait until they are loaded.

    UsageError for wrong settings; EngineLostError where no engine could be started.
    """
    model, revision = model_cache.folder_for_engine(job.model, job.say)
    groups = devices.groups(job.device, job.engine, job.engines, warn=job.warn)
    engines = [
        EngineProcess(
            f"vLLM engine {number + 1} of {len(groups)}",
            {
                "model": model,
                "revision": revision,
                "dtype": job.dtype,
                "longest": job.longest,
                "batch_tokens": job.batch_tokens,
                "engine": dict(job.engine),
            },
            _environment(number, len(groups), group),
            _logs(job) / f"engine-{number}.log",
            job.warn,
        )
        for number, group in enumerate(groups)
    ]
    try:
        for engine in engines:
            engine.start()
        _wait_for(engines, job.warn)
    except BaseException:
        close_all(engines)
        raise
    return VllmScorer(engines, job.warn)


def close_all(engines: Sequence[AnyEngine]) -> None:
    """End engines side by side; an interruption ends them at once."""
    with ExitStack() as stack:
        for engine in engines:
            stack.callback(engine.close)
        for engine in engines:
            engine.stop()


def _wait_for(engines: list[EngineProcess], warn: Callable[[str], None]) -> None:
    """Return when those engines are loaded that can be; raise where none can."""
    lost: EngineLostError | None = None
    for engine in engines:
        try:
            engine.ready()
        except EngineLostError as error:
            if lost is not None:
                warn(str(lost))
            lost = error
    if lost is not None:
        if not any(engine.alive for engine in engines):
            raise lost
        warn(str(lost))


def _environment(number: int, count: int, group: str | None) -> dict[str, str]:
    """The environment of an engine: its devices; on a CPU its share of the cores."""
    environment = {"VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn"}
    # The longest example may fill the context: what vLLM would predict after it is never read.
    environment["VLLM_ALLOW_LONG_MAX_MODEL_LEN"] = "1"
    if group is not None:
        return environment | {"CUDA_VISIBLE_DEVICES": group}
    cores = sorted(os.sched_getaffinity(0))
    share = cores[number * len(cores) // count : (number + 1) * len(cores) // count]
    threads = str(max(1, len(share)))
    return environment | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}


def _logs(job: Job) -> Path:
    return job.logs or Path(tempfile.mkdtemp(prefix="pausedata-vllm-"))


class VllmScorer:
    """Scores with one or more equal engines; where one fails, the others take over its work."""

    name = "vllm"
    context_length = None  # checked against the model's configuration before an engine starts

    def __init__(self, engines: Sequence[AnyEngine], warn: Callable[[str], None]) -> None:
        self._engines, self._warn = list(engines), warn
        self._choosing = threading.Lock()
        self._under_way = [0] * len(self._engines)
        self._taken = [0] * len(self._engines)
        self._told: set[int] = set()
        self._last = threading.local()

    @property
    def workers(self) -> int:
        """Two calls for each engine that is left."""
        return UNITS_AHEAD * self.engines

    @property
    def engines(self) -> int:
        """How many there are still; calls one after the other go to each in turn."""
        return sum(engine.alive for engine in self._engines)

    @property
    def rank_ties(self) -> str | None:
        """``included``: tokens that tie with the target raise its rank; None without ranks."""
        return self._facts("rank_ties")

    def score(
        self, examples: Sequence[Example], on_tokens: Callable[[int], None] = ignore_progress
    ) -> list[Scores]:
        """Scores in the order given, by the engine that has least to do."""
        number = self._choose()
        done = 0

        def count(tokens: int) -> None:
            nonlocal done
            done += tokens
            on_tokens(tokens)

        try:
            answer = self._engines[number].score(examples, count)
        except EngineLostError as error:
            self._tell(number, error)
            on_tokens(-done)  # they are to be scored again
            raise
        finally:
            with self._choosing:
                self._under_way[number] -= 1
        self._last.facts = answer.facts
        return _split(examples, answer)

    def _choose(self) -> int:
        """The engine with least to do; among equals, the one that has done least."""
        with self._choosing:
            every = range(len(self._engines))
            alive = [k for k in every if self._engines[k].alive] or list(every)
            number = min(alive, key=lambda k: (self._under_way[k], self._taken[k]))
            self._under_way[number] += 1
            self._taken[number] += 1
            return number

    def versions(self) -> dict[str, str]:
        """The versions of Python, torch and vLLM, where the engines run."""
        return self._facts("versions")

    def settings(self) -> dict[str, Any]:
        """The device, vLLM's runner, how scores were asked for, and a step's tokens."""
        return self._facts("settings") | {"engines": len(self._engines)}

    def close(self) -> None:
        """End all engines, whatever comes between."""
        close_all(self._engines)

    def _facts(self, key: str) -> Any:
        """The facts of the engine that this thread's last call went to."""
        return getattr(self._last, "facts", self._engines[0].facts)[key]

    def _tell(self, number: int, error: EngineLostError) -> None:
        """Say once that an engine is gone, where others go on."""
        with self._choosing:
            first = number not in self._told
            self._told.add(number)
        if first and self.workers:
            self._warn(f"{error} The others take over what it had.")


def _split(examples: Sequence[Example], answer: EngineScores) -> list[Scores]:
    ends = np.cumsum([len(example.response_ids) for example in examples])[:-1]
    logprobs = np.split(answer.logprob, ends)
    ranks = [None] * len(examples) if answer.rank is None else np.split(answer.rank, ends)
    return [Scores(logprob, rank) for logprob, rank in zip(logprobs, ranks, strict=True)]
