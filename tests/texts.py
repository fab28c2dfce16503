"""Batches of text for tests: tokens by hand, at random, or as real tokenizers make them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from pausedata import strategies
from pausedata.models.tokens import begins_character
from pausedata.strategies import Batch
from pausedata.strategies.text import ResponseTexts

Span = tuple[int, int]


def batch_of(examples: Sequence[tuple[str, list[Span]]], **columns: Any) -> Batch:
    """Examples as (response, the spans of its tokens), EOS among them."""
    offsets = np.cumsum([0, *(len(spans) for _, spans in examples)])
    spans = [span for _, spans in examples for span in spans]
    start = np.array([start for start, _ in spans], np.int32)
    end = np.array([end for _, end in spans], np.int32)
    return Batch(
        ids=[f"row-{k}" for k in range(len(examples))],
        offsets=offsets,
        begins_character=begins_character(start, end, offsets),
        text=ResponseTexts([response for response, _ in examples], offsets, start, end),
        **columns,
    )


def pieces(text: str) -> tuple[str, list[Span]]:
    """An example from its tokens with bars between them: ``"3| *| 4|"`` ends with an EOS."""
    parts = text.split("|")
    ends = list(itertools.accumulate(map(len, parts)))
    return "".join(parts), list(zip([0, *ends[:-1]], ends, strict=True))


def characters(text: str) -> tuple[str, list[Span]]:
    """An example with a token for each character, and an EOS."""
    return text, [(k, k + 1) for k in range(len(text))] + [(len(text), len(text))]


def spans_of(batch: Batch, example: int) -> list[Span]:
    """The spans of an example's tokens."""
    assert batch.text is not None
    here = slice(batch.offsets[example], batch.offsets[example + 1])
    return [
        (int(start), int(end))
        for start, end in zip(batch.text.char_start[here], batch.text.char_end[here], strict=True)
    ]


def place(name: str, batch: Batch, **parameters: Any) -> list[list[int]]:
    """The positions of each example, in the order that the strategy gives."""
    strategy = strategies.get(name)
    placed, _ = strategies.place(strategy, batch, strategies.parse(strategy, parameters, "test"))
    found: list[list[int]] = [[] for _ in batch.ids]
    for example, position in zip(placed.example, placed.positions, strict=True):
        found[example].append(int(position))
    return found


def shown(name: str, *texts: str, spans: Any = characters, **parameters: Any) -> list[str]:
    """The texts with [PAUSE] where the strategy puts one; by default each character is a token.

    A place after EOS shows as `<eos>[PAUSE]`.
    """
    examples = [spans(text) for text in texts]
    found = place(name, batch_of(examples), **parameters)
    return [insert(*example, here) for example, here in zip(examples, found, strict=True)]


def insert(response: str, spans: list[Span], positions: list[int]) -> str:
    """A response with [PAUSE] before the tokens at these positions, ascending."""
    found, at = "", 0
    for position in positions:
        end = spans[position - 1][1] if position else 0
        found += response[at:end]
        if position == len(spans) and position and spans[-1][0] == spans[-1][1]:
            found += "<eos>"
        found += "[PAUSE]"
        at = end
    return found + response[at:]


def generated(seed: int, examples: int, alphabet: Sequence[str]) -> Batch:
    """Random texts, cut into tokens at random.

    Some characters are several tokens, the last of which may reach further, either way; some texts
    are truncated; some have no EOS, others two; some examples have no token at all.
    """
    draw = random.Random(seed)
    rows = []
    for _ in range(examples):
        text = "".join(draw.choice(alphabet) for _ in range(draw.randint(0, 40)))
        spans: list[Span] = []
        at = 0
        while at < len(text):
            end = min(len(text), at + draw.choice([1, 1, 2, 3, 5]))
            if draw.random() < 0.2:  # the first character's bytes, apart from the rest
                spans += [(at, at + 1)] * draw.randint(1, 3)
                spans.append((max(0, at - draw.choice([0, 0, 1])), end))
            else:
                spans.append((at, end))
            at = end
        if draw.random() < 0.2:
            spans = spans[: draw.randint(0, len(spans))]
        elif draw.random() < 0.8:
            spans += [(len(text), len(text))] * draw.randint(1, 2)
        rows.append((text, spans))
    scores = random.Random(seed + 1)
    tokens = sum(len(spans) for _, spans in rows)
    # Few distinct values, so that ties are common.
    logprob = np.array([-scores.choice([0.25, 0.5, 1.5, 3.1]) for _ in range(tokens)], np.float32)
    return batch_of(rows, logprob=logprob)
