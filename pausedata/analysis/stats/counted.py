"""Figures of a version, counted: each shard is read once, in bounded memory."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
from numpy.typing import NDArray

from pausedata.analysis.shared_texts import SharedTexts, shared_texts
from pausedata.analysis.stats.manifest import (
    HistogramEdges,
    PlacementStats,
    RunStats,
    ScoreStats,
    Stats,
    manifest_stats,
    perplexity,
    share,
)
from pausedata.core.progress import Progress, Silent
from pausedata.core.quantiles import Cells
from pausedata.store.aligned import AlignedTables, Places, ScoreColumns
from pausedata.store.dataset import Version

QUANTILES = [0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0]
# Edges of the histogram as probabilities, the same for all runs, so that they can be compared. In
# steps of equal log-probability half of the tokens would fall into the first; powers of ten show
# the tail, and there are several bins between 0.1 and 1, where most tokens are.
PROBABILITIES = [0, 1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 1]
# As stored ones are: a probability of exactly a half is then in the bin that begins there.
_INNER = np.log(np.array(PROBABILITIES[1:-1])).astype(np.float32)


def stats(version: Version, run: str | None = None, progress: Progress | None = None) -> Stats:
    """Count what ``version`` holds, of all runs or of ``run`` alone.

    Exports are reported as they were recorded. Memory: a shard of one table at a time, and some
    2 MB for each run and split. UsageError where there is no such run; DataError where what is
    read does not fit together.
    """
    progress = progress or Silent()
    recorded = manifest_stats(version, run)
    tables = AlignedTables.of(version, recorded.runs, recorded.placements)
    splits = list(dict.fromkeys([*recorded.splits, *tables.tokens.splits()]))
    sizes = {split: np.zeros(3, np.int64) for split in splits}  # examples, tokens, of responses
    scored = {name: {split: _ScoreTotals() for split in splits} for name in recorded.runs}
    placed = {name: _PlaceTotals() for name in recorded.placements}
    with progress.step("counting", tables.tokens.entry.rows, "examples") as advance:
        for shard in tables.shards(prompts=True):
            assert shard.prompt_tokens is not None
            responses = len(shard.token_ids)
            sizes[shard.split] += len(shard.ids), shard.prompt_tokens + responses, responses
            for name, by_split in scored.items():
                by_split[shard.split].add(shard.scores(name, optional=True))
            for name, totals in placed.items():
                totals.add(shard.places(name))
            advance(len(shard.ids))
    examples, all_tokens, response_tokens = (
        int(n) for n in sum(sizes.values(), np.zeros(3, np.int64))
    )
    return replace(
        recorded,
        counted=True,
        examples=examples,
        tokens=all_tokens,
        response_tokens=response_tokens,
        splits={
            split: replace(
                known,
                examples=int(sizes[split][0]),
                tokens=int(sizes[split][1]),
                response_tokens=int(sizes[split][2]),
            )
            for split, known in recorded.splits.items()
        },
        runs={name: _run(known, scored[name]) for name, known in recorded.runs.items()},
        placements={
            name: placed[name].figures(known, examples)
            for name, known in recorded.placements.items()
        },
        histogram_edges=HistogramEdges(
            probability=[float(p) for p in PROBABILITIES],
            logprob=[None, *(float(edge) for edge in _INNER), 0.0],
        ),
        shared=_shared(version, progress),
        quantiles_within=Cells.WITHIN,
    )


def _shared(version: Version, progress: Progress) -> list[SharedTexts] | None:
    """Examples that splits have in common; None where the table of examples was not pulled."""
    examples = version.table("examples")
    return None if examples.absent else shared_texts(examples, progress)


class _ScoreTotals:
    """What adds up over the scored tokens of one run and split."""

    def __init__(self) -> None:
        self.cells = Cells()
        self.histogram: NDArray[np.int64] = np.zeros(len(PROBABILITIES) - 1, np.int64)
        self.logprob = self.entropy = 0.0  # sums, nats
        self.with_entropy = self.with_rank = self.first = 0  # tokens

    def add(self, scores: ScoreColumns) -> None:
        logprob = np.sort(scores.logprob)  # so that one search finds all edges
        self.cells.add(logprob)
        ends = np.searchsorted(logprob, _INNER)
        self.histogram += np.diff(ends, prepend=0, append=len(logprob))
        self.logprob += float(logprob.sum(dtype=np.float64))
        if scores.rank is not None:
            self.with_rank += len(scores.rank)
            self.first += int((scores.rank == 1).sum())
        if scores.entropy is not None:
            self.with_entropy += len(scores.entropy)
            self.entropy += float(scores.entropy.sum(dtype=np.float64))

    def merge(self, other: _ScoreTotals) -> None:
        self.cells.merge(other.cells)
        self.histogram += other.histogram
        self.logprob += other.logprob
        self.entropy += other.entropy
        self.with_entropy += other.with_entropy
        self.with_rank += other.with_rank
        self.first += other.first

    def figures(self) -> ScoreStats:
        tokens = int(self.histogram.sum())
        mean = share(self.logprob, tokens)
        found = self.cells.quantiles(QUANTILES)
        return ScoreStats(
            tokens=tokens,
            mean_logprob=mean,
            perplexity=perplexity(mean),
            mean_entropy=share(self.entropy, self.with_entropy),
            share_of_first_choices=share(self.first, self.with_rank),
            quantiles={f"{q:g}": value for q, value in zip(QUANTILES, found, strict=True)},
            histogram=self.histogram.tolist(),
        )


def _run(recorded: RunStats, by_split: dict[str, _ScoreTotals]) -> RunStats:
    splits = {split: total.figures() for split, total in by_split.items()}
    whole = _ScoreTotals()
    for total in by_split.values():
        whole.merge(total)
    return RunStats(scored_by=recorded.scored_by, splits=splits, **asdict(whole.figures()))


class _PlaceTotals:
    """What adds up over the shards of one placement."""

    def __init__(self) -> None:
        self.having = self.places = self.pauses = self.most = 0
        self.fewest: int | None = None

    def add(self, places: Places) -> None:
        if not len(places.each):
            return
        pauses = np.bincount(places.row, places.count, minlength=len(places.each))  # [examples]
        self.having += int((places.each > 0).sum())
        self.places += len(places.position)
        self.pauses += int(pauses.sum())
        self.most = max(self.most, int(pauses.max()))
        fewest = int(pauses.min())
        self.fewest = fewest if self.fewest is None else min(self.fewest, fewest)

    def figures(self, recorded: PlacementStats, examples: int) -> PlacementStats:
        return replace(
            recorded,
            examples_with_pauses=self.having,
            places=self.places,
            pauses=self.pauses,
            places_per_example=share(self.places, examples),
            pauses_per_example=share(self.pauses, examples),
            fewest_pauses=self.fewest,
            most_pauses=self.most if examples else None,
            share_without_pauses=share(examples - self.having, examples),
        )
