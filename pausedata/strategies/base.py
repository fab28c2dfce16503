"""What a strategy is given and what it gives back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

Int = np.ndarray[Any, np.dtype[np.int64]]
Bool = np.ndarray[Any, np.dtype[np.bool_]]
Float = np.ndarray[Any, np.dtype[np.float32]]

MOST_PAUSES = 32_767  # at one position: `count` is int16


class Parameters(BaseModel):
    """Base of every strategy's parameters: unknown keys and wrong types are errors."""

    # Strict: YAML's `yes` is no count of 1.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


@dataclass(frozen=True)
class Batch:
    """Response tokens of several examples, one after another.

    Example ``i`` has the tokens ``offsets[i]`` to ``offsets[i + 1]``.
    """

    ids: Sequence[str]  # [examples]
    offsets: Int  # [examples + 1], from 0
    begins_character: Bool  # [tokens]
    logprob: Float | None = None  # [tokens], nats

    @cached_property
    def lengths(self) -> Int:
        """Response tokens of each example: [examples]."""
        return np.diff(self.offsets)

    @cached_property
    def example(self) -> Int:
        """Which example each token belongs to: [tokens]."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @cached_property
    def position(self) -> Int:
        """Each token's index in its own response: [tokens]."""
        return np.arange(self.offsets[-1]) - self.offsets[self.example]

    def allowing_all(self) -> Batch:
        """The same batch with every token allowed, also those inside a character."""
        return dataclasses.replace(self, begins_character=np.ones_like(self.begins_character))


@dataclass(frozen=True)
class Placed:
    """Pauses: ``counts[k]`` of them before token ``positions[k]`` of example ``example[k]``.

    All three are [pauses' places], in order of example and, within it, of position.
    """

    example: Int
    positions: Int
    counts: Int

    def offsets(self, examples: int) -> Int:
        """Where each example's places begin: [examples + 1]."""
        return np.concatenate([[0], np.cumsum(np.bincount(self.example, minlength=examples))])


@dataclass(frozen=True)
class Strategy:
    """A way to place pauses: its name, its parameters, the score columns it reads, its function."""

    name: str
    options: type[Parameters]
    place: Callable[[Batch, Any], Placed]
    needs: frozenset[str] = frozenset()


def smallest(batch: Batch, score: np.ndarray[Any, Any], most: int, tokens: int) -> Placed:
    """The ``most`` smallest scores of each example among tokens that begin a character.

    ``score``: [tokens]; ties go to the earlier token. Each place gets ``tokens`` pauses.
    """
    if tokens == 0:
        most = 0
    eligible = np.flatnonzero(batch.begins_character)
    example = batch.example[eligible]
    # Sorted by example, then score; the sort is stable, so that equal scores keep their order.
    order = np.lexsort((score[eligible], example))
    sorted_example = example[order]
    first = np.searchsorted(sorted_example, np.arange(len(batch.lengths)))
    place_in_example = np.arange(len(order)) - first[sorted_example]
    chosen = np.sort(eligible[order[place_in_example < most]])
    return Placed(
        batch.example[chosen], batch.position[chosen], np.full(len(chosen), tokens, np.int64)
    )
