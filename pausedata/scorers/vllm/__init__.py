"""Scoring with vLLM: prompt log-probabilities, from one engine for each device or group of them."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pausedata import devices, model_cache
from pausedata.scorers import EngineLostError, Example, Job, Scores, ignore_progress
from pausedata.scorers.vllm.engine import Answer
from pausedata.scorers.vllm.process import EngineProcess

# Units that an engine has at a time: while one ends, the other keeps the engine busy.
UNITS_AHEAD = 2


class AnyEngine(Protocol):
    """What scores units; `EngineProcess` does."""

    under_way: int
    facts: dict[str, Any]

    @property
    def alive(self) -> bool:
        """Whether it can still score."""
        ...

    def score(self, examples: Sequence[Example], on_tokens: Callable[[int], None]) -> Answer:
        """The scores of ``examples``; called from several threads."""
        ...

    def close(self) -> None:
        """End it."""
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
        for engine in engines:
            engine.close()
        raise
    return VllmScorer(engines, job.warn)


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
    """Scores with one engine or several alike; what one that fails leaves, the others take."""

    name = "vllm"
    context_length = None  # checked against the model's configuration before an engine starts

    def __init__(self, engines: Sequence[AnyEngine], warn: Callable[[str], None]) -> None:
        self._engines, self._warn = list(engines), warn
        self._choosing = threading.Lock()
        self._told: set[int] = set()

    @property
    def lanes(self) -> int:
        """Two calls for each engine that is left."""
        return UNITS_AHEAD * sum(engine.alive for engine in self._engines)

    @property
    def rank_ties(self) -> str | None:
        """``included``: tokens that tie with the target raise its rank; None without ranks."""
        return self._facts("rank_ties")

    def score(
        self, examples: Sequence[Example], on_tokens: Callable[[int], None] = ignore_progress
    ) -> list[Scores]:
        """Scores in the order given, by the engine that has least to do."""
        with self._choosing:
            alive = [engine for engine in self._engines if engine.alive] or self._engines[:1]
            engine = min(alive, key=lambda each: each.under_way)
            engine.under_way += 1
        done = 0

        def count(tokens: int) -> None:
            nonlocal done
            done += tokens
            on_tokens(tokens)

        try:
            answer = engine.score(examples, count)
        except EngineLostError as error:
            on_tokens(-done)  # they are to be scored again
            self._tell(engine, error)
            raise
        finally:
            with self._choosing:
                engine.under_way -= 1
        return _split(examples, answer)

    def versions(self) -> dict[str, str]:
        """The versions of Python, torch and vLLM, where the engines run."""
        return self._facts("versions")

    def settings(self) -> dict[str, Any]:
        """The device, vLLM's runner, how scores were asked for, and a step's tokens."""
        return self._facts("settings") | {"engines": len(self._engines)}

    def close(self) -> None:
        """End all engines."""
        threads = [threading.Thread(target=engine.close) for engine in self._engines]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _facts(self, key: str) -> Any:
        alive = [engine for engine in self._engines if engine.alive] or self._engines
        return alive[0].facts[key]

    def _tell(self, engine: AnyEngine, error: EngineLostError) -> None:
        """Say once that an engine is gone, where others go on."""
        with self._choosing:
            first = id(engine) not in self._told
            self._told.add(id(engine))
        if first and self.lanes:
            self._warn(f"{error} The others take over what it had.")


def _split(examples: Sequence[Example], answer: Answer) -> list[Scores]:
    ends = np.cumsum([len(example.response_ids) for example in examples])[:-1]
    logprobs = np.split(answer.logprob, ends)
    ranks = [None] * len(examples) if answer.rank is None else np.split(answer.rank, ends)
    return [Scores(logprob, rank) for logprob, rank in zip(logprobs, ranks, strict=True)]
