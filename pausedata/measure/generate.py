"""Answers that the models write, with pauses and without: which are right, and what they cost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from pausedata.core.errors import DataError, UsageError
from pausedata.measure import answers
from pausedata.measure.answers import GradedAnswer
from pausedata.measure.examples import ExamplePair
from pausedata.measure.measured import unit_sums
from pausedata.measure.paired import paired_interval
from pausedata.measure.sequential import Interval, interval
from pausedata.models.cache import in_cache, load_tokenizer
from pausedata.models.ref import ModelRef
from pausedata.models.shape import context_length

Record = dict[str, Any]  # one example: both texts, whether they are right, pauses, tokens


@dataclass(frozen=True)
class Generating:
    """How answers are generated, greedily.

    The pauses of a placement by ``append`` stand behind the prompt, those of ``every_word`` after
    every word, as in training. Of every other one they are forced where the highest next-token
    probability is below ``threshold``, at most ``max_pauses`` in an answer: its own places cannot
    be known before the answer is.
    """

    task: str
    threshold: float = 0.5
    max_pauses: int | None = None
    max_new_tokens: int = 256  # real ones; pauses come on top
    batch: int = 8

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


@dataclass(frozen=True)
class PauseInsertion:
    """How pauses get into answers, so many at each place as the placement has."""

    where: Literal["nowhere", "behind-prompt", "after-words", "if-unsure"]
    tokens: int = 1
    every: int | None = None  # after every so many tokens instead of words


def way_of(inputs: dict[str, Any], asked: Generating) -> PauseInsertion:
    """How the pauses of a placement that was made from ``inputs`` get into answers.

    UsageError where ``asked`` leaves no room for those of one place.
    """
    way = _way_of(inputs)
    most = asked.max_pauses
    if way.where == "if-unsure" and most is not None and most < way.tokens:
        raise UsageError(
            f"--max-pauses {most}: the placement has {way.tokens} at each place, so that no place "
            "would get its pauses. Give more."
        )
    return way


def _way_of(inputs: dict[str, Any]) -> PauseInsertion:
    parameters = inputs.get("parameters", {})
    tokens = int(parameters.get("tokens") or 1)
    match inputs.get("strategy"):
        case "none":
            return PauseInsertion("nowhere")
        case "append":
            return PauseInsertion("behind-prompt", tokens)
        case "every_word":
            return PauseInsertion("after-words", tokens, parameters.get("every_n_tokens"))
        case _:
            return PauseInsertion("if-unsure", tokens)


@dataclass(frozen=True)
class Answering:
    """What is known of the answers before any is written."""

    how: Generating
    way: PauseInsertion
    score: Callable[[str, ExamplePair], GradedAnswer]


class Writer:
    """A model that writes answers: with pauses, put in as ``way`` says, or without."""

    def __init__(
        self,
        model: ModelRef,
        pause_token: str,
        asked: Generating,
        *,
        dtype: str,
        device: str,
    ) -> None:
        """Load ``model``; UsageError where that fails."""
        import torch

        from pausedata.models.load import load_model, torch_device

        self._asked, self._pause_token = asked, pause_token
        #: what says where a pause is forced, of `PauseLogitsProcessor`'s own arguments
        self.forced: dict[str, Any] = {
            "threshold": asked.threshold,
            "max_pauses": asked.max_pauses,
            "never_after": ("####",),
        }
        self.model: Any = load_model(in_cache(model), getattr(torch, dtype), torch_device(device))
        self.tokenizer: Any = load_tokenizer(model)
        self._ends = sorted(_ends(self.model, self.tokenizer))
        if not self._ends:
            raise UsageError(
                f"{model.name}: neither its tokenizer nor its generation_config.json names an end "
                "token (eos_token), so that no answer would end."
            )
        self._context = context_length(model)
        self._pause = self.tokenizer.backend_tokenizer.token_to_id(pause_token)  # a baseline: None

    def write(
        self, prompts: Sequence[Sequence[int]], way: PauseInsertion | None
    ) -> tuple[list[Any], float]:
        """Ids of each answer, pauses among them, and the seconds of all; None: no pauses."""
        import torch

        behind = [self._pause] * way.tokens if way and way.where == "behind-prompt" else []
        given = [[*prompt, *behind] for prompt in prompts]
        room = self._asked.max_new_tokens
        processors = self._processors(way)
        longest = max(map(len, given))
        stopping: list[Any] = []
        if way is not None and processors and self._pause is not None:
            from pausedata.measure.processors import RealTokens

            stopping.append(RealTokens(self._pause, longest, room))
            room += room * way.tokens  # pauses come on top
        if self._context is not None:
            room = max(1, min(room, self._context - longest))
        pad = self._ends[0]
        ids = torch.tensor([[pad] * (longest - len(p)) + p for p in given])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in given])
        start = time.perf_counter()
        with torch.inference_mode():
            found = self.model.generate(
                input_ids=ids.to(self.model.device),
                attention_mask=mask.to(self.model.device),
                do_sample=False,
                num_beams=1,
                max_new_tokens=room,
                eos_token_id=self._ends,
                pad_token_id=pad,
                # Left to itself a model may write a pause, too: only those put in are measured.
                suppress_tokens=None if processors or self._pause is None else [self._pause],
                logits_processor=processors,
                stopping_criteria=stopping,
            )
        answers = found[:, longest:].tolist()
        took = time.perf_counter() - start
        return [self._cut(answer) for answer in answers], took

    def _processors(self, way: PauseInsertion | None) -> list[Any]:
        """What puts pauses in while an answer is written."""
        if way is None or self._pause is None:
            return []
        if way.where == "after-words":
            from pausedata.measure.processors import AfterWords

            return [AfterWords(self.tokenizer, self._pause, self._ends, way.tokens, way.every)]
        if way.where == "if-unsure":
            from pausedata.inference import PauseLogitsProcessor

            return [
                PauseLogitsProcessor(
                    self.tokenizer, tokens=way.tokens, pause_token=self._pause_token, **self.forced
                )
            ]
        return []

    def text(self, answer: list[int]) -> tuple[str, int, int]:
        """The answer's text without pauses; its real tokens; its pauses."""
        real = [id for id in answer if id != self._pause]
        text = self.tokenizer.decode(real, skip_special_tokens=True)
        return text, len(real), len(answer) - len(real)

    def is_ended(self, answer: list[int]) -> bool:
        """Whether the model ended it itself."""
        return answer[-1:] != [] and answer[-1] in self._ends

    def _cut(self, answer: list[int]) -> list[int]:
        """Up to and with the end token, and to the most real tokens."""
        kept: list[int] = []
        real = 0
        for id in answer:
            real += id != self._pause
            if real > self._asked.max_new_tokens:
                break
            kept.append(id)
            if id in self._ends:
                break
        return kept


def _ends(model: Any, tokenizer: Any) -> set[int]:
    found: set[int] = set()
    for given in (tokenizer.eos_token_id, model.generation_config.eos_token_id):
        found |= {given} if isinstance(given, int) else set(given or ())
    return found


def write_pairs(
    pairs: Sequence[ExamplePair],
    first: int,
    trained: Writer,
    baseline: Writer,
    answering: Answering,
) -> list[Record]:
    """Both answers to each of ``pairs``, which go through the models together, in turns."""
    way, score = answering.way, answering.score
    prompts = [pair.without.prompt_ids for pair in pairs]
    turns = [(trained, way), (baseline, None)]
    written = [writer.write(prompts, how) for writer, how in (turns if first % 2 else turns[::-1])]
    (with_pauses, took_with), (without, took) = written if first % 2 else written[::-1]
    records = []
    for pair, own, plain in zip(pairs, with_pauses, without, strict=True):
        text, tokens, pauses = trained.text(own)
        plain_text, plain_tokens, _ = baseline.text(plain)
        outcome, plain_outcome = score(text, pair), score(plain_text, pair)
        records.append(
            {
                "id": pair.id,
                "group": pair.group,
                "with": text,
                "without": plain_text,
                "right_with": outcome.right,
                "right_without": plain_outcome.right,
                "lenient_with": outcome.lenient,
                "lenient_without": plain_outcome.lenient,
                "reason_with": outcome.reason,
                "reason_without": plain_outcome.reason,
                "tokens_with": tokens,
                "tokens_without": plain_tokens,
                "pauses": pauses + (way.tokens if way.where == "behind-prompt" else 0),
                "seconds_with": took_with / len(pairs),
                "seconds_without": took / len(pairs),
            }
        )
    return records


def scorer(task: str, pairs: Sequence[ExamplePair]) -> Callable[[str, ExamplePair], GradedAnswer]:
    """Whether a text answers one of ``pairs``; DataError for one that says no right answer."""
    known = answers.get(task)
    references: dict[str, Any] = {}
    for pair in pairs:
        try:
            references[pair.id] = known.reference(pair.response, json.loads(pair.meta))
        except DataError as error:
            raise DataError(f"example {pair.id}: {error}") from None
    return lambda text, pair: known.score(text, references[pair.id])


def summary(
    records: Sequence[Record],
    *,
    confidence: float = 0.95,
    units: Any = None,
) -> dict[str, Any]:
    """Accuracies, their difference with its interval, and what the pauses cost, for programs.

    ``accuracy_with`` and ``accuracy_without`` are by the task's strict reading, the headline;
    those with ``lenient`` in their names stand beside them.
    """
    if not records:
        return {"examples": 0}
    columns = {
        name: np.array([record[name] for record in records], float)
        for name in (
            *("right_with", "right_without", "lenient_with", "lenient_without"),
            *("tokens_with", "tokens_without", "pauses"),
            *("seconds_with", "seconds_without"),
        )
    }
    gained = columns["right_with"] - columns["right_without"]
    further = columns["seconds_with"] - columns["seconds_without"]
    latency = interval(further, columns["seconds_without"], confidence)
    reasons: dict[str, dict[str, int]] = {}
    for which in ("with", "without"):
        said = [record[f"reason_{which}"] for record in records]
        reasons[which] = {str(r): said.count(r) for r in dict.fromkeys(said) if r is not None}
    return {
        "examples": len(records),
        "units": len(records) if units is None else len(set(units)),
        "accuracy_with": float(columns["right_with"].mean()),
        "accuracy_without": float(columns["right_without"].mean()),
        "accuracy_gain": float(gained.mean()),
        "accuracy_gain_interval": _sure(columns, "right", confidence, units),
        "accuracy_lenient_with": float(columns["lenient_with"].mean()),
        "accuracy_lenient_without": float(columns["lenient_without"].mean()),
        "accuracy_lenient_gain": float(
            (columns["lenient_with"] - columns["lenient_without"]).mean()
        ),
        "accuracy_lenient_gain_interval": _sure(columns, "lenient", confidence, units),
        "tokens_with": float(columns["tokens_with"].mean()),
        "tokens_without": float(columns["tokens_without"].mean()),
        "pauses": float(columns["pauses"].mean()),
        "token_overhead": float(columns["pauses"].sum() / max(columns["tokens_with"].sum(), 1)),
        "latency_overhead": float(further.sum() / columns["seconds_without"].sum()),
        "latency_overhead_interval": latency,
        **_for_each_right(columns),
        "reasons": reasons,
    }


def _sure(columns: dict[str, Any], reading: str, confidence: float, units: Any) -> Interval:
    """Between which gains in the share of right answers the true one is.

    A score interval, which does not collapse where all answers agree, made as wide as the one that
    holds whenever one looks, where that one says anything.
    """
    own, other = columns[f"{reading}_with"], columns[f"{reading}_without"]
    low, high = paired_interval(own, other, confidence, units)
    gained, drawn = own - other, np.ones(len(own))
    if units is not None:
        gained, drawn = unit_sums(gained, units), unit_sums(drawn, units)
    always = interval(gained, drawn, confidence) or (low, high)
    return max(min(low, always[0]), -1.0), min(max(high, always[1]), 1.0)


def _for_each_right(columns: dict[str, Any]) -> dict[str, float | None]:
    """Tokens, pauses among them, and seconds of all answers for each right one; None: none is."""
    spent = {
        "tokens_per_right_with": columns["tokens_with"].sum() + columns["pauses"].sum(),
        "tokens_per_right_without": columns["tokens_without"].sum(),
        "seconds_per_right_with": columns["seconds_with"].sum(),
        "seconds_per_right_without": columns["seconds_without"].sum(),
    }
    right = {which: columns[f"right_{which}"].sum() for which in ("with", "without")}
    return {
        name: float(total / right[which]) if right[which] else None
        for name, total in spent.items()
        for which in [name.rpartition("_")[2]]
    }
