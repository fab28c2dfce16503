"""From stored scores to the threshold that spends a given number of pauses while generating."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pausedata.core import held_out
from pausedata.core.errors import DataError, UsageError
from pausedata.core.progress import Progress, Silent
from pausedata.measure.calibrate.counts import Counts, Spent
from pausedata.store.aligned import AlignedTables
from pausedata.store.dataset import Version

# Pauses for each 100 tokens at which the curve is told.
_CURVE = [0, 0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20, 25, 30, 40, 50]


@dataclass(frozen=True)
class HeldOutSpending:
    """The examples that the thresholds were not chosen on, and what the thresholds spend there."""

    split: str | None  # None: a seeded fifth of the only split
    seed: int | None
    examples: int
    tokens: int
    by_probability: Spent
    by_entropy: Spent | None


@dataclass(frozen=True)
class Point:
    """One point of the curve. Shares of surprisal: by threshold, and the most that can be had."""

    budget: float  # pauses for each token
    threshold: float
    surprisal: float
    entropy_threshold: float | None
    entropy_surprisal: float | None
    limit: float


@dataclass(frozen=True)
class Tried:
    """What a threshold spent in answers that a model wrote, real tokens counted."""

    threshold: float  # of the probability, or nats of entropy
    tokens: int
    pauses: int
    pauses_per_token: float
    interval: tuple[float, float] | None  # of that, at 95%; None for few answers


@dataclass(frozen=True)
class GeneratedSpending:
    """What the thresholds spend in text that a model writes itself, and which meet the budget.

    The first that was tried is the one found from stored scores. What is proposed is, of those
    tried, the one that spends nearest to the budget.
    """

    model: dict[str, Any]
    examples: int
    overlong: int  # held-out prompts that were passed over, as the model's context is shorter
    unfinished: int  # answers of the first try that were cut at the most new tokens
    max_new_tokens: int
    seed: int
    by_probability: list[Tried]
    by_entropy: list[Tried]
    threshold: float  # proposed
    entropy_threshold: float | None


@dataclass(frozen=True)
class Calibration:
    """What was found. Budgets are pauses for each response token."""

    dataset: str
    version: int
    run: str
    budget: float
    tokens_per_place: int  # pauses at each place
    examples: int
    tokens: int
    threshold: float
    predicted: Spent
    entropy_threshold: float | None  # nats; None where the run has no entropies
    entropy_predicted: Spent | None
    held_out: HeldOutSpending | None  # None where there are too few examples
    curve: list[Point]
    generated: GeneratedSpending | None = None  # None: no answers were asked for

    @property
    def difference(self) -> float | None:
        """Pauses for each token by the probability: on the held-out examples less predicted."""
        if self.held_out is None:
            return None
        return self.held_out.by_probability.pauses_per_token - self.predicted.pauses_per_token

    @property
    def entropy_difference(self) -> float | None:
        """Pauses for each token by the entropy: on the held-out examples less predicted."""
        if self.held_out is None or self.held_out.by_entropy is None:
            return None
        assert self.entropy_predicted is not None
        return self.held_out.by_entropy.pauses_per_token - self.entropy_predicted.pauses_per_token

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        told = asdict(self)
        curve = told.pop("curve")
        differences = {
            "difference": self.difference,
            "entropy_difference": self.entropy_difference,
        }
        return told | differences | {"curve": curve}


def parse_budget(text: str, tokens: int = 1) -> float:
    """Pauses for each token, of ``3/100`` or ``0.03``, where a place gets ``tokens`` pauses.

    UsageError for what is no such share, or more than all places together get.
    """
    try:
        share = Fraction(text.strip())
    except (ValueError, ZeroDivisionError):
        raise UsageError(
            f"--budget {text}: write pauses/tokens, such as 3/100, or a share such as 0.03."
        ) from None
    if not 0 < share <= tokens:
        gets = "one pause" if tokens == 1 else f"{tokens} pauses"
        raise UsageError(
            f"--budget {text}: give more than 0 and at most {100 * tokens}/100: a place gets "
            f"{gets}."
        )
    return float(share)


def calibrate(
    version: Version,
    run: str | None,
    budget: float,
    *,
    tokens: int = 1,
    split: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Calibration:
    """The thresholds under which ``budget`` pauses for each response token are forced.

    ``tokens`` pauses come at each place, so that there are as many times fewer places. ``run``
    (None: the dataset's own) has the scores. ``split`` is held out: by default the last, and where
    there is one alone a fifth of its examples, chosen by ``seed``. Read shard by shard.
    UsageError for a run or split that is not there, or a run without ranks.
    """
    progress = progress or Silent()
    name = run or version.default_run
    if name is None:
        raise UsageError("no run is there to calibrate on: `pausedata score` makes one.")
    tables = AlignedTables.of(version, [name])
    where = held_out.choose(tables.tokens.splits(), split, seed)
    vocabulary = version.table("vocab").entry.rows + 1
    fitted, held = Counts(vocabulary), Counts(vocabulary)
    examples = held_examples = 0
    for chosen, part in _parts(tables, name, where, progress):
        logprob, rank, entropy, lengths = part
        of_token = np.repeat(chosen, lengths)
        for counts, mine in ((fitted, ~of_token), (held, of_token)):
            counts.add(logprob[mine], rank[mine], entropy[mine] if entropy is not None else None)
        examples += int((~chosen).sum())
        held_examples += int(chosen.sum())
    if not fitted.tokens:
        raise DataError(f"scores/{name}: no tokens are left to calibrate on.")
    with_entropy = fitted.with_entropy and held.with_entropy
    places = budget / tokens
    threshold = fitted.threshold(places * fitted.tokens)
    by_entropy = fitted.entropy_threshold(places * fitted.tokens) if with_entropy else None
    return Calibration(
        dataset=version.manifest.name,
        version=version.number,
        run=name,
        budget=budget,
        tokens_per_place=tokens,
        examples=examples,
        tokens=fitted.tokens,
        threshold=threshold,
        predicted=fitted.spent(threshold).times(tokens),
        entropy_threshold=by_entropy,
        entropy_predicted=_by_entropy(fitted, by_entropy, tokens),
        held_out=HeldOutSpending(
            split=where.split if where.seed is None else None,
            seed=where.seed,
            examples=held_examples,
            tokens=held.tokens,
            by_probability=held.spent(threshold).times(tokens),
            by_entropy=_by_entropy(held, by_entropy, tokens),
        )
        if held.tokens
        else None,
        curve=_curve(fitted, budget, tokens, with_entropy),
    )


def _by_entropy(counts: Counts, threshold: float | None, tokens: int) -> Spent | None:
    return None if threshold is None else counts.spent_by_entropy(threshold).times(tokens)


def _parts(
    tables: AlignedTables, run: str, where: held_out.HeldOut, progress: Progress
) -> Iterator[tuple[NDArray[np.bool_], tuple[Any, Any, Any, Any]]]:
    """Of each shard which examples are held out, and logprob, rank, entropy, tokens of each."""
    examples = tables.tokens.entry.rows
    fifth = None if where.seed is None else held_out.holdout_mask(examples, where.seed)
    first = 0
    with progress.step("reading scores", examples, "examples") as advance:
        for shard in tables.shards():
            found = shard.scores(run, optional=True)
            if len(shard.token_ids) and (
                found.rank is None or len(found.rank) != len(found.logprob)
            ):
                raise UsageError(
                    f"scores/{run} has no ranks, without which nothing says which tokens were "
                    "first choices. Score a run that has: backend transformers or vllm."
                )
            rank = found.rank if found.rank is not None else np.zeros(0, np.int32)
            whole = found.entropy is not None and len(found.entropy) == len(found.logprob)
            entropy = found.entropy if whole else None
            rows = len(shard.ids)
            if fifth is not None:
                chosen = fifth[first : first + rows]
            else:
                chosen = np.full(rows, shard.split == where.split)
            yield chosen, (found.logprob, rank, entropy, shard.lengths)
            first += rows
            advance(rows)


def _curve(counts: Counts, budget: float, each: int, with_entropy: bool) -> list[Point]:
    pauses, _, _, lost = counts.by_probability()
    tokens, surprisal = counts.tokens, counts.surprisal or 1.0
    points = []
    for share in sorted({*(b / 100 for b in _CURVE), budget}):
        places = share * tokens / each
        threshold = counts.threshold(places)
        nats = counts.entropy_threshold(places) if with_entropy else None
        points.append(
            Point(
                budget=share,
                threshold=threshold,
                # Between two thresholds, as their pauses say: so the curves can be compared.
                surprisal=float(np.interp(places, pauses, lost)) / surprisal,
                entropy_threshold=nats,
                entropy_surprisal=_covered(counts, places) if with_entropy else None,
                limit=counts.limit(places) / surprisal,
            )
        )
    return points


def _covered(counts: Counts, places: float) -> float:
    pauses, lost = counts.by_entropy()
    found = np.interp(places, pauses[::-1], lost[::-1])
    return float(found) / (counts.surprisal or 1.0)
