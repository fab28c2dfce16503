"""The tables of a version side by side, shard by shard, as arrays; what does not fit is refused."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pausedata.core.errors import DataError
from pausedata.store.dataset import Table
from pausedata.store.manifest import ShardEntry
from pausedata.store.tables import list_parts

_VERIFY = "`pausedata verify` says what is wrong."


@dataclass(frozen=True)
class Block:
    """The response tokens of one shard."""

    number: int
    path: str
    ids: pa.ChunkedArray  # of the examples
    offsets: NDArray[np.int64]  # [examples + 1]: where each response begins, from 0
    token_ids: NDArray[np.int32]  # [response tokens]
    prompt_tokens: int | None  # in all; None where they were not asked for

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The tokens of each response: [examples]."""
        return np.diff(self.offsets)


def read_block(tokens: Table, number: int, prompts: bool = False) -> Block:
    """Shard ``number``; ``prompts``: count the prompts' tokens, too."""
    shard = tokens.shards[number]
    rows = tokens.read(shard, ["id", "response_ids", *(["prompt_ids"] if prompts else [])])
    offsets, token_ids = list_parts(rows, "response_ids")
    counted = len(list_parts(rows, "prompt_ids")[1]) if prompts else None
    return Block(number, shard.path, rows.column("id"), offsets, token_ids, counted)


@dataclass(frozen=True)
class ScoreColumns:
    """Scores of a block's tokens: [tokens], or [those that have one], and None where none has."""

    logprob: NDArray[np.float32]  # nats
    rank: NDArray[np.int32] | None
    entropy: NDArray[np.float32] | None  # nats


def read_scores(block: Block, scores: Table, optional: bool = False) -> ScoreColumns:
    """The scores beside ``block``; ``optional``: ranks and entropies, too.

    DataError where they are not one for each token, or no numbers.
    """
    shard = scores.shards[block.number]
    columns = ["logprob", "rank", "entropy"] if optional else ["logprob"]
    rows = _beside(block, scores, shard, columns)
    offsets, logprob = list_parts(rows, "logprob")
    if not np.array_equal(offsets, block.offsets) or not np.isfinite(logprob).all():
        raise DataError(f"{shard.path}: a token has no score, or one that is not finite. {_VERIFY}")
    rank = _where_there(block, shard, rows, "rank") if optional else None
    entropy = _where_there(block, shard, rows, "entropy") if optional else None
    if rank is not None and not (rank >= 1).all():
        raise DataError(f"{shard.path}: a rank is below 1, or missing. {_VERIFY}")
    if entropy is not None and not np.isfinite(entropy).all():
        raise DataError(f"{shard.path}: an entropy is missing, or not finite. {_VERIFY}")
    return ScoreColumns(logprob, rank, entropy)


def _where_there(block: Block, shard: ShardEntry, rows: pa.Table, column: str) -> NDArray | None:
    """The values of a column that may be null for an example; None where it is for all."""
    there = rows.column(column).is_valid().to_numpy()
    if not there.any():
        return None
    offsets, values = list_parts(rows.select([column]).filter(pa.array(there)), column)
    if not np.array_equal(np.diff(offsets), block.lengths[there]):
        raise DataError(f"{shard.path}: {column} is not one for each token. {_VERIFY}")
    return values


@dataclass(frozen=True)
class Places:
    """The places of a block's examples where pauses stand."""

    each: NDArray[np.int64]  # [examples]: how many places
    row: NDArray[np.int64]  # [places]: the example's index in the shard
    position: NDArray[np.int32]  # [places]
    count: NDArray[np.int16]  # [places]: pauses there


def read_places(block: Block, placement: Table) -> Places:
    """The places beside ``block``; DataError where one is not in its response."""
    shard = placement.shards[block.number]
    rows = _beside(block, placement, shard, ["position", "count"])
    offsets, position = list_parts(rows, "position")
    counted, count = list_parts(rows, "count")
    if not np.array_equal(offsets, counted):
        raise DataError(f"{shard.path}: counts are not one for each position. {_VERIFY}")
    each = np.diff(offsets)
    row = np.repeat(np.arange(len(each)), each)
    if ((position < 0) | (position > block.lengths[row])).any():
        raise DataError(f"{shard.path}: a position lies beyond its response. {_VERIFY}")
    return Places(each, row, position, count)


def _beside(block: Block, table: Table, shard: ShardEntry, columns: list[str]) -> pa.Table:
    """Rows of a shard that stands beside the block's; DataError where they are of other ids."""
    rows = table.read(shard, ["id", *columns])
    if not rows.column("id").equals(block.ids):
        raise DataError(f"{shard.path} does not hold the examples of {block.path}. {_VERIFY}")
    return rows
