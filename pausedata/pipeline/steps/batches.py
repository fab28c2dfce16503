"""Stored tables, shard by shard, as the batches that strategies read."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from pausedata import strategies
from pausedata.core.errors import DataError
from pausedata.models.tokens import begins_character
from pausedata.store.dataset import Table, check_shards
from pausedata.store.tables import list_parts
from pausedata.strategies import Batch, Parameters, Placed, Strategy
from pausedata.strategies.base import SCORES
from pausedata.strategies.text import ResponseTexts


class Batches:
    """What one strategy reads, with its parameters; of each table the columns needed alone."""

    def __init__(
        self,
        strategy: Strategy,
        parameters: Parameters,
        run: str | None,
        tables: Mapping[str, Table],
    ) -> None:
        """``run`` is the one whose scores are read, ``tables`` those that ``tables_read`` names.

        Raises DataError where they are not sharded alike.
        """
        self._strategy, self._parameters = strategy, parameters
        self._reads = strategies.reads(strategy, parameters)
        self._run, self._tables = run, tables
        for name, table in tables.items():
            if name != "vocab":  # a row for each token of the vocabulary, not for each example
                check_shards(table, tables["tokens"])

    def all(self, fitted: Mapping[str, Mapping[str, Any]]) -> Iterator[Batch]:
        """The batches of all shards, in order, with what was ``fitted`` for their splits."""
        splits = [str(shard.split) for shard in self._tables["tokens"].shards]
        return _ahead(lambda k: self.read(k, fitted.get(splits[k])), range(len(splits)))

    def of_split(self, split: str) -> Iterator[Batch]:
        """The batches of a split, in order."""
        shards = enumerate(self._tables["tokens"].shards)
        return _ahead(self.read, [k for k, shard in shards if shard.split == split])

    def read(self, number: int, fitted: Mapping[str, Any] | None = None) -> Batch:
        """The shard ``number`` of every table as one batch.

        Raises DataError where the tables do not fit together, or a score is missing, NaN or
        infinite.
        """
        columns = ["id", "char_start", "char_end"]
        if "special" in self._reads:
            columns.append("response_ids")
        rows = self._shard("tokens", number, columns)
        offsets, start = list_parts(rows, "char_start")
        _, end = list_parts(rows, "char_end")
        special = None
        if "special" in self._reads:
            special = self._special[list_parts(rows, "response_ids")[1]]
        text = None
        if "text" in self._reads:
            responses = self._shard("examples", number, ["response"]).column("response")
            text = ResponseTexts(responses.to_pylist(), offsets, start, end)
        ids = rows.column("id").to_pylist()
        reference = self._parameters.other_run
        return Batch(
            ids=ids,
            offsets=offsets,
            begins_character=begins_character(start, end, offsets),
            reference=self._scores(reference, ["logprob"], number, ids, offsets)["logprob"]
            if reference
            else None,
            text=text,
            special=special,
            placed={name: self._placed(name, number) for name in self._parameters.placements},
            fitted=fitted or {},
            **self._scores(self._run, sorted(self._reads & SCORES), number, ids, offsets),
        )

    def _shard(self, name: str, number: int, columns: list[str]) -> pa.Table:
        """Columns of one shard of a table."""
        table = self._tables[name]
        return table.read(table.shards[number], columns)

    def _scores(
        self, run: str | None, columns: list[str], number: int, ids: list[str], offsets: Any
    ) -> dict[str, Any]:
        """Columns of a run's scores: [tokens] each."""
        if not columns:
            return {}
        table, found = f"scores/{run}", {}
        rows = self._shard(table, number, columns)
        for column in columns:
            if rows.column(column).null_count:
                raise DataError(
                    f"strategy '{self._strategy.name}' reads {column}, which {table} does not "
                    "have: its backend gives none."
                )
            own, values = list_parts(rows, column)
            if not np.array_equal(own, offsets):
                at = int((np.diff(own) != np.diff(offsets)).argmax())
                raise DataError(
                    f"{table}: example '{ids[at]}' has {own[at + 1] - own[at]} scores for "
                    f"{offsets[at + 1] - offsets[at]} tokens: another tokenizer's? Score it anew: "
                    f"`pausedata score DATASET --run {run} --replace`."
                )
            finite = np.isfinite(values)
            if not finite.all():
                at = int(finite.argmin())
                example = int(np.searchsorted(offsets, at, side="right")) - 1
                raise DataError(
                    f"{table}: {column} of token {at - offsets[example]} of example "
                    f"'{ids[example]}' is {values[at]}, not a number to place by. Score it anew: "
                    f"`pausedata score DATASET --run {run} --replace`."
                )
            found[column] = values
        return found

    def _placed(self, name: str, number: int) -> Placed:
        rows = self._shard(f"placements/{name}", number, ["position", "count"])
        offsets, positions = list_parts(rows, "position")
        _, counts = list_parts(rows, "count")
        example = np.repeat(np.arange(rows.num_rows), np.diff(offsets))
        return Placed(example, positions.astype(np.int64), counts.astype(np.int64))

    @cached_property
    def _special(self) -> Any:
        """Whether each token id is a special token: [largest id + 1]."""
        table = self._tables["vocab"]
        rows = [table.read(shard, ["token_id", "special"]) for shard in table.shards]
        whole = pa.concat_tables(rows)
        ids = whole.column("token_id").to_numpy()
        special = np.zeros(int(ids.max(initial=-1)) + 1, np.bool_)
        special[ids] = whole.column("special").to_numpy()
        return special


def _ahead(read: Callable[[int], Batch], numbers: Iterable[int]) -> Iterator[Batch]:
    """What ``read`` gives for each number; while one is worked on, the next is read."""
    with ThreadPoolExecutor(1) as beside:
        coming: deque[Future[Batch]] = deque()
        for number in numbers:
            coming.append(beside.submit(read, number))
            if len(coming) > 1:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
