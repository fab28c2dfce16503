"""A vLLM engine being fed: examples go in, scores come out, in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np

from pausedata.core.errors import DataError, UsageError
from pausedata.scorers import Example, Floats, Ints
from pausedata.scorers.vllm.outputs import Flat, ScoreReader, TargetOnly, ids_of, largest_and_mean

# How far the two ways may differ on the same engine, where other examples share the batch: the
# largest and the mean difference in nats. A score that is another token's is far beyond the mean.
SAME_WITHIN = {"float32": (1e-2, 1e-3)}
SAME_WITHIN_HALF = (4.0, 0.1)
CHECKED = 16  # examples that are asked for both ways, once


@dataclass
class EngineScores:
    """The scores of some examples, one after the other: (n) each; without ranks None."""

    key: int
    logprob: Floats
    rank: Ints | None
    facts: dict[str, Any] = field(default_factory=dict)  # of the engine, when it answered


@dataclass
class Steps:
    """What one step of the engine brought: tokens done, by key, and what is finished."""

    tokens: dict[int, int] = field(default_factory=dict)
    finished: list[EngineScores] = field(default_factory=list)


@dataclass
class _Unit:
    """Examples that were sent together, and the room for their scores."""

    key: int
    examples: Sequence[Example]
    offsets: Ints
    logprob: Floats
    rank: Ints
    ranked: bool = True
    left: int = 0


class Engine:
    """Keeps an ``LLM`` busy with units of examples. Of several under way none waits for another.

    ``warn`` hears why the target-only way is not taken, where it could have been.
    """

    def __init__(
        self, llm: Any, dtype: str, warn: Callable[[str], None], way: ScoreReader | None = None
    ) -> None:
        """``way`` is found out at the first examples unless it is given."""
        parameters: Any = import_module("vllm.sampling_params")
        if not hasattr(parameters.SamplingParams, "flat_logprobs") or not hasattr(llm, "enqueue"):
            raise UsageError(
                "this release of vLLM is too old: it has no flat_logprobs or no LLM.enqueue. "
                "pip install -U 'pausedata[vllm]'"
            )
        self._llm, self._dtype, self._warn = llm, dtype, warn
        self._common = {
            "max_tokens": 1,  # it wants to predict one
            "detokenize": False,
            "temperature": 0,
            "output_kind": parameters.RequestOutputKind.FINAL_ONLY,
        }
        self._sampling = parameters.SamplingParams
        self._requests: dict[
            int, tuple[_Unit, int, ScoreReader]
        ] = {}  # under way, by vLLM's number
        self.left_out = 0  # examples that the target-only way gave no scores for
        if not hasattr(self._sampling, "prompt_logprob_token_ids"):
            way = Flat()
        self._way = way

    @property
    def way(self) -> ScoreReader:
        """How scores are asked for."""
        return self._way or Flat()

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        return bool(self._requests)

    def submit(self, key: int, examples: Sequence[Example]) -> None:
        """Take up ``examples``; their scores come, some steps later, under ``key``."""
        self.choose_way(examples)
        self._send(_unit(key, examples), range(len(examples)), self.way)

    def choose_way(self, examples: Sequence[Example]) -> None:
        """Find out how scores are to be had, by some examples, unless that is known."""
        if self._way is None:
            self._way = self._choose(examples[:CHECKED])

    def step(self) -> Steps:
        """Let the engine go on. DataError where what it returns cannot be right."""
        steps = Steps()
        for output in self._llm.llm_engine.step():
            if not output.finished:
                continue
            unit, index, way = self._requests.pop(int(output.request_id))
            example = unit.examples[index]
            scores = way.read(output, example)
            if scores is None:
                self._resend(unit, index, way)
                continue
            part = slice(unit.offsets[index], unit.offsets[index + 1])
            unit.logprob[part] = scores.logprob
            if scores.rank is None:
                unit.ranked = False
            else:
                unit.rank[part] = scores.rank
            steps.tokens[unit.key] = steps.tokens.get(unit.key, 0) + len(example)
            unit.left -= 1
            if not unit.left:
                rank = unit.rank if unit.ranked else None
                steps.finished.append(EngineScores(unit.key, unit.logprob, rank))
        return steps

    def _send(self, unit: _Unit, indices: Sequence[int], way: ScoreReader) -> None:
        ids = [ids_of(unit.examples[i]).tolist() for i in indices]
        parameters = [
            self._sampling(**self._common, **way.parameters(unit.examples[i])) for i in indices
        ]
        prompts = [{"prompt_token_ids": each} for each in ids]
        sent = self._llm.enqueue(prompts, parameters, use_tqdm=False)
        for index, name in zip(indices, sent, strict=True):  # "12", or "12-3f0c…"
            self._requests[int(name.partition("-")[0])] = (unit, index, way)
        unit.left += len(ids)

    def _resend(self, unit: _Unit, index: int, way: ScoreReader) -> None:
        """Ask again for an example's scores that vLLM left out, by the flat way."""
        if isinstance(way, Flat):
            raise DataError(
                "vLLM returned no prompt log-probabilities. Does scoring.engine turn them off?"
            )
        self.left_out += 1
        self._send(unit, [index], Flat())
        unit.left -= 1

    def _choose(self, examples: Sequence[Example]) -> ScoreReader:
        """The target-only way if this runner has it, and it gives what the flat one gives."""
        unit = _unit(-1, examples)
        try:
            self._send(unit, range(len(examples)), TargetOnly())
        except Exception:  # vLLM's own kind of error: this runner has it not, nothing was sent
            return Flat()
        new = self._finish().logprob
        self._send(_unit(-1, examples), range(len(examples)), Flat())
        flat = self._finish().logprob
        largest, mean = largest_and_mean(flat, new)
        most, most_mean = SAME_WITHIN.get(self._dtype, SAME_WITHIN_HALF)
        same = np.isfinite(new).all() and largest <= most and mean <= most_mean
        if same and not self.left_out:
            return TargetOnly()
        what = f"differ from prompt_logprobs by up to {largest:.2g} nats ({mean:.2g} on average)"
        if self.left_out:
            what = f"are missing for {self.left_out} examples, unlike prompt_logprobs"
        self._warn(f"vLLM's target-only scores {what}: the latter are taken, a slower way.")
        return Flat()

    def _finish(self) -> EngineScores:
        """What comes of the one unit that is under way."""
        while True:
            for answer in self.step().finished:
                return answer


def _unit(key: int, examples: Sequence[Example]) -> _Unit:
    offsets = np.concatenate([[0], np.cumsum([len(e.response_ids) for e in examples])])
    total = int(offsets[-1])
    return _Unit(
        key, examples, offsets, np.full(total, np.nan, np.float32), np.zeros(total, np.int32)
    )
