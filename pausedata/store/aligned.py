"""The tables that have a row for each example, read side by side, a shard at a time, as arrays.

Shard k of ``tokens``, of each run and of each placement holds the same examples in the same order.
That is checked as they are read: DataError where they do not fit together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pausedata.core.errors import DataError
from pausedata.store.dataset import Table, Version, check_shards
from pausedata.store.manifest import ShardEntry
from pausedata.store.tables import list_parts

_VERIFY = "`pausedata verify` says what is wrong."


@dataclass(frozen=True)
class ScoreColumns:
    """The scores of a shard's response tokens.

    Ranks and entropies are of the examples that have them; None where no example has.
    """

    logprob: NDArray[np.float32]  # [response tokens], nats
    rank: NDArray[np.int32] | None  # [response tokens of these examples]
    entropy: NDArray[np.float32] | None  # the same shape, nats


@dataclass(frozen=True)
class Places:
    """Where pauses stand in the examples of a shard."""

    each: NDArray[np.int64]  # [examples]: how many places
    row: NDArray[np.int64]  # [places]: the example's index in the shard
    position: NDArray[np.int32]  # [places]
    count: NDArray[np.int16]  # [places]: pauses there


class AlignedTables:
    """``tokens``, with some runs and placements beside it."""

    def __init__(self, tokens: Table, others: Iterable[Table] = ()) -> None:
        self.tokens = tokens
        self.others = {table.name: table for table in others}
        for table in self.others.values():
            check_shards(table, self.tokens)

    @classmethod
    def of(
        cls, version: Version, runs: Iterable[str] = (), placements: Iterable[str] = ()
    ) -> AlignedTables:
        """Those of a version; UsageError where there is no such run or placement."""
        names = [f"scores/{run}" for run in runs] + [f"placements/{name}" for name in placements]
        return cls(version.table("tokens"), [version.table(name) for name in names])

    def shards(self, prompts: bool = False) -> Iterator[AlignedShard]:
        """The shards in order; ``prompts``: count the prompts' tokens, too."""
        for number, shard in enumerate(self.tokens.shards):
            columns = ["id", "response_ids", *(["prompt_ids"] if prompts else [])]
            rows = self.tokens.read(shard, columns)
            offsets, token_ids = list_parts(rows, "response_ids")
            counted = len(list_parts(rows, "prompt_ids")[1]) if prompts else None
            yield AlignedShard(self, number, rows.column("id"), offsets, token_ids, counted)


@dataclass(frozen=True)
class AlignedShard:
    """The response tokens of one shard; scores and places beside them are read when asked for."""

    tables: AlignedTables
    number: int
    ids: pa.ChunkedArray  # of the examples
    offsets: NDArray[np.int64]  # [examples + 1]: where each response begins, from 0
    token_ids: NDArray[np.int32]  # [response tokens]
    prompt_tokens: int | None  # in all; None where they were not asked for

    @property
    def split(self) -> str:
        """The split that all of its examples belong to."""
        return str(self.tables.tokens.shards[self.number].split)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The tokens of each response: [examples]."""
        return np.diff(self.offsets)

    def scores(self, run: str, optional: bool = False) -> ScoreColumns:
        """What ``run`` gave the tokens; ``optional``: ranks and entropies, too.

        DataError where they are not one for each token, or no numbers.
        """
        columns = ["logprob", "rank", "entropy"] if optional else ["logprob"]
        shard, rows = self._read(self.tables.others[f"scores/{run}"], columns)
        offsets, logprob = list_parts(rows, "logprob")
        if not np.array_equal(offsets, self.offsets) or not np.isfinite(logprob).all():
            raise _damaged(shard, "a token has no score, or one that is not finite")
        rank = self._where_there(shard, rows, "rank") if optional else None
        entropy = self._where_there(shard, rows, "entropy") if optional else None
        if rank is not None and not (rank >= 1).all():
            raise _damaged(shard, "a rank is below 1, or missing")
        if entropy is not None and not np.isfinite(entropy).all():
            raise _damaged(shard, "an entropy is missing, or not finite")
        return ScoreColumns(logprob, rank, entropy)

    def places(self, placement: str) -> Places:
        """Where ``placement`` has pauses; DataError where one lies beyond its response."""
        columns = ["position", "count"]
        shard, rows = self._read(self.tables.others[f"placements/{placement}"], columns)
        offsets, position = list_parts(rows, "position")
        counted, count = list_parts(rows, "count")
        if not np.array_equal(offsets, counted):
            raise _damaged(shard, "counts are not one for each position")
        each = np.diff(offsets)
        row = np.repeat(np.arange(len(each)), each)
        if ((position < 0) | (position > self.lengths[row])).any():
            raise _damaged(shard, "a position lies beyond its response")
        return Places(each, row, position, count)

    def before(self, places: Places) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Which places stand before a token, not after the last; and the indices of these tokens.

        [places], and of those that do [tokens].
        """
        within = places.position < self.lengths[places.row]
        return within, (self.offsets[places.row] + places.position)[within]

    def _read(self, table: Table, columns: list[str]) -> tuple[ShardEntry, pa.Table]:
        """The shard of another table, and its rows; DataError where they are of other examples."""
        shard = table.shards[self.number]
        rows = table.read(shard, ["id", *columns])
        if not rows.column("id").equals(self.ids):
            own = self.tables.tokens.shards[self.number].path
            raise DataError(f"{shard.path} does not hold the examples of {own}. {_VERIFY}")
        return shard, rows

    def _where_there(self, shard: ShardEntry, rows: pa.Table, column: str) -> NDArray | None:
        """The values of a column that may be null for an example; None where it is for all."""
        there = rows.column(column).is_valid().to_numpy()
        if not there.any():
            return None
        offsets, values = list_parts(rows.select([column]).filter(pa.array(there)), column)
        if not np.array_equal(np.diff(offsets), self.lengths[there]):
            raise _damaged(shard, f"{column} is not one for each token")
        return values


def _damaged(shard: ShardEntry, what: str) -> DataError:
    return DataError(f"{shard.path}: {what}. {_VERIFY}")
