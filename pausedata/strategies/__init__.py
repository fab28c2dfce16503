"""Scores to positions: pure functions over a batch of examples, with no I/O.

A strategy is registered with a typed model of its parameters; the command line, the recipe's
schema and its errors all read that one place.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pausedata.registry import Registry
from pausedata.strategies import (
    append,
    budget,
    excess,
    highest_entropy,
    lowest_logprob,
    none,
    random,
    threshold,
)
from pausedata.strategies.base import Batch, Parameters, Placed, Strategy

__all__ = [
    "Batch",
    "Parameters",
    "Placed",
    "Strategy",
    "describe",
    "get",
    "names",
    "parse",
    "place",
    "reads",
    "recorded",
]

_registry = Registry(
    "strategy",
    [
        lowest_logprob.STRATEGY,
        random.STRATEGY,
        append.STRATEGY,
        none.STRATEGY,
        highest_entropy.STRATEGY,
        threshold.STRATEGY,
        excess.STRATEGY,
        budget.STRATEGY,
    ],
)
names = _registry.names
get = _registry.get
describe = _registry.describe

_INPUTS = {"strategy", "parameters", "run", "tokens", "scores"}


def parse(strategy: Strategy, values: dict[str, Any], where: str) -> Parameters:
    """``values`` as the strategy's typed parameters; UsageError begins with ``where``."""
    return _registry.parse(strategy, values, where)


def recorded(inputs: dict[str, Any]) -> tuple[Strategy, Parameters] | None:
    """The strategy and parameters of a stored placement, from its provenance's ``inputs``.

    None where a later release made it, in a way that this one does not know.
    """
    return _registry.recorded(inputs, _INPUTS, "parameters")


def reads(strategy: Strategy, parameters: Parameters) -> frozenset[str]:
    """Columns of the batch that the strategy reads with these parameters."""
    return strategy.needs | parameters.reads


def place(strategy: Strategy, batch: Batch, parameters: Parameters) -> tuple[Placed, int]:
    """Where ``strategy`` puts pauses in ``batch``, and how often it was kept off a character.

    A token that begins inside a character is never given a pause. The second value counts those
    that the strategy would have chosen had they been allowed.
    """
    placed = strategy.place(batch, parameters)
    inside = np.unique(batch.example[~batch.begins_character])
    if not len(inside):
        return placed, 0
    rest = batch.of(inside)
    wanted = strategy.place(rest.allowing_all(), parameters)
    within = wanted.positions < rest.lengths[wanted.example]
    tokens = rest.offsets[wanted.example[within]] + wanted.positions[within]
    return placed, int((~rest.begins_character[tokens]).sum())
