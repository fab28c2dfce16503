"""Pauses after every word of an answer while it is written: what `every_word` is in training."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from transformers import LogitsProcessor

from pausedata.tokenizer import Pieces


class AfterWords(LogitsProcessor):
    """Forces pauses where a word ends, or after every ``every`` tokens; forbids them elsewhere.

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
