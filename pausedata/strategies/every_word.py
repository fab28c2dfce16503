"""The paper's AAW: a pause after every word."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from pausedata.strategies.base import MOST_TOKENS, Batch, Choosing, Placed, Strategy
from pausedata.strategies.places import choose_places


class EveryWord(Choosing):
    """After every word, or every N tokens (the paper's AAW)."""

    every_n_tokens: int | None = Field(
        default=None,
        ge=1,
        le=MOST_TOKENS,
        description="instead of words: after every so many tokens",
    )

    @property
    def reads(self) -> frozenset[str]:
        """The text, unless it is tokens that are counted."""
        return super().reads | (frozenset() if self.every_n_tokens else {"text"})


def place(batch: Batch, parameters: EveryWord) -> Placed:
    """The position after the token in which each word ends, or each N-th position."""
    if parameters.every_n_tokens:
        times = batch.lengths // parameters.every_n_tokens
        example = np.repeat(np.arange(len(times)), times)
        first = np.cumsum(times) - times
        position = (np.arange(len(example)) - first[example] + 1) * parameters.every_n_tokens
    else:
        text = batch.text
        assert text is not None
        # A newline stands after each text, so that its last word has whitespace after it too.
        last = np.flatnonzero(~text.is_space[:-1] & text.is_space[1:])
        example, char = text.locate(last)
        position = text.after(example, char + 1)
    return choose_places(batch, parameters, example, position, after=True)


STRATEGY = Strategy(
    "every_word",
    EveryWord,
    place,
    source='Kim, Kim, Thorne, "Learning to Insert [PAUSE] Tokens for Better Reasoning" (Findings '
    "of ACL 2025): the baseline AAW",
    formula="A word is a run of characters that are no whitespace. After the token in which each "
    "word ends, the last one too; words that end in one token share a place. (The reference code "
    "splits at single spaces and puts none after the last word.) With `every_n_tokens: N`: the "
    "positions N, 2N, … up to the number of tokens.",
    known_before=lambda parameters: parameters.every_n_tokens is not None,
    worked=({}, {"every_n_tokens": 4}),
)
