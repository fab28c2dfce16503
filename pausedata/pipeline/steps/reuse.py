"""Scores of examples whose token ids did not change, taken from one version into the next."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from pausedata.core.errors import DataError
from pausedata.scorers import Example, Scores
from pausedata.store.dataset import Table
from pausedata.store.manifest import ShardEntry
from pausedata.store.tables import list_parts


class ReusableScores:
    """The stored scores of one run, found again by the token ids that they belong to."""

    def __init__(self, tokens: Table, scores: Table) -> None:
        """``tokens`` and ``scores`` are of one version. ``scores`` is ``scores/RUN``, with a row
        for each row of ``tokens``, or ``kept/RUN``, with rows for some of them.

        What stands in a damaged shard, of either, is not found. DataError where their shards do
        not fit together.
        """
        self.provenance = scores.entry.provenance
        self._taken: list[Table] = []  # the tables of scores, those first that are asked first
        self._places: dict[bytes, tuple[int, int, int]] = {}  # ids' digest → table, shard, row
        self._damaged: dict[str, int] = {}  # shards that cannot be read → examples scored in them
        self.add(tokens, scores)

    @property
    def content(self) -> str:
        """The content hash of the scores; of several tables, a hash of theirs."""
        contents = [scores.entry.content for scores in self._taken]
        if len(contents) == 1:
            return contents[0]
        return f"sha256:{hashlib.sha256(','.join(contents).encode()).hexdigest()}"

    def add(self, tokens: Table, scores: Table) -> None:
        """Find what was not found so far in the tables of another version too.

        UsageError where they were not pulled and nobody can fetch them.
        """
        scores.need()  # now, and not after others were scored for hours
        if [shard.split for shard in tokens.shards] != [shard.split for shard in scores.shards]:
            raise DataError(
                f"{scores.name}: its shards are not those of tokens. "
                "`pausedata verify` says what is wrong."
            )
        damaged = tokens.damaged() | scores.damaged()
        for number, (shard, own) in enumerate(zip(tokens.shards, scores.shards, strict=True)):
            if unreadable := damaged & {shard.path, own.path}:
                self._damaged.setdefault(max(unreadable), own.rows)
            else:
                self._add(scores, number, tokens, shard, own)
        if not self._taken or any(place[0] == len(self._taken) for place in self._places.values()):
            self._taken.append(scores)  # else it has nothing that the others lack

    def _add(
        self, scores: Table, number: int, tokens: Table, shard: ShardEntry, own: ShardEntry
    ) -> None:
        """Note where the scores of a shard's examples are."""
        rows = tokens.read(shard, ["id", "prompt_ids", "response_ids"])
        place, table = _rows_of(scores, own, rows), len(self._taken)
        for i, example in enumerate(examples_of(rows)):
            if (row := place[i]) is not None:
                self._places.setdefault(example.digest(), (table, number, row))

    def find(self, examples: list[Example]) -> list[Scores | None]:
        """The stored scores of each example, or None where its ids were never scored."""
        wanted: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for i, example in enumerate(examples):
            place = self._places.get(example.digest())
            if place is not None:
                wanted.setdefault(place[:2], []).append((i, place[2]))
        found: list[Scores | None] = [None] * len(examples)
        for (table, number), rows in wanted.items():
            read = _read(self._taken[table], number, [row for _, row in rows])
            for (i, _), scores in zip(rows, read, strict=True):
                found[i] = scores
        return found

    def lost(self, tokens: Table) -> str:
        """That some are lost in damaged shards, where examples of ``tokens`` have none; else empty.

        Which examples stand there nobody knows, so that it is said how many at most.
        """
        if not self._damaged:
            return ""
        most = min(sum(1 for _ in self.missing(tokens)), sum(self._damaged.values()))
        if not most:
            return ""
        first, more = next(iter(self._damaged)), len(self._damaged) - 1
        which = f"{first} and {more} more are" if more else f"{first} is"
        return f"; those of up to {most:,} examples cannot be: {which} damaged"

    def missing(
        self, tokens: Table, shards: Iterable[ShardEntry] | None = None
    ) -> Iterator[Example]:
        """The examples of ``tokens``, or of some of its shards, whose ids were never scored."""
        for shard in tokens.shards if shards is None else shards:
            for example in examples_of(tokens.read(shard, ["prompt_ids", "response_ids"])):
                if not self.has(example):
                    yield example

    def forget(self, example: Example) -> None:
        """Let the example be scored anew."""
        self._places.pop(example.digest(), None)

    def has(self, example: Example) -> bool:
        """Whether the example's ids were scored before."""
        return example.digest() in self._places


def _rows_of(scores: Table, own: ShardEntry, rows: pa.Table) -> list[int | None]:
    """For each row of tokens the one in the scores' shard ``own``; None where there is none."""
    if own.rows == rows.num_rows:
        return list(range(rows.num_rows))
    ids = scores.read(own, ["id"]).column("id").to_pylist()
    row_of = {id: row for row, id in enumerate(ids)}
    return [row_of.get(id) for id in rows.column("id").to_pylist()]


def _read(scores: Table, number: int, rows: list[int]) -> list[Scores]:
    table = scores.read(scores.shards[number], ["logprob", "rank", "entropy"]).take(rows)
    columns: dict[str, Any] = {name: table.column(name) for name in table.column_names}
    return [
        Scores(
            np.array(columns["logprob"][i].as_py(), np.float32),
            _optional(columns["rank"][i].as_py(), np.int32),
            _optional(columns["entropy"][i].as_py(), np.float32),
        )
        for i in range(table.num_rows)
    ]


def examples_of(rows: pa.Table) -> list[Example]:
    """The examples in rows of ``tokens``."""
    prompts, prompt_ids = list_parts(rows, "prompt_ids")
    responses, response_ids = list_parts(rows, "response_ids")
    return [
        Example(
            prompt_ids[prompts[i] : prompts[i + 1]], response_ids[responses[i] : responses[i + 1]]
        )
        for i in range(rows.num_rows)
    ]


def _optional(values: list[Any] | None, dtype: Any) -> np.ndarray[Any, Any] | None:
    return None if values is None else np.array(values, dtype)
