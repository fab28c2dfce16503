"""The placements of a version side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pausedata.analysis.stats.manifest import placement_stats, share
from pausedata.core.progress import Progress, Silent
from pausedata.store.aligned import AlignedShard, AlignedTables
from pausedata.store.dataset import Version

MOST_FREQUENT = 5  # tokens that are named for each placement


@dataclass(frozen=True)
class TokenCount:
    """A token and how often it was chosen; ``token`` is None where ``vocab`` does not have it.

    ``occurrences``: how often it stands in the responses, ``count`` of them with pauses before it.
    """

    token_id: int
    token: str | None
    count: int
    occurrences: int


@dataclass(frozen=True)
class PlacedTokens:
    """What one placement chose. Means and shares of nothing are None.

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
    placements: dict[str, PlacedTokens] = field(default_factory=dict)
    jaccard: dict[str, dict[str, float]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def placements_stats(
    version: Version,
    run: str | None = None,
    progress: Progress | None = None,
    most_frequent: int = MOST_FREQUENT,
) -> PlacementsStats:
    """Compare the placements of ``version`` through ``run`` (by default the dataset's own).

    ``most_frequent``: how many tokens to name for each.

    Read shard by shard, one placement at a time: memory is a few arrays over a shard's tokens,
    one bit for each token and placement, and a count for each id of the vocabulary and placement.
    UsageError where there is no such run; DataError where what is read does not fit together.
    """
    progress = progress or Silent()
    run = run or version.default_run
    names = version.placements
    tables = AlignedTables.of(version, [run] if run else [], names)
    totals = {name: _Totals(name, most_frequent) for name in names}
    both = np.zeros((len(names), len(names)), np.int64)  # positions that both placements have
    examples = count = 0
    surprisal = 0.0
    occurrences: NDArray[np.int64] = np.zeros(0, np.int64)  # of each token id
    with progress.step("comparing placements", tables.tokens.entry.rows, "examples") as advance:
        for shard in tables.shards():
            lost = None  # surprisal of each token
            if run:
                lost = -shard.scores(run).logprob.astype(np.float64)
                surprisal += float(lost.sum())
            packed = [total.add(shard, lost) for total in totals.values()]
            for i, mine in enumerate(packed):
                for j, other in enumerate(packed):
                    both[i, j] += np.bitwise_count(mine & other).sum(dtype=np.int64)
            occurrences = _added(occurrences, shard.token_ids)
            examples += len(shard.ids)
            count += len(shard.token_ids)
            advance(len(shard.ids))
    chosen = {
        name: _chosen(
            version, name, totals[name], examples, occurrences, surprisal if run else None
        )
        for name in names
    }
    return PlacementsStats(
        name=version.manifest.name,
        version=version.number,
        run=run,
        examples=examples,
        tokens=count,
        mean_logprob=share(0.0 - surprisal, count) if run else None,
        placements=_named(version, chosen),
        jaccard={
            a: {b: _jaccard(both[i, j], both[i, i], both[j, j]) for j, b in enumerate(names)}
            for i, a in enumerate(names)
        },
    )


class _Totals:
    """What adds up over the shards of one placement."""

    def __init__(self, placement: str, most: int) -> None:
        self._placement, self._most = placement, most
        self.examples = self.places = self.pauses = self.tokens = 0
        self.surprisal = 0.0
        self.by_id: NDArray[np.int64] = np.zeros(0, np.int64)

    def add(self, shard: AlignedShard, surprisal: NDArray[np.float64] | None) -> NDArray[np.uint8]:
        """Count a shard, whose tokens have this ``surprisal`` in nats: [tokens].

        Returns its positions as packed bits: n + 1 for an example of n tokens, set where a pause
        stands.
        """
        places = shard.places(self._placement)
        row, position = places.row, places.position
        _, token = shard.before(places)
        self.examples += int((places.each > 0).sum())
        self.places += len(position)
        self.pauses += int(places.count.sum(dtype=np.int64))
        self.tokens += len(token)
        if surprisal is not None:
            self.surprisal += float(surprisal[token].sum())
        self.by_id = _added(self.by_id, shard.token_ids[token])
        # The place after an example's last token is not the one before the next one's first.
        there = np.zeros(len(shard.token_ids) + len(shard.ids), np.bool_)
        there[shard.offsets[row] + row + position] = True
        return np.packbits(there)

    def most_frequent(self, occurrences: NDArray[np.int64]) -> Iterator[TokenCount]:
        """The tokens chosen most often, of equally frequent ones the smaller id first.

        ``occurrences`` are of each token id in all responses.
        """
        for id in np.argsort(-self.by_id, kind="stable")[: self._most]:
            if self.by_id[id]:
                yield TokenCount(int(id), None, int(self.by_id[id]), int(occurrences[id]))


def _added(by_id: NDArray[np.int64], token_ids: NDArray[np.int32]) -> NDArray[np.int64]:
    """Counts by id, with these tokens counted, too."""
    counts = np.bincount(token_ids, minlength=len(by_id))
    counts[: len(by_id)] += by_id
    return counts


def _chosen(
    version: Version,
    name: str,
    total: _Totals,
    examples: int,
    occurrences: NDArray[np.int64],
    surprisal: float | None,
) -> PlacedTokens:
    """What a placement chose of all tokens, whose ``occurrences`` are by id."""
    made, tokens = placement_stats(version, name, examples), int(occurrences.sum())
    scored = surprisal is not None
    return PlacedTokens(
        strategy=made.strategy,
        parameters=made.parameters,
        run=made.run,
        examples_with_pauses=total.examples,
        places=total.places,
        pauses=total.pauses,
        places_per_example=share(total.places, examples),
        pauses_per_example=share(total.pauses, examples),
        tokens=total.tokens,
        share_of_tokens=share(total.tokens, tokens),
        mean_logprob=share(0.0 - total.surprisal, total.tokens) if scored else None,
        share_of_surprisal=share(total.surprisal, surprisal) if scored else None,
        most_frequent=list(total.most_frequent(occurrences)),
    )


def _named(version: Version, chosen: dict[str, PlacedTokens]) -> dict[str, PlacedTokens]:
    """``chosen`` with the texts of its most frequent tokens."""
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
