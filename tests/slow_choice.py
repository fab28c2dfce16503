"""The strategies that go by scores as their definitions have them, in plain Python."""

from __future__ import annotations

import itertools
import math
import random
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from pausedata.strategies import Batch

Slow = Callable[[Batch, slice, dict[str, Any]], tuple[list[float], list[bool], int | None]]
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


# Slow versions: of an example, the key (the smallest is the best), who is in question, and M.


def slow_most(tokens: int, parameters: dict[str, Any]) -> int | None:
    if parameters.get("fraction") is not None:
        return rounded(parameters["fraction"], tokens)
    return parameters.get("positions")


def slow_lowest(batch: Batch, s: slice, parameters: dict[str, Any]) -> Any:
    assert batch.logprob is not None
    scores = batch.logprob[s].tolist()
    return scores, [True] * len(scores), slow_most(len(scores), parameters)


def slow_entropy(batch: Batch, s: slice, parameters: dict[str, Any]) -> Any:
    assert batch.entropy is not None
    entropies = batch.entropy[s].tolist()
    most = slow_most(len(entropies), parameters)
    return [-entropy for entropy in entropies], [True] * len(entropies), most


def slow_excess(batch: Batch, s: slice, parameters: dict[str, Any]) -> Any:
    assert batch.logprob is not None and batch.reference is not None
    own, other = batch.logprob[s].tolist(), batch.reference[s].tolist()
    excess = [(-a) - (-b) for a, b in zip(own, other, strict=True)]  # loss less the other's loss
    return [-x for x in excess], [True] * len(own), slow_most(len(own), parameters)


def slow_threshold(batch: Batch, s: slice, parameters: dict[str, Any]) -> Any:
    assert batch.logprob is not None and batch.rank is not None
    scores, ranks = batch.logprob[s].tolist(), batch.rank[s].tolist()
    most = parameters.get("positions")
    if "rank" in parameters:
        return [-r for r in ranks], [r > parameters["rank"] for r in ranks], most
    limit = parameters.get("logprob", math.log(parameters.get("probability", 0.5)))
    (limit,) = struct.unpack("f", struct.pack("f", limit))  # a float32, as scores are
    return scores, [x < limit for x in scores], most


SLOW: dict[str, Slow] = {
    "lowest_logprob": slow_lowest,
    "highest_entropy": slow_entropy,
    "excess": slow_excess,
    "threshold": slow_threshold,
}


def slow_places(
    batch: Batch, parameters: dict[str, Any], slow: Slow, anywhere: bool = False
) -> list[list[int]]:
    """What the slow version makes of the options common to all strategies."""
    without = (parameters.get("eligible") or {}).get("without", [])
    found = []
    for s in spans(batch):
        assert batch.special is not None
        key, among, most = slow(batch, s, parameters)
        allowed = [
            wanted
            and (anywhere or begins)
            and not ("first" in without and k == 0)
            and not ("special" in without and special)
            for k, (wanted, begins, special) in enumerate(
                zip(among, batch.begins_character[s], batch.special[s], strict=True)
            )
        ]
        limits = [n for n in (most, parameters.get("max_positions")) if n is not None]
        gap = parameters.get("min_gap") or 1
        found.append(greedy(key, allowed, min(limits, default=None), gap))
    return found if parameters.get("tokens", 1) else [[] for _ in found]


def slow_kept_off(batch: Batch, parameters: dict[str, Any], slow: Slow) -> int:
    """Of the tokens that would be chosen if all were allowed, those inside a character."""
    anywhere = slow_places(batch, parameters, slow, anywhere=True)
    return sum(
        not batch.begins_character[s][k]
        for s, places in zip(spans(batch), anywhere, strict=True)
        for k in places
    )


def slow_budget(
    batches: list[Batch], parameters: dict[str, Any]
) -> tuple[list[list[list[int]]], dict[str, Any]]:
    """Sort all candidates of the split, and take as many of the least likely as may be had."""
    unlimited = parameters | {"tokens": 1}
    places = [slow_places(batch, unlimited, slow_lowest) for batch in batches]
    scores = sorted(
        float(batch.logprob[s][k])
        for batch, found in zip(batches, places, strict=True)
        if batch.logprob is not None
        for s, each in zip(spans(batch), found, strict=True)
        for k in each
    )
    tokens = sum(len(batch.begins_character) for batch in batches)
    pauses, count = Fraction(str(parameters["per_100"])) * tokens / 100, parameters.get("tokens", 1)
    budget = math.floor(pauses / count) if count else 0
    # Of equal ones the last one's number is how many are not above it.
    up_to = {score: number for number, score in enumerate(scores, 1)}
    threshold = max((score for score, n in up_to.items() if n <= budget), default=None)
    kept = [
        [
            [k for k in each if threshold is not None and batch.logprob[s][k] <= threshold]
            for s, each in zip(spans(batch), found, strict=True)
        ]
        for batch, found in zip(batches, places, strict=True)
        if batch.logprob is not None
    ]
    return kept, {
        "threshold": threshold,
        "response_tokens": tokens,
        "candidates": len(scores),
        "places": sum(len(each) for found in kept for each in found),
    }
