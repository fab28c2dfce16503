"""What `measure --generate` puts between a model and its answers."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

from pausedata.models.tokenizer import Pieces


class RealTokens(StoppingCriteria):
    """Ends an answer at its ``most`` real tokens, of those behind the first ``prompt``."""

    def __init__(self, pause: int, prompt: int, most: int) -> None:
        self._pause, self._prompt, self._most = pause, prompt, most

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> Any:
        """Which of the rows ``input_ids`` [rows, tokens] are done: [rows]."""
        real = (input_ids[:, self._prompt :] != self._pause).sum(1)
        return real >= self._most


class AfterWords(LogitsProcessor):
    """What `every_word` is in training: pauses where a word ends, or after every ``every`` tokens.

    A word has ended where the token that greedy decoding would take next begins with whitespace
    or ends the answer. One serves one call of `generate`.
    """

    def __init__(
        self, tokenizer: Any, pause: int, ends: Collection[int], tokens: int, every: int | None
    ) -> None:
        """``tokens`` pauses at each place; ``ends``: the ids that end an answer."""
        self._pieces = Pieces(tokenizer)
        self._pause, self._ends, self._tokens, self._every = pause, set(ends), tokens, every
        self._prompt: int | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores [rows, vocabulary] of the token after ``input_ids`` [rows, tokens]."""
        if self._prompt is None:
            self._prompt = input_ids.shape[1]
        scores = scores.clone()
        scores[:, self._pause] = -torch.inf
        nexts = scores.argmax(-1).tolist()
        for row, ids in enumerate(input_ids[:, self._prompt :].tolist()):
            if self._is_due(ids, nexts[row]):
                scores[row] = -torch.inf
                scores[row, self._pause] = 0.0
        return scores

    def _is_due(self, answer: list[int], following: int) -> bool:
        run = next((n for n, id in enumerate(reversed(answer)) if id != self._pause), len(answer))
        if run:
            return run < self._tokens
        real = [id for id in answer if id != self._pause]
        if not real or real[-1] in self._ends:
            return False
        if self._every is not None:
            return len(real) % self._every == 0
        ended = following in self._ends or self._pieces[following][:1].isspace()
        return ended and not self._pieces[real[-1]][-1:].isspace()
