"""A stand-in for vLLM, for tests of what surrounds it: the shape of 0.32, the answers of a table.

The logits of a token rest on the token before it alone, which keeps a start short. Its rank is
vLLM's, which counts equals. ``STAND_IN``, in the environment, is JSON that says what goes wrong:

- ``v2``: the runner has the target-only way;
- ``drop``: of target-only requests every so-manieth gets no scores, ``wrong``: shifted ones;
- ``shift``: scores of prompt_logprobs are those of the token before;
- ``die``: the process is killed at this step, in the engine whose log is so named;
- ``fail``: what LLM() raises; ``child``: it starts a process;
- ``load``: seconds that loading takes, ``slow``: that a step takes, ``linger``: that its end takes;
- ``tell``: a folder where it makes a file for each of these when it begins.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

__version__ = "0.32.0"
TABLE = np.random.default_rng(0).normal(0, 3, (400, 400)).astype(np.float32)
HOW: dict[str, Any] = json.loads(os.environ.get("STAND_IN", "{}"))


def take(what: str, seconds: float) -> None:
    """Take that long for something, and tell that it has begun."""
    if "tell" in HOW:
        (Path(HOW["tell"]) / f"{what}-{os.getpid()}").touch()
    time.sleep(seconds)


class ValidationError(Exception):
    """As vLLM's own, no ValueError."""


class SamplingParams:
    flat_logprobs = False
    prompt_logprob_token_ids = None

    def __init__(self, **given: Any) -> None:
        self.__dict__.update(given)


@dataclass
class FlatLogprobs:
    start_indices: list[int] = field(default_factory=list)
    end_indices: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.start_indices)


class LLM:
    def __init__(self, model: str, dtype: str, **settings: Any) -> None:
        print("INFO noise of the engine")
        print("WARNING Chat template warmup failed", file=sys.stderr)
        take("load", HOW.get("load", 0))
        if "fail" in HOW:
            raise RuntimeError(HOW["fail"])
        if HOW.get("child"):
            subprocess.Popen(
                [sys.executable, "-c", "import time; time.sleep(600)  # a child of vLLM"]
            )
        if "linger" in HOW:
            atexit.register(take, "linger", HOW["linger"])
        self.settings = settings
        config = SimpleNamespace(use_v2_model_runner=bool(HOW.get("v2")))
        self.llm_engine = SimpleNamespace(vllm_config=config, step=self.step)
        self.queue: list[tuple[str, list[int], SamplingParams]] = []
        self.number, self.steps = 0, 0

    def enqueue(self, prompts: Any, sampling_params: Any, use_tqdm: bool = True) -> list[str]:
        sent = []
        for prompt, parameters in zip(prompts, sampling_params, strict=True):
            name = str(self.number)
            self.number += 1  # also where the request is refused
            ids = prompt["prompt_token_ids"]
            assert len(ids) < self.settings["max_model_len"]
            if parameters.prompt_logprob_token_ids is not None:
                self.check_target_only(ids, parameters)
            self.queue.append((name, ids, parameters))
            sent.append(f"{name}-3f0c12ab")
        return sent

    def check_target_only(self, ids: list[int], parameters: Any) -> None:
        if not HOW.get("v2"):
            raise ValidationError("prompt_logprob_token_ids requires the V2 model runner")
        rows = parameters.prompt_logprob_token_ids
        assert rows.dtype.kind == "i" and rows.ndim == 2
        assert len(rows) == len(ids) - 1 - parameters.prompt_logprob_start

    def step(self) -> list[Any]:
        self.steps += 1
        take("slow", HOW.get("slow", 0))
        log = str(Path("/proc/self/fd/1").readlink())
        if self.steps == HOW.get("die") and HOW.get("where", "") in log:
            os.kill(os.getpid(), signal.SIGKILL)
        # The one that came last first: answers need not come in order.
        step, self.queue = self.queue[:3][::-1], self.queue[3:]
        return [self.answer(*request) for request in step]

    def answer(self, name: str, ids: list[int], parameters: Any) -> Any:
        logits = TABLE[ids[:-1]]
        logprobs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        output = SimpleNamespace(
            request_id=name,
            finished=True,
            prompt_token_ids=ids,
            prompt_logprobs=None,
            prompt_token_id_logprobs=None,
        )
        if parameters.prompt_logprob_token_ids is not None:
            rows = logprobs[parameters.prompt_logprob_start :]
            if HOW.get("wrong"):
                rows = np.roll(rows, 1, 0)
            if not (HOW.get("drop") and int(name) % HOW["drop"] == 0):
                targets = parameters.prompt_logprob_token_ids
                output.prompt_token_id_logprobs = np.take_along_axis(rows, targets, 1)
            return output
        flat = FlatLogprobs([0], [0])
        targets = np.roll(ids[1:], 1 if HOW.get("shift") else 0)
        chosen = np.take_along_axis(logprobs, targets[:, None], 1)
        ranks = (logits >= np.take_along_axis(logits, targets[:, None], 1)).sum(1)
        for k, (value, rank) in enumerate(zip(chosen[:, 0].tolist(), ranks.tolist(), strict=True)):
            flat.start_indices.append(k)
            flat.end_indices.append(k + 1)
            flat.token_ids.append(int(targets[k]))
            flat.logprobs.append(value)
            flat.ranks.append(rank)
        output.prompt_logprobs = flat
        return output
