"""Where in the responses the surprise lies, and where the pauses stand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pausedata.analysis.stats.manifest import share
from pausedata.analysis.stats.shards import read_block, read_places, read_scores
from pausedata.core.progress import Progress, Silent
from pausedata.store.dataset import Version, check_shards

PARTS = 20  # of a response, equally long: token k of n belongs to part 20 k / n, rounded down
FIRST = 32  # tokens of a response that are told one by one


@dataclass(frozen=True)
class ByPlace:
    """Runs and placements by place in the response.

    ``surprisal`` is a run's mean in nats of each of the 20 parts, ``first_surprisal`` of the first
    32 tokens; None where no response has a token there. ``pauses`` is the share of a placement's
    pauses that stand in each part (those after the last token in the last), ``first_pauses`` before
    each of the first tokens; all None where it has no pause.
    """

    surprisal: dict[str, list[float | None]]
    first_surprisal: dict[str, list[float | None]]
    pauses: dict[str, list[float | None]]
    first_pauses: dict[str, list[float | None]]


def by_place(version: Version, progress: Progress | None = None) -> ByPlace:
    """Add up ``version``, shard by shard; DataError where what is read does not fit together."""
    progress = progress or Silent()
    tokens = version.table("tokens")
    runs = {name: version.table(f"scores/{name}") for name in version.runs}
    placements = {name: version.table(f"placements/{name}") for name in version.placements}
    for table in (*runs.values(), *placements.values()):
        check_shards(table, tokens)
    there = _Sums()
    lost = {name: _Sums() for name in runs}
    paused = {name: _Sums() for name in placements}
    with progress.step("places", tokens.entry.rows, "examples") as advance:
        for number, shard in enumerate(tokens.shards):
            block = read_block(tokens, number)
            row = np.repeat(np.arange(len(block.lengths)), block.lengths)
            position = np.arange(len(block.token_ids)) - block.offsets[row]
            length = block.lengths[row]
            there.add(position, length, np.ones(len(position)))
            for name, table in runs.items():
                lost[name].add(position, length, -read_scores(block, table).logprob)
            for name, table in placements.items():
                places = read_places(block, table)
                paused[name].add(places.position, block.lengths[places.row], places.count)
            advance(shard.rows)
    return ByPlace(
        surprisal={name: _ratios(sums.parts, there.parts) for name, sums in lost.items()},
        first_surprisal={name: _ratios(sums.first, there.first) for name, sums in lost.items()},
        pauses={name: _shares(sums.parts, sums.all) for name, sums in paused.items()},
        first_pauses={name: _shares(sums.first, sums.all) for name, sums in paused.items()},
    )


class _Sums:
    """What adds up in each part and at each of the first places."""

    def __init__(self) -> None:
        self.parts: NDArray[np.float64] = np.zeros(PARTS)
        self.first: NDArray[np.float64] = np.zeros(FIRST)
        self.all = 0.0

    def add(self, position: NDArray, length: NDArray, amount: NDArray) -> None:
        """Amounts at positions of responses of so many tokens: [any] each."""
        part = np.minimum(position * PARTS // np.maximum(length, 1), PARTS - 1)
        self.parts += np.bincount(part, amount, minlength=PARTS)
        early = position < FIRST
        self.first += np.bincount(position[early], amount[early], minlength=FIRST)
        self.all += float(amount.sum(dtype=np.float64))


def _ratios(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> list[float | None]:
    return [share(float(s), float(n)) for s, n in zip(sums, counts, strict=True)]


def _shares(sums: NDArray[np.float64], whole: float) -> list[float | None]:
    return [share(float(s), whole) for s in sums]
