"""How far the scores of two runs are apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pausedata.analysis.diff.join import Joined, JoinedRows, MostChanged, PairedRows, Rows
from pausedata.analysis.history import scored_by
from pausedata.core.errors import DataError
from pausedata.core.progress import Progress
from pausedata.core.quantiles import quantiles
from pausedata.store.dataset import Version, check_shards
from pausedata.store.tables import list_parts

QUANTILES = [0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0]


@dataclass(frozen=True)
class RunSide:
    """One of the two runs, over the examples that are compared."""

    table: str
    version: int
    scored_by: dict[str, Any]
    mean_logprob: float | None  # over all tokens


@dataclass(frozen=True)
class RankOne:
    """Tokens that the model ranks first, as shares of all tokens compared."""

    a: float
    b: float
    became: float  # first in B alone
    ceased: float  # first in A alone


@dataclass(frozen=True)
class ScoredExample:
    """An example whose scores differ, and the token of it that differs most."""

    id: str
    tokens: int
    mean_a: float
    mean_b: float
    pos: int
    token: str | None
    logprob_a: float
    logprob_b: float


@dataclass(frozen=True)
class RunsDiff:
    """Two runs; differences are B - A, in nats. None stands where no token is compared."""

    kind: str = field(default="runs", init=False)
    a: RunSide
    b: RunSide
    examples: int
    differing: int  # examples with another log-probability
    not_compared: int  # examples that are in one version alone, or with another response
    tokens: int
    shift_per_token: float | None  # the mean over all tokens
    shift_per_example: float | None  # the mean over examples of their means' differences
    quantiles: dict[str, float | None]  # of the tokens' differences; "0" and "1": the extremes
    rank_one: RankOne | None  # None also where a run has no ranks
    most_changed: list[ScoredExample]  # by the difference of the examples' means

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def diff_runs(
    a: tuple[Version, str], b: tuple[Version, str], joined: Joined, most: int, progress: Progress
) -> RunsDiff:
    """Compare two runs, each a version and a table's name, over the examples joined."""
    both = _Both(a, b, joined)
    total = _Totals()
    largest = MostChanged(most)
    title = f"comparing {a[1]} and {b[1]}"
    with progress.step(title, 2 * joined.compared, "examples") as advance:  # quantiles read again
        for block in both.blocks(["rank"]):
            change = total.add(block)
            largest.offer(block.pair, np.abs(change))
            advance(block.one.num_rows)

        def differences() -> Iterator[NDArray[np.float32]]:
            for block in both.blocks([]):
                yield (block.logprob_b - block.logprob_a).astype(np.float32)

        found = quantiles(differences, QUANTILES)
        advance(joined.compared)
    return RunsDiff(
        a=_side(a, total.mean(total.sum_a)),
        b=_side(b, total.mean(total.sum_b)),
        examples=joined.compared,
        differing=total.differing,
        not_compared=joined.examples_a + joined.added.count - joined.compared,
        tokens=total.tokens,
        shift_per_token=total.mean(total.sum_shift),
        shift_per_example=total.shift_of_means / joined.compared if joined.compared else None,
        quantiles={f"{q:g}": value for q, value in zip(QUANTILES, found, strict=True)},
        rank_one=total.rank_one(),
        most_changed=_most_changed(a[0], both, largest),
    )


@dataclass(frozen=True)
class _Block:
    """As many rows of both runs, of the same examples, and their log-probabilities in nats."""

    pair: JoinedRows
    one: pa.Table
    other: pa.Table
    offsets: NDArray[np.int64]  # [rows + 1]: where each response begins
    logprob_a: NDArray[np.float64]  # [tokens]
    logprob_b: NDArray[np.float64]


class _Both:
    """The two runs, read side by side."""

    def __init__(self, a: tuple[Version, str], b: tuple[Version, str], joined: Joined) -> None:
        self.a, self.b = a[0].table(a[1]), b[0].table(b[1])
        check_shards(self.a, a[0].table("tokens"))
        check_shards(self.b, b[0].table("tokens"))
        self._joined = joined

    def blocks(self, columns: list[str]) -> Iterator[_Block]:
        """All rows that are compared, with ``columns`` besides the log-probabilities."""
        yield from self._read(self._joined.pairs, columns)

    def places(self, largest: MostChanged) -> Iterator[_Block]:
        """One block for each of the most changed."""
        yield from self._read(largest.places(), [])

    def _read(self, pairs: Any, columns: list[str]) -> Iterator[_Block]:
        rows = PairedRows(self.a, self.b, ["logprob", *columns])
        for pair in pairs:
            one, other = rows.take(pair)
            offsets, logprob_a = list_parts(one, "logprob")
            offsets_b, logprob_b = list_parts(other, "logprob")
            if not np.array_equal(offsets, offsets_b):
                raise DataError(
                    f"{rows.paths(pair)}: the same tokens have another number of scores. "
                    "`pausedata verify` says what is wrong."
                )
            if not (np.isfinite(logprob_a).all() and np.isfinite(logprob_b).all()):
                raise DataError(
                    f"{rows.paths(pair)}: a log-probability is not finite. "
                    "`pausedata verify` says what is wrong."
                )
            yield _Block(
                pair,
                one,
                other,
                offsets,
                logprob_a.astype(np.float64),
                logprob_b.astype(np.float64),
            )


class _Totals:
    """What adds up over the blocks."""

    def __init__(self) -> None:
        self.tokens = self.differing = 0
        self.sum_a = self.sum_b = self.sum_shift = self.shift_of_means = 0.0
        self._ranks: NDArray[np.int64] | None = np.zeros(4, np.int64)

    def add(self, block: _Block) -> NDArray[np.float64]:
        """Add a block; returns how much the mean of each of its examples shifted."""
        lengths = np.diff(block.offsets)
        row = np.repeat(np.arange(len(lengths)), lengths)
        shift = block.logprob_b - block.logprob_a
        self.tokens += len(shift)
        self.sum_a += float(block.logprob_a.sum())
        self.sum_b += float(block.logprob_b.sum())
        self.sum_shift += float(shift.sum())
        means = np.bincount(row, shift, minlength=len(lengths)) / np.maximum(lengths, 1)
        self.shift_of_means += float(means.sum())
        self.differing += len(np.unique(row[shift != 0]))
        self._add_ranks(block)
        return means

    def _add_ranks(self, block: _Block) -> None:
        columns = [rows.column("rank") for rows in (block.one, block.other)]
        if self._ranks is None or any(column.null_count for column in columns):
            self._ranks = None
            return
        a, b = (list_parts(rows, "rank")[1] == 1 for rows in (block.one, block.other))
        counts = [part.sum() for part in (a, b, b & ~a, a & ~b)]
        self._ranks += np.array(counts, np.int64)

    def mean(self, total: float) -> float | None:
        """A sum over tokens as their mean."""
        return total / self.tokens if self.tokens else None

    def rank_one(self) -> RankOne | None:
        """The shares; None where a run has no ranks, or nothing is compared."""
        if self._ranks is None or not self.tokens:
            return None
        return RankOne(*(float(count / self.tokens) for count in self._ranks))


def _most_changed(version: Version, both: _Both, largest: MostChanged) -> list[ScoredExample]:
    tokens = Rows(version.table("tokens"), ["response_ids"])
    found: list[ScoredExample] = []
    ids: list[int] = []
    for block in both.places(largest):
        pos = int(np.abs(block.logprob_b - block.logprob_a).argmax())
        ids.append(_token_id(tokens, block.pair, pos))
        found.append(
            ScoredExample(
                id=block.one.column("id")[0].as_py(),
                tokens=len(block.logprob_a),
                mean_a=float(block.logprob_a.mean()),
                mean_b=float(block.logprob_b.mean()),
                pos=pos,
                token=None,
                logprob_a=float(block.logprob_a[pos]),
                logprob_b=float(block.logprob_b[pos]),
            )
        )
    texts = version.token_texts(ids)
    return [replace(each, token=texts.get(id)) for each, id in zip(found, ids, strict=True)]


def _token_id(tokens: Rows, pair: JoinedRows, pos: int) -> int:
    return tokens.take(pair.shard_a, pair.rows_a).column("response_ids")[0][pos].as_py()


def _side(side: tuple[Version, str], mean: float | None) -> RunSide:
    version, name = side
    run = name.partition("/")[2]
    return RunSide(name, version.number, scored_by(version.manifest, run), mean)
