"""Where in the responses the surprise lies, and where the pauses stand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pausedata.analysis.stats.manifest import share
from pausedata.core.progress import Progress, Silent
from pausedata.store.aligned import AlignedTables
from pausedata.store.dataset import Version

PARTS = 20  # of a response, equally long: token k of n belongs to part 20 k / n, rounded down
FIRST = 32  # tokens of a response that are reported one by one


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
    """Count shard by shard; DataError where the tables of ``version`` do not fit together."""
    progress = progress or Silent()
    tables = AlignedTables.of(version, version.runs, version.placements)
    there = _Sums()
    lost = {run: _Sums() for run in version.runs}
    paused = {placement: _Sums() for placement in version.placements}
    with progress.step("places", tables.tokens.entry.rows, "examples") as advance:
        for shard in tables.shards():
            lengths = shard.lengths
            row = np.repeat(np.arange(len(lengths)), lengths)
            position = np.arange(len(shard.token_ids)) - shard.offsets[row]
            there.add(position, lengths[row], np.ones(len(position)))
            for run, sums in lost.items():
                sums.add(position, lengths[row], -shard.scores(run).logprob)
            for placement, sums in paused.items():
                places = shard.places(placement)
                sums.add(places.position, lengths[places.row], places.count)
            advance(len(lengths))
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
        """Amounts at positions of responses of these lengths, in tokens: [n] each."""
        part = np.minimum(position * PARTS // np.maximum(length, 1), PARTS - 1)
        self.parts += np.bincount(part, amount, minlength=PARTS)
        early = position < FIRST
        self.first += np.bincount(position[early], amount[early], minlength=FIRST)
        self.all += float(amount.sum(dtype=np.float64))


def _ratios(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> list[float | None]:
    return [share(float(s), float(n)) for s, n in zip(sums, counts, strict=True)]


def _shares(sums: NDArray[np.float64], whole: float) -> list[float | None]:
    return [share(float(s), whole) for s in sums]
