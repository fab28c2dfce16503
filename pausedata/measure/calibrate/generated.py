"""What thresholds spend in answers that a model writes itself, and which ones meet the budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pausedata.core import held_out
from pausedata.core.errors import DataError, UsageError
from pausedata.core.progress import Progress
from pausedata.measure.calibrate import Calibration, GeneratedSpending, Tried
from pausedata.measure.generate import Generating, PauseInsertion, Writer
from pausedata.measure.sequential import interval
from pausedata.models.ref import ModelRef
from pausedata.models.shape import context_length
from pausedata.pipeline import runs
from pausedata.pipeline.recipe import Model
from pausedata.pipeline.resolve import Tokenizers, find_model, recorded_pins
from pausedata.store.dataset import Version
from pausedata.store.staging import Pins

_NEAR = 0.1  # of the budget: nearer to it, nothing further is tried


@dataclass(frozen=True)
class GenerateOptions:
    """What a command asks for; the model is a Hub id, a folder or a .gguf file."""

    examples: int
    model: str | None = None  # None: the one that scored the run
    rounds: int = 3  # thresholds that are tried after the first, of each kind
    max_new_tokens: int = 256  # real ones; pauses come on top
    batch: int = 8
    dtype: str = "float32"
    device: str = "auto"
    split: str | None = None
    seed: int = 0


def generated(
    version: Version, found: Calibration, asked: GenerateOptions, progress: Progress
) -> Calibration:
    """``found``, with what its thresholds spend in greedy answers to held-out prompts.

    Where a threshold does not meet the budget, others are tried on the same prompts: each round
    costs as many answers. UsageError for a model that has no pause, or other ids than the dataset.
    """
    model = _model(version, found.run, asked.model, progress)
    prompts, overlong = _prompts(version, asked, context_length(model))
    progress.say(f"loading {model.name}")
    how = Generating("", max_new_tokens=asked.max_new_tokens, batch=asked.batch)
    token = version.manifest.pause.token
    writer = Writer(model, token, how, dtype=asked.dtype, device=asked.device)
    answers = _Answers(writer, prompts, found.tokens_per_place, how, progress)
    budgets = [point.budget for point in found.curve]

    def tried(key: str, start: float, thresholds: list[float]) -> list[Tried]:
        def at(budget: float) -> float:
            # The start is the threshold that was found: the curve's is that, too.
            return start if budget == found.budget else _between(budget, budgets, thresholds)

        return search(
            lambda threshold: answers.spend(key, threshold), at, found.budget, asked.rounds
        )

    by_probability = tried("threshold", found.threshold, [p.threshold for p in found.curve])
    unfinished = answers.unfinished
    by_entropy = []
    if found.entropy_threshold is not None:
        nats = [p.entropy_threshold or 0.0 for p in found.curve]
        by_entropy = tried("entropy_threshold", found.entropy_threshold, nats)
    spending = GeneratedSpending(
        model=model.identity(),
        examples=len(prompts),
        overlong=overlong,
        unfinished=unfinished or 0,
        max_new_tokens=asked.max_new_tokens,
        seed=asked.seed,
        by_probability=by_probability,
        by_entropy=by_entropy,
        threshold=nearest(by_probability, found.budget).threshold,
        entropy_threshold=nearest(by_entropy, found.budget).threshold if by_entropy else None,
    )
    return replace(found, generated=spending)


def search(
    spend: Callable[[float], Tried], at: Callable[[float], float], budget: float, rounds: int
) -> list[Tried]:
    """What was tried, the threshold ``at(budget)`` first, until one spends about ``budget``.

    ``at(b)`` is the threshold that spends b in given text; text that is generated spends some
    multiple of that, which is taken from the last try. Where that leads out of what is known to be
    too little and too much, the middle of the two is tried.
    """
    given, too_little, too_much = budget, 0.0, np.inf
    tried: list[Tried] = []
    for _ in range(1 + rounds):
        threshold = at(given)
        if any(threshold == before.threshold for before in tried):
            break
        tried.append(spend(threshold))
        spent = tried[-1].pauses_per_token
        if abs(spent - budget) <= _NEAR * budget:
            break
        if spent < budget:
            too_little = given
        else:
            too_much = given
        given = given * budget / spent if spent else 2 * given
        if not too_little < given < too_much:
            given = (too_little + too_much) / 2 if np.isfinite(too_much) else 2 * too_little
    return tried


def nearest(tried: list[Tried], budget: float) -> Tried:
    """The one that spends nearest to ``budget``."""
    return min(tried, key=lambda one: abs(one.pauses_per_token - budget))


def _between(budget: float, budgets: list[float], thresholds: list[float]) -> float:
    return round(float(np.interp(budget, budgets, thresholds)), 4)


class _Answers:
    """The answers to a few prompts, written anew for each threshold."""

    def __init__(
        self,
        writer: Writer,
        prompts: list[list[int]],
        tokens: int,
        how: Generating,
        progress: Progress,
    ) -> None:
        self._writer, self._prompts, self._how, self._progress = writer, prompts, how, progress
        self._way = PauseInsertion("if-unsure", tokens)
        self.unfinished: int | None = None  # of the first that were written

    def spend(self, key: str, threshold: float) -> Tried:
        """What a threshold spends; ``key`` is the parameter's name."""
        # By entropy alone: nothing is less probable than 0.
        self._writer.forced = {"threshold": 0.0} | {key: threshold}
        size, counted = self._how.batch, list[tuple[int, int]]()
        unfinished = 0
        title = f"generating answers, {key.replace('_', ' ')} {threshold:g}"
        with self._progress.step(title, len(self._prompts), "examples") as advance:
            for start in range(0, len(self._prompts), size):
                some = self._prompts[start : start + size]
                for answer in self._writer.write(some, self._way)[0]:
                    _, real, pauses = self._writer.text(answer)
                    counted.append((pauses, real))
                    unfinished += not self._writer.is_ended(answer)
                advance(len(some))
        if self.unfinished is None:
            self.unfinished = unfinished
        pauses, real = (np.array(column) for column in zip(*counted, strict=True))
        spent = pauses.sum() / max(real.sum(), 1)
        sure = interval(pauses, real, 0.95)
        return Tried(threshold, int(real.sum()), int(pauses.sum()), float(spent), sure)


def _model(version: Version, run: str, given: str | None, progress: Progress) -> ModelRef:
    """The model that writes, which has the dataset's pause and gives its ids."""
    pins = Pins(version.root, recorded_pins(version), keep=False)
    spec, who = Model(id=given or ""), "--model"
    if given is None:
        recorded = version.table(f"scores/{run}").entry.provenance["inputs"].get("model", {})
        if "revision" not in recorded:
            raise UsageError(
                f"--generate: run '{run}' was scored by {recorded.get('id', 'a model')}, of which "
                "a dataset keeps no path. Name the model that is to write: the trained one, with "
                "--model FOLDER."
            )
        spec, who = Model(id=recorded["id"], revision=recorded["revision"]), f"run '{run}'"
    model = find_model(spec, Path(), pins, where=who)[0]
    pause = version.manifest.pause
    tokenizers = Tokenizers(pause.token, pins)
    todo = f"Name a model with the tokenizer of {version.manifest.name}."
    runs.check_tokenizer(who, model, tokenizers, version.tables, progress, todo)
    _, is_new = tokenizers.load(model).pause_id(pause.token)
    if is_new:
        raise UsageError(
            f"--generate: {model.name} has no token {pause.token}, so that it can write none. Name "
            "the trained model, with --model. (`pausedata prepare-model` adds the token; before "
            "training it means nothing, and what follows it is no text of the model's own.)"
        )
    return model


def _prompts(
    version: Version, asked: GenerateOptions, most: int | None
) -> tuple[list[list[int]], int]:
    """Held-out prompts in a seeded order; how many were passed over as too long for the model."""
    tokens = version.table("tokens")
    where = held_out.choose(tokens.splits(), asked.split, asked.seed)
    held = np.repeat(
        [s.split == where.split for s in tokens.shards], [s.rows for s in tokens.shards]
    )
    if where.seed is not None:
        held &= held_out.holdout_mask(len(held), where.seed)
    order = np.random.default_rng([asked.seed, 1]).permutation(np.flatnonzero(held)).tolist()
    # An answer has to have room: a prompt that takes half of the context leaves as much.
    limit = np.inf if most is None else most // 2
    chosen, overlong = list[list[int]](), 0
    ends = np.cumsum([s.rows for s in tokens.shards])
    read: dict[int, list[list[int]]] = {}
    for row in order:
        if len(chosen) == asked.examples:
            break
        number = int(np.searchsorted(ends, row, side="right"))
        if number not in read:
            read[number] = tokens.read(tokens.shards[number], ["prompt_ids"])[0].to_pylist()
        prompt = read[number][row - int(ends[number])]
        if len(prompt) > limit:
            overlong += 1
        else:
            chosen.append(prompt)
    if not chosen:
        raise DataError("--generate: no held-out prompt is there that the model has room for.")
    return chosen, overlong
