"""Figures of a version: what its manifest says, and its placements side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pausedata.errors import DataError
from pausedata.history import scored_by
from pausedata.progress import Progress, Silent
from pausedata.store.dataset import Table, Version, check_shards
from pausedata.store.manifest import ShardEntry
from pausedata.store.tables import list_parts

MOST_FREQUENT = 5  # tokens that are named for each placement


@dataclass(frozen=True)
class SplitStats:
    """One split: rows asked of the source, examples that they gave, the others by reason."""

    rows: int
    examples: int
    dropped: dict[str, int]
    noted: dict[str, int]  # kept, but worth knowing


@dataclass(frozen=True)
class RunStats:
    """One run. None where whoever made it did not record it."""

    scored_by: dict[str, Any]  # model, revision or weights_sha256, dtype, backend
    mean_logprob: float | None  # over all response tokens, nats


@dataclass(frozen=True)
class PlacementStats:
    """One placement. None where whoever made it did not record it."""

    strategy: str | None
    parameters: dict[str, Any]
    run: str | None  # the one that it was made from
    examples_with_pauses: int | None
    places: int | None
    pauses: int | None


@dataclass(frozen=True)
class ExportStats:
    """One export: tokens with prompts and pauses."""

    placement: str | None
    format: str | None
    rows: int
    tokens: int | None
    pauses: int | None
    longest: int | None


@dataclass(frozen=True)
class Stats:
    """A version as its manifest tells it. Sizes are in bytes, of files shared with other versions
    too. Tokens are None where no table's making counted them.
    """

    name: str
    version: int
    examples: int
    tokens: int | None  # of prompts and responses
    response_tokens: int | None
    splits: dict[str, SplitStats]
    runs: dict[str, RunStats]
    placements: dict[str, PlacementStats]
    exports: dict[str, ExportStats]
    bytes: dict[str, int]  # of each table
    total_bytes: int

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def stats(version: Version) -> Stats:
    """What the manifest of ``version`` says: no table is read."""
    manifest = version.manifest
    exports = {name: _export(version, name) for name in version.exports}
    tokens, response_tokens = _tokens(version)
    return Stats(
        name=manifest.name,
        version=version.number,
        examples=sum(rows.out for rows in manifest.rows.values()),
        tokens=tokens,
        response_tokens=response_tokens,
        splits={
            split: SplitStats(
                rows.into, rows.out, rows.dropped, {k: n for k, n in rows.noted.items() if n}
            )
            for split, rows in manifest.rows.items()
        },
        runs={
            run: RunStats(
                scored_by(manifest, run), _facts(version, f"scores/{run}").get("mean_logprob")
            )
            for run in version.runs
        },
        placements={name: _placement(version, name) for name in version.placements},
        exports=exports,
        bytes={
            name: sum(file.bytes for file in table.files())
            for name, table in version.tables.items()
        },
        total_bytes=sum(file.bytes for file in version.files()),
    )


def _facts(version: Version, table: str) -> dict[str, Any]:
    return version.table(table).entry.provenance


def _placement(version: Version, name: str) -> PlacementStats:
    facts = _facts(version, f"placements/{name}")
    inputs = facts.get("inputs", {})
    return PlacementStats(
        strategy=inputs.get("strategy"),
        parameters=inputs.get("parameters", {}),
        run=inputs.get("run"),
        examples_with_pauses=facts.get("examples_with_pauses"),
        places=facts.get("places"),
        pauses=facts.get("pauses"),
    )


def _export(version: Version, name: str) -> ExportStats:
    table = version.table(f"exports/{name}")
    inputs = table.entry.provenance.get("inputs", {})
    tallies = table.entry.provenance.get("splits", {}).values()

    def over_splits(key: str, join: Any) -> int | None:
        counts = [tally[key] for tally in tallies if key in tally]
        return join(counts) if counts else None

    return ExportStats(
        placement=inputs.get("placement"),
        format=inputs.get("format"),
        rows=table.entry.rows,
        tokens=over_splits("tokens", sum),
        pauses=over_splits("pauses", sum),
        longest=over_splits("longest", max),
    )


def _tokens(version: Version) -> tuple[int | None, int | None]:
    """Tokens in all and of responses, from an export's or a run's account of its making."""
    for name in version.exports:
        tallies = _facts(version, f"exports/{name}").get("splits", {}).values()
        if tallies and all({"tokens", "pauses", "loss_tokens"} <= set(tally) for tally in tallies):
            return (
                sum(tally["tokens"] - tally["pauses"] for tally in tallies),
                sum(tally["loss_tokens"] for tally in tallies),
            )
    for run in version.runs:
        facts = _facts(version, f"scores/{run}")
        if facts.get("carried_examples") == 0 and "scored_tokens" in facts:
            return facts["scored_tokens"], None
    return None, None


# Placements side by side


@dataclass(frozen=True)
class TokenCount:
    """A token and how often it was chosen; ``token`` is None where ``vocab`` does not have it."""

    token_id: int
    token: str | None
    count: int


@dataclass(frozen=True)
class Chosen:
    """What one placement chose. Means and shares are None where there is nothing to share.

    A place after the last token has no token: it counts among places and pauses, not among tokens.
    """

    strategy: str | None
    parameters: dict[str, Any]
    run: str | None  # the one that it was made from, which need not be the one compared by
    examples_with_pauses: int
    places: int
    pauses: int
    places_per_example: float | None
    pauses_per_example: float | None
    tokens: int  # chosen ones
    share_of_tokens: float | None  # of all response tokens
    mean_logprob: float | None  # at the tokens chosen, nats
    share_of_surprisal: float | None  # of the sum of -log p over all response tokens
    most_frequent: list[TokenCount]  # the tokens chosen most often


@dataclass(frozen=True)
class PlacementsStats:
    """The placements of a version, all seen through the scores of one run.

    ``jaccard[a][b]`` is the share that positions of both are of positions of either, over all
    examples; 1 where neither has any.
    """

    name: str
    version: int
    run: str | None  # None: there is none, and what needs scores is None, too
    examples: int
    tokens: int  # of responses
    mean_logprob: float | None  # over all of them
    placements: dict[str, Chosen] = field(default_factory=dict)
    jaccard: dict[str, dict[str, float]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def placements_stats(
    version: Version, run: str | None = None, progress: Progress | None = None
) -> PlacementsStats:
    """Compare the placements of ``version`` through ``run`` (by default the dataset's own).

    Read shard by shard, one placement at a time: memory is a few arrays over a shard's tokens,
    one bit for each token and placement, and a count for each id of the vocabulary and placement.
    UsageError where there is no such run; DataError where what is read does not fit together.
    """
    progress = progress or Silent()
    run = run or version.default_run
    tokens = version.table("tokens")
    scores = version.table(f"scores/{run}") if run else None
    tables = {name: version.table(f"placements/{name}") for name in version.placements}
    for table in [*tables.values(), *([scores] if scores else [])]:
        check_shards(table, tokens)
    totals = {name: _Totals() for name in tables}
    both = np.zeros((len(tables), len(tables)), np.int64)
    examples = count = 0
    surprisal = 0.0
    with progress.step("comparing placements", tokens.entry.rows, "examples") as advance:
        for number, shard in enumerate(tokens.shards):
            block = _Block(tokens, scores, number)
            packed = []
            for name, table in tables.items():
                rows = _beside(block, table, table.shards[number], ["position", "count"])
                packed.append(totals[name].add(block, table.shards[number], rows))
            for i, mine in enumerate(packed):
                for j, other in enumerate(packed):
                    both[i, j] += np.bitwise_count(mine & other).sum(dtype=np.int64)
            examples += len(block.lengths)
            count += len(block.token_ids)
            if block.surprisal is not None:
                surprisal += float(block.surprisal.sum())
            advance(shard.rows)
    names = list(tables)
    chosen = {
        name: _chosen(version, name, totals[name], examples, count, surprisal if run else None)
        for name in names
    }
    return PlacementsStats(
        name=version.manifest.name,
        version=version.number,
        run=run,
        examples=examples,
        tokens=count,
        mean_logprob=_share(0.0 - surprisal, count) if run else None,
        placements=_named(version, chosen),
        jaccard={
            a: {b: _jaccard(both[i, j], both[i, i], both[j, j]) for j, b in enumerate(names)}
            for i, a in enumerate(names)
        },
    )


class _Block:
    """The response tokens of one shard, and their surprisal where a run is read."""

    def __init__(self, tokens: Table, scores: Table | None, number: int) -> None:
        rows = tokens.read(tokens.shards[number], ["id", "response_ids"])
        self.path = tokens.shards[number].path
        self.ids = rows.column("id")
        self.offsets, self.token_ids = list_parts(rows, "response_ids")
        self.lengths: NDArray[np.int64] = np.diff(self.offsets)
        self.surprisal: NDArray[np.float64] | None = None
        if scores is None:
            return
        shard = scores.shards[number]
        offsets, logprob = list_parts(_beside(self, scores, shard, ["logprob"]), "logprob")
        if not np.array_equal(offsets, self.offsets) or not np.isfinite(logprob).all():
            raise DataError(
                f"{shard.path}: a token has no score, or one that is not finite. "
                "`pausedata verify` says what is wrong."
            )
        self.surprisal = -logprob.astype(np.float64)


def _beside(block: _Block, table: Table, shard: ShardEntry, columns: list[str]) -> pa.Table:
    """Rows of a shard that stands beside the block's; DataError where they are of other ids."""
    rows = table.read(shard, ["id", *columns])
    if not rows.column("id").equals(block.ids):
        raise DataError(
            f"{shard.path} does not hold the examples of {block.path}. "
            "`pausedata verify` says what is wrong."
        )
    return rows


class _Totals:
    """What adds up over the shards of one placement."""

    def __init__(self) -> None:
        self.examples = self.places = self.pauses = self.tokens = 0
        self.surprisal = 0.0
        self.by_id: NDArray[np.int64] = np.zeros(0, np.int64)

    def add(self, block: _Block, shard: ShardEntry, rows: pa.Table) -> NDArray[np.uint8]:
        """Count a shard; its positions as bits, one more for each example than it has tokens."""
        offsets, position = list_parts(rows, "position")
        _, pauses = list_parts(rows, "count")
        each = np.diff(offsets)
        row = np.repeat(np.arange(len(each)), each)
        if ((position < 0) | (position > block.lengths[row])).any():
            raise DataError(
                f"{shard.path}: a position lies beyond its response. "
                "`pausedata verify` says what is wrong."
            )
        within = position < block.lengths[row]
        token = (block.offsets[row] + position)[within]
        self.examples += int((each > 0).sum())
        self.places += len(position)
        self.pauses += int(pauses.sum(dtype=np.int64))
        self.tokens += len(token)
        if block.surprisal is not None:
            self.surprisal += float(block.surprisal[token].sum())
        by_id = np.bincount(block.token_ids[token], minlength=len(self.by_id))
        by_id[: len(self.by_id)] += self.by_id
        self.by_id = by_id
        # The place after an example's last token is not the one before the next one's first.
        there = np.zeros(len(block.token_ids) + len(each), np.bool_)
        there[block.offsets[row] + row + position] = True
        return np.packbits(there)

    def most_frequent(self) -> Iterator[TokenCount]:
        """The tokens chosen most often, of equally frequent ones the smaller id first."""
        for id in np.argsort(-self.by_id, kind="stable")[:MOST_FREQUENT]:
            if self.by_id[id]:
                yield TokenCount(int(id), None, int(self.by_id[id]))


def _chosen(
    version: Version, name: str, total: _Totals, examples: int, tokens: int, surprisal: float | None
) -> Chosen:
    made = _placement(version, name)
    scored = surprisal is not None
    return Chosen(
        strategy=made.strategy,
        parameters=made.parameters,
        run=made.run,
        examples_with_pauses=total.examples,
        places=total.places,
        pauses=total.pauses,
        places_per_example=_share(total.places, examples),
        pauses_per_example=_share(total.pauses, examples),
        tokens=total.tokens,
        share_of_tokens=_share(total.tokens, tokens),
        mean_logprob=_share(0.0 - total.surprisal, total.tokens) if scored else None,
        share_of_surprisal=_share(total.surprisal, surprisal) if scored else None,
        most_frequent=list(total.most_frequent()),
    )


def _named(version: Version, chosen: dict[str, Chosen]) -> dict[str, Chosen]:
    """The same with the texts of the tokens."""
    texts = version.token_texts(t.token_id for each in chosen.values() for t in each.most_frequent)
    return {
        name: replace(
            each,
            most_frequent=[replace(t, token=texts.get(t.token_id)) for t in each.most_frequent],
        )
        for name, each in chosen.items()
    }


def _jaccard(both: np.int64, a: np.int64, b: np.int64) -> float:
    either = int(a + b - both)
    return int(both) / either if either else 1.0


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
