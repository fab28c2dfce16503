"""Responses as characters, and the way from a character to a token and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Int = np.ndarray[Any, np.dtype[np.int64]]
Bool = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Text:
    """Responses and the spans of their tokens, in Unicode code points.

    The response of example i is ``responses[i]``; its tokens are those of the batch, ``offsets[i]``
    to ``offsets[i + 1]``. A truncated example's tokens cover the beginning of its response alone.
    """

    responses: Sequence[str]  # [examples]
    offsets: Int  # [examples + 1], as the batch's
    char_start: Int  # [tokens]
    char_end: Int  # [tokens]

    def of(self, examples: Int, tokens: Int) -> Text:
        """Those of these examples, whose tokens these are."""
        lengths = np.diff(self.offsets)[examples]
        return Text(
            [self.responses[k] for k in examples],
            np.concatenate([[0], np.cumsum(lengths)]),
            self.char_start[tokens],
            self.char_end[tokens],
        )

    @property
    def is_eos(self) -> Bool:
        """The tokens added after the text (EOS, the end of a turn): [tokens]."""
        raise NotImplementedError

    @property
    def is_whitespace(self) -> Bool:
        """The tokens that are whitespace and nothing else: [tokens]."""
        raise NotImplementedError

    @property
    def is_punctuation(self) -> Bool:
        """The tokens that are punctuation (Unicode P*), with whitespace or without: [tokens]."""
        raise NotImplementedError

    def inside(self, pattern: str) -> Bool:
        """The tokens that share a character with a match of ``pattern``: [tokens]."""
        raise NotImplementedError
