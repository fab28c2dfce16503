"""Scoring with transformers: batches of similar length, the head on response positions alone."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pausedata.core.errors import DataError, UsageError, missing_extra, nearest
from pausedata.scorers import Example, Job, Scores, ignore_progress
from pausedata.scorers.batches import plan_batches

try:
    import torch
    import transformers
except ImportError as error:
    raise missing_extra("torch and transformers", "transformers", "Scoring") from error

from pausedata.models.cache import in_cache
from pausedata.models.load import does_not_fit, is_out_of_memory, load_model, torch_device
from pausedata.models.ref import quiet
from pausedata.scorers.heads import Head, LinearHead, choose_head, vocabulary_of
from pausedata.scorers.sizes import DEFAULT_BATCH_TOKENS, LOGITS_BYTES
from pausedata.scorers.statistics import TokenStatistics

if TYPE_CHECKING:
    from collections.abc import Iterator


DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class Timings:
    """Seconds spent in `score`; ``forward`` is the model's body and its head.

    On a GPU, which works while Python goes on, the split says nothing.
    """

    total: float = 0.0
    forward: float = 0.0

    @contextmanager
    def add_to(self, part: str) -> Iterator[None]:
        """Add the time that the block takes to ``part``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, part, getattr(self, part) + time.perf_counter() - start)


def load(job: Job) -> TransformersScorer:
    """Load a causal language model for scoring.

    UsageError for a wrong argument or a model that cannot be loaded.
    """
    if job.engine:
        raise UsageError(
            "scoring.engine belongs to vLLM, the transformers backend takes no such options: "
            "remove it, or set `scoring.backend: vllm`."
        )
    dtype, batch_tokens = job.dtype, job.batch_tokens
    if dtype not in DTYPES:
        raise UsageError(
            f"model.dtype: '{dtype}' is none of {', '.join(DTYPES)}.{nearest(dtype, DTYPES)}"
        )
    if batch_tokens is not None and batch_tokens < 1:
        raise UsageError(f"scoring.batch_tokens must be at least 1, not {batch_tokens}.")
    where = torch_device(job.device)
    loaded = load_model(in_cache(job.model, job.say), getattr(torch, dtype), where)
    budget = batch_tokens or DEFAULT_BATCH_TOKENS.get(where.type, 512)
    try:
        return TransformersScorer(loaded, budget)
    except Exception as error:
        if is_out_of_memory(error):
            raise does_not_fit(getattr(job.model, "name", "the model"), where) from error
        raise


class TransformersScorer:
    """Scores with a causal language model of transformers, which it takes over and alters.

    Rows of a batch are padded on the right and no attention mask is given: in a causal model no
    token sees what is to its right, so padding changes nothing, and without a mask attention takes
    the quick causal path.
    """

    name = "transformers"
    rank_ties = "excluded"
    workers = engines = 1

    def __init__(self, model: Any, batch_tokens: int) -> None:
        # All cores: torch's own choice, one thread for each physical core, is the quickest.
        self.model: Any = model
        self._device: torch.device = model.device
        self._batch_tokens = batch_tokens
        self._vocabulary = vocabulary_of(model)
        outputs = model.get_output_embeddings()
        columns = len(outputs.weight) if outputs is not None else self._vocabulary
        room = LOGITS_BYTES.get(self._device.type, LOGITS_BYTES["cpu"])
        self._rows = max(1, min(batch_tokens, room // (4 * columns)))
        self._head: Head | None = None
        self._statistics: TokenStatistics | None = None
        self.timings = Timings()
        with torch.inference_mode(), quiet():
            _check_causal(model)
            self._head = choose_head(model, self._rows)

    @property
    def head(self) -> str:
        """How logits are made: ``linear``, ``model`` (its own head) or ``whole`` (its forward)."""
        if self._head is None:
            return "whole"
        return "linear" if isinstance(self._head, LinearHead) else "model"

    @property
    def context_length(self) -> int | None:
        """The most tokens an example may have; None where the configuration sets no limit."""
        value = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return value if isinstance(value, int) and value > 0 else None

    def score(
        self, examples: Sequence[Example], on_tokens: Callable[[int], None] = ignore_progress
    ) -> list[Scores]:
        """Scores in the order given; see `pausedata.scorers.Scorer`."""
        self._check(examples)
        results: list[Scores | None] = [None] * len(examples)
        with self.timings.add_to("total"), torch.inference_mode():
            todo = [k for k, example in enumerate(examples) if len(example.response_ids)]
            # The last token predicts nothing that is wanted, so it need not go through the model.
            lengths = [len(examples[k]) - 1 for k in todo]
            for batch in plan_batches(lengths, self._batch_tokens):
                indices = [todo[k] for k in batch]
                chosen = [examples[index] for index in indices]
                try:
                    scores = self._score_batch(chosen)
                except Exception as error:
                    if not is_out_of_memory(error):
                        raise
                    raise DataError(
                        f"out of memory on {self._device} with {len(batch)} examples of up to "
                        f"{len(chosen[0])} tokens at once: lower `scoring.batch_tokens` (now "
                        f"{self._batch_tokens})."
                    ) from error
                for index, score in zip(indices, scores, strict=True):
                    results[index] = score
                on_tokens(sum(map(len, chosen)))
        return [_no_scores() if score is None else score for score in results]

    @torch.inference_mode()
    def logits(self, example: Example) -> Iterator[torch.Tensor]:
        """The float32 logits (rows, vocabulary) that predict each response token, in order.

        Some rows at a time, so that no long response needs an array of all; each is valid until
        the next is asked for. DataError for an example that the model cannot take.
        """
        self._check([example])
        ids = np.concatenate([example.prompt_ids, example.response_ids[:-1]]).astype(np.int64)
        rows = np.arange(len(example.prompt_ids) - 1, len(ids))
        yield from self._logits(
            torch.from_numpy(ids)[None].to(self._device), torch.from_numpy(rows).to(self._device)
        )

    def versions(self) -> dict[str, str]:
        """The versions of Python, torch and transformers."""
        return {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "transformers": transformers.__version__,
        }

    def settings(self) -> dict[str, Any]:
        """The kind of device, how logits are made, and a batch's padded tokens."""
        return {
            "device": self._device.type,
            "head": self.head,
            "batch_tokens": self._batch_tokens,
        }

    def close(self) -> None:
        """Free the model's memory."""
        self.model = self._head = self._statistics = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _check(self, examples: Sequence[Example]) -> None:
        """DataError for an example that the model cannot take."""
        limit = self.context_length
        for number, example in enumerate(examples):
            if not len(example.prompt_ids):
                raise DataError(
                    f"example {number} of the batch has an empty prompt: the first token of a "
                    "response needs one before it."
                )
            if limit is not None and len(example) > limit:
                raise DataError(
                    f"example {number} of the batch has {len(example)} tokens, the model takes "
                    f"{limit}: lower `scoring.max_length` and set `scoring.overlong` to skip or "
                    "truncate."
                )
            low = min(np.min(example.prompt_ids), np.min(example.response_ids, initial=0))
            high = max(np.max(example.prompt_ids), np.max(example.response_ids, initial=0))
            if low < 0 or high >= self._vocabulary:
                raise DataError(
                    f"example {number} of the batch has token id {low if low < 0 else high}, the "
                    f"model's ids are below {self._vocabulary}: were the tokens made with another "
                    "model's tokenizer?"
                )

    def _score_batch(self, examples: list[Example]) -> list[Scores]:
        """Scores of examples that go through the model together, in their order."""
        longest = max(map(len, examples)) - 1
        ids = np.zeros((len(examples), longest), dtype=np.int64)
        rows, targets = [], []  # where, in the flattened batch, the predictions of a token are
        for row, example in enumerate(examples):
            prompt, count = len(example.prompt_ids), len(example.response_ids)
            ids[row, :prompt] = example.prompt_ids
            ids[row, prompt : prompt + count - 1] = example.response_ids[:-1]
            first = row * longest + prompt - 1
            rows.append(np.arange(first, first + count))
            targets.append(np.asarray(example.response_ids, dtype=np.int64))
        values = self._predict(
            torch.from_numpy(ids).to(self._device),
            torch.from_numpy(np.concatenate(rows)).to(self._device),
            torch.from_numpy(np.concatenate(targets)).to(self._device),
        )
        parts = np.split(values, np.cumsum([len(part) for part in rows])[:-1], axis=1)
        return [
            Scores(
                logprob=part[0].astype(np.float32),
                rank=part[1].astype(np.int32),
                entropy=part[2].astype(np.float32),
            )
            for part in parts
        ]

    def _predict(self, ids: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
        """Logprob, rank and entropy (3, n) of ``targets`` (n).

        ``ids`` is (batch, length); ``rows`` (n), ascending, are positions in the flattened batch.
        """
        out = torch.empty(3, len(targets), dtype=torch.float32, device=self._device)
        done = 0
        for logits in self._logits(ids, rows):
            part = slice(done, done + len(logits))
            if self._statistics is None:
                self._statistics = TokenStatistics(logits.shape[1], self._device, self._rows)
            self._statistics(logits, targets[part], out[:, part])
            done = part.stop
        return out.cpu().numpy()

    def _logits(self, ids: torch.Tensor, rows: torch.Tensor) -> Iterator[torch.Tensor]:
        """The float32 logits at ``rows``, some at a time; each is the caller's to overwrite."""
        if self._head is None:
            yield from self._whole_logits(ids, rows)
            return
        with self.timings.add_to("forward"):
            hidden = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        hidden = hidden.flatten(0, 1).index_select(0, rows)
        for part in hidden.split(self._rows):
            with self.timings.add_to("forward"):
                logits = self._head(part)
            yield logits

    def _whole_logits(self, ids: torch.Tensor, rows: torch.Tensor) -> Iterator[torch.Tensor]:
        """As `_logits`, through the model's whole forward one sequence at a time."""
        length = ids.shape[1]
        for number, sequence in enumerate(ids.split(1)):
            wanted = rows[(rows >= number * length) & (rows < (number + 1) * length)]
            with self.timings.add_to("forward"):
                logits = self.model(input_ids=sequence, use_cache=False).logits[0]
            for part in (wanted - number * length).split(self._rows):
                yield logits.index_select(0, part).float()


def _no_scores() -> Scores:
    """The scores of an empty response."""
    nothing = np.empty(0, dtype=np.float32)
    return Scores(nothing, np.empty(0, dtype=np.int32), nothing.copy())


def _check_causal(model: Any) -> None:
    """UsageError for a model in which a token sees what is to its right."""
    size = vocabulary_of(model)
    ids = torch.linspace(1, size - 1, 8, device=model.device).long()[None]
    other = ids.clone()
    other[:, 4:] = ids[:, :4]
    here, there = (model(input_ids=x, use_cache=False).logits[0, :4].float() for x in (ids, other))
    if (here - there).abs().max() > 1e-2 * here.abs().max().clamp_min(1e-3):
        raise UsageError(
            f"{type(model).__name__} is no causal language model: what follows a token changes its "
            "prediction. Choose a decoder such as Llama, Qwen or SmolLM2."
        )
