"""The mean negative log-likelihood of responses given their prompts, and its gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from pausedata.core import stopping
from pausedata.scorers import Example
from pausedata.scorers.batches import plan_batches
from pausedata.scorers.heads import ModelHead, model_head, vocabulary_of
from pausedata.scorers.sizes import LOGITS_BYTES


class ResponseLoss:
    """The loss of a model on response tokens, in nats; the prompt's tokens count nothing.

    Rows are padded on the right without a mask, as in scoring: in a causal model nothing sees what
    is to its right. Logits are made of response positions alone, a block at a time, whose gradient
    is taken before the next: all of a step's would be most of its memory.
    """

    def __init__(self, model: Any, tokens_at_once: int, on_tokens: Callable[[int], None]) -> None:
        """``model`` is a transformers one, with an adapter in it perhaps.

        ``on_tokens`` hears after each batch how many tokens, padding apart, it was.
        """
        self._model, self._tokens, self._on_tokens = model, tokens_at_once, on_tokens
        kind = model.device.type
        room = LOGITS_BYTES.get(kind, LOGITS_BYTES["cpu"])
        self._block = max(1, room // (4 * vocabulary_of(model)))
        with torch.no_grad():
            self._head: ModelHead | None = model_head(model)

    def mean(self, rows: Sequence[Example]) -> float:
        """Over all response tokens of ``rows``; leaves no gradient."""
        with torch.no_grad():
            total = sum(self._batch(batch, None) for batch in self._batches(rows))
        return total / _count(rows)

    def backward(self, rows: Sequence[Example]) -> float:
        """As `mean`, and its gradient is added to those of the weights that are trained."""
        count = _count(rows)
        return sum(self._batch(batch, 1 / count) for batch in self._batches(rows)) / count

    def _batches(self, rows: Sequence[Example]) -> Iterator[list[Example]]:
        lengths = [len(row) - 1 for row in rows]
        for batch in plan_batches(lengths, 1 if self._head is None else self._tokens):
            stopping.raise_if_stopped()
            chosen = [rows[i] for i in batch]
            yield chosen
            self._on_tokens(sum(map(len, chosen)))

    def _batch(self, rows: list[Example], scale: float | None) -> float:
        """The sum over response tokens; with ``scale`` its gradient, times that, is added."""
        device = self._model.device
        ids, positions, targets = (torch.from_numpy(a).to(device) for a in _arrays(rows))
        if self._head is None:  # one row
            logits = self._model(input_ids=ids, use_cache=False).logits[0]
            total = _nll(logits.index_select(0, positions), targets)
            if scale is not None:
                (total * scale).backward()
            return float(total.detach())
        body = self._model.base_model(input_ids=ids, use_cache=False)
        hidden = body.last_hidden_state.flatten(0, 1).index_select(0, positions)
        leaf = hidden.detach().requires_grad_(scale is not None)
        sums = []
        for part, wanted in zip(leaf.split(self._block), targets.split(self._block), strict=True):
            total = _nll(self._head(part), wanted)
            if scale is not None:
                (total * scale).backward()
            sums.append(float(total.detach()))
        if scale is not None:
            hidden.backward(leaf.grad)
        return sum(sums)


def _nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The sum, in float32, over rows of ``logits`` (n, vocabulary) of ``targets`` (n)."""
    return cross_entropy(logits.float(), targets, reduction="sum")


def _count(rows: Sequence[Example]) -> int:
    return sum(len(row.response_ids) for row in rows)


def _arrays(rows: Sequence[Example]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids (rows, longest), where in them, flattened, responses are predicted (n), and those (n)."""
    longest = max(map(len, rows)) - 1  # the last token predicts nothing that is wanted
    ids = np.zeros((len(rows), longest), dtype=np.int64)
    positions = []
    for number, row in enumerate(rows):
        prompt, end = len(row.prompt_ids), len(row) - 1
        ids[number, :prompt] = row.prompt_ids
        ids[number, prompt:end] = row.response_ids[:-1]
        positions.append(number * longest + np.arange(prompt - 1, end))
    targets = np.concatenate([row.response_ids for row in rows]).astype(np.int64)
    return ids, np.concatenate(positions), targets
