"""The choice among tokens as its definition has it, in plain Python, and batches to try it on."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from pausedata.strategies import Batch

SCORES = [-8.0, -2.5, -1.0, -0.5, -0.0, 0.0]  # few, so that ties are common


def greedy(
    keys: Sequence[float], allowed: Sequence[bool], most: int | None = None, gap: int = 1
) -> list[int]:
    """The best token, then the best at least ``gap`` from every one taken, …, ``most`` of them."""
    taken: list[int] = []
    for k in sorted((k for k in range(len(keys)) if allowed[k]), key=lambda k: (keys[k], k)):
        if most is not None and len(taken) == most:
            break
        if gap == 1 or all(abs(k - other) >= gap for other in taken):
            taken.append(k)
    return sorted(taken)


def rounded(share: float, tokens: int) -> int:
    """``share`` of so many tokens, as written in decimals, halves up."""
    return int(Fraction(str(share)) * tokens + Fraction(1, 2))


def spans(batch: Batch) -> list[slice]:
    """Where each example's tokens are."""
    return [slice(a, b) for a, b in itertools.pairwise(batch.offsets.tolist())]


def random_batch(seed: int, lengths: Sequence[int], scores: Sequence[float] = SCORES) -> Batch:
    """Examples of these lengths: some tokens inside characters, scores drawn from ``scores``."""
    draw = random.Random(seed)
    tokens = sum(lengths)

    def column(values: Sequence[Any], dtype: Any) -> Any:
        return np.array(draw.choices(values, k=tokens), dtype)

    offsets = np.cumsum([0, *lengths])
    begins = column([True] * 4 + [False], np.bool_)
    begins[offsets[:-1][np.array(lengths, np.int64) > 0]] = True
    return Batch(
        ids=[f"row-{k}" for k in range(len(lengths))],
        offsets=offsets,
        begins_character=begins,
        logprob=column(scores, np.float32),
        rank=column([1, 1, 1, 2, 3, 7, 50_000], np.int32),
        entropy=column([abs(score) for score in scores], np.float32),
        reference=column(scores, np.float32),
        special=column([True] + [False] * 9, np.bool_),
    )
