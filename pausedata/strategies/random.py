"""The paper's RAN: pauses at positions drawn uniformly."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from pausedata.strategies.base import Batch, Placed, Ranked, Strategy
from pausedata.strategies.choose import choose

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Random(Ranked):
    """Before M response tokens drawn uniformly without replacement (the paper's RAN)."""

    seed: int = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default=0, description="with the example's id, all that decides the draw"
    )


def place(batch: Batch, parameters: Random) -> Placed:
    """The M smallest of one random number a token: a draw without replacement."""
    keys = stream_keys(batch.ids, parameters.seed)
    numbers = random_numbers(keys[batch.example], batch.position)
    return choose(batch, parameters, key=numbers, most=parameters.most(batch))


def stream_keys(
    ids: Sequence[str], seed: int, epoch: int | None = None
) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """One key for each example, from the seed, the epoch if there is one, and its id: [examples].

    The first 8 bytes, little-endian, of SHA-256 over these, as decimals and text, NUL in between.
    """
    lead = f"{seed}\0" if epoch is None else f"{seed}\0{epoch}\0"
    return np.array(
        [
            int.from_bytes(hashlib.sha256(f"{lead}{id}".encode()).digest()[:8], "little")
            for id in ids
        ],
        np.uint64,
    )


def random_numbers(keys: Any, counters: Any) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """SplitMix64 of each key at each counter: [tokens], uniform over 64 bits.

    Counter-based and spelled out here, so that a seed gives the same positions on any machine
    and with any release of NumPy.
    """
    with np.errstate(over="ignore"):
        mixed = keys + (counters.astype(np.uint64) + np.uint64(1)) * _GOLDEN
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


STRATEGY = Strategy(
    "random",
    Random,
    place,
    source='Kim, Kim, Thorne, "Learning to Insert [PAUSE] Tokens for Better Reasoning" (Findings '
    "of ACL 2025), Table 1: RAN, the control for where the pauses are",
    formula="""\
Each token gets a 64-bit number z, and the M eligible tokens with the smallest are taken. It is \
SplitMix64 with the key K of the example and the counter k, the token's position, modulo 2^64:

```text
K = first 8 bytes, little-endian, of SHA-256(decimal seed, one NUL byte, id)
z = K + (k + 1) · 9E3779B97F4A7C15
z = (z xor (z >> 30)) · BF58476D1CE4E5B9
z = (z xor (z >> 27)) · 94D049BB133111EB
z =  z xor (z >> 31)
```

So a seed gives the same positions on any machine and with any release of NumPy.""",
    drawn_evenly=True,
    worked=({"positions": 2}, {"positions": 2, "seed": 1}),
)
