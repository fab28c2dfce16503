"""The seeded cross-check: a few examples by transformers too, against what a backend gives."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from pausedata import scorers
from pausedata.core.errors import DataError, UsageError
from pausedata.core.progress import Progress
from pausedata.models.ref import ModelRef
from pausedata.pipeline.steps.reuse import ReusableScores, examples_of
from pausedata.pipeline.steps.scoring import Mask, score_path
from pausedata.scorers import EngineLostError, Example, Scorer, Scores
from pausedata.scorers.agreement import (
    BOUNDS,
    Bound,
    Comparison,
    ReferenceScores,
    compare,
    shifted,
)
from pausedata.store.dataset import Table
from pausedata.store.manifest import ShardEntry
from pausedata.store.shards import read_shard
from pausedata.store.staging import Stage

SEED = 0
# Prompt and response tokens that the reference computes at most, for each example asked for, unless
# even the shortest one drawn is longer: so that a large model on a CPU takes minutes, not hours.
TOKENS_EACH = 512


@dataclass(frozen=True)
class Drawn:
    """An example of the sample: where it stands, its id, and its tokens."""

    shard: ShardEntry
    row: int
    id: str
    example: Example


@dataclass(frozen=True)
class CrossCheck:
    """How a backend's scores are to be checked: ``examples`` of them, by ``model`` in float32.

    ``before`` is called where there is something to check: it raises what would make the reference
    a waste of time.
    """

    model: ModelRef
    dtype: str
    backend: str
    examples: int
    before: Callable[[], None]

    def prepare(
        self,
        stage: Stage,
        run: str,
        tokens: Table,
        carried: ReusableScores | None,
        progress: Progress,
        mask: Mask | None = None,
        name: str = "cross_check",
    ) -> Sample | None:
        """Draw the examples and compute their reference, unless ``stage`` has it from before.

        The stage has it as ``name``. Drawn are the rows that ``mask`` says, where this model scores
        some alone. None where no row is scored anew. UsageError where the model cannot be loaded.
        """
        fresh = _fresh_rows(stage, run, tokens, carried, mask)
        if not any(map(len, fresh)):
            return None
        self.before()
        if not self.examples:
            return self._unchecked(stage, run, "scoring.cross_check is 0", progress)
        drawn = _draw(tokens, fresh, self.examples)
        kept = _within_budget([len(one.example) for one in drawn], TOKENS_EACH * self.examples)
        chosen, bound = [drawn[k] for k in kept], BOUNDS[self.dtype]
        key = {"ids": [one.id for one in chosen], "tolerance": bound.logit}
        noted: dict[str, Any] = stage.record(name) or {}
        if noted.get("key") != key:
            why = self._lacks_memory()
            if why is not None:
                return self._unchecked(stage, run, why, progress)
            noted = {"key": key} | self._reference(chosen, bound, progress)
            stage.note(name, noted)
        references = [
            ReferenceScores(
                np.array(one["logprob"], np.float64),
                np.array(one["lowest"], np.int32),
                np.array(one["highest"], np.int32),
            )
            for one in noted["references"]
        ]
        made_by = {"dtype": "float32", "device": "cpu"} | noted["versions"]
        return Sample(self, stage, run, chosen, references, made_by, len(drawn) - len(chosen))

    def _unchecked(self, stage: Stage, run: str, why: str, progress: Progress) -> Sample:
        progress.warn(f"scores/{run}: not checked against transformers: {why}")
        return Sample(self, stage, run, [], [], {}, 0, why)

    def _lacks_memory(self) -> str | None:
        from pausedata.scorers.reference import lacks_memory

        return lacks_memory(self.model)

    def _reference(
        self, chosen: Sequence[Drawn], bound: Bound, progress: Progress
    ) -> dict[str, Any]:
        """What is noted of the reference, which is freed before any engine is loaded."""
        from pausedata.scorers.reference import ReferenceModel

        try:
            model = ReferenceModel(self.model, progress.say)
        except UsageError as error:
            raise UsageError(
                f"The cross-check of {self.backend} with transformers: {error} Or score unchecked: "
                "scoring.cross_check: 0"
            ) from error
        try:
            found = []
            total = sum(len(one.example) for one in chosen)
            with progress.step("reference for the cross-check", total, "tokens") as advance:
                for one in chosen:
                    try:
                        found.append(model.examine(one.example, bound.logit))
                    except DataError as error:
                        raise DataError(f"example {one.id}: {error}") from error
                    advance(len(one.example))
            return {
                "versions": model.versions(),
                "references": [
                    {
                        "logprob": one.logprob.tolist(),
                        "lowest": one.lowest.tolist(),
                        "highest": one.highest.tolist(),
                    }
                    for one in found
                ],
            }
        finally:
            model.close()


@dataclass(frozen=True)
class Sample:
    """The examples drawn, with their references; none where ``why`` says why there are none."""

    check: CrossCheck
    stage: Stage
    run: str
    drawn: Sequence[Drawn]
    references: Sequence[ReferenceScores]
    made_by: dict[str, Any]
    left_out: int
    why: str | None = None

    def check_engine(self, scorer: Scorer) -> None:
        """DataError where what ``scorer`` gives for the sample is not what the model says.

        Meant for engines that have just been loaded, each of them, before hours go into wrong
        scores.
        """
        checked = 0
        while self.drawn and checked < scorer.engines:
            try:
                found = scorer.score([one.example for one in self.drawn])
            except EngineLostError:
                if not scorer.engines:
                    raise
                continue
            right = [
                scorers.check_scores(one.example, scores, f"example {one.id}")
                for one, scores in zip(self.drawn, found, strict=True)
            ]
            self._require(right, "Nothing was stored that this engine gave.")
            checked += 1

    def check_stored(self, rank_ties: str | None) -> dict[str, Any]:
        """How far the staged scores of the sample are from the reference, for the manifest.

        DataError where they are not what the model says.
        """
        if not self.drawn:
            return {"examples": 0, "why": self.why}
        found = [self._stored(one) for one in self.drawn]
        # They would be found there, and refused, each time again.
        comparison = self._require(
            found, f"The scores are kept; to score anew, remove {self.stage.folder}"
        )
        bound = BOUNDS[self.check.dtype]
        return {
            "examples": len(self.drawn),
            "left_out": self.left_out,
            "tokens": comparison.tokens,
            "seed": SEED,
            "largest": round(comparison.largest, 9),
            "mean": round(comparison.mean, 9),
            "bound": {"largest": bound.largest, "mean": bound.mean, "logit": bound.logit},
            "ranks_checked": comparison.ranks_checked,
            "rank_ties": rank_ties,
            "reference": self.made_by,
        }

    def _stored(self, one: Drawn) -> Scores:
        path = self.stage.folder / score_path(self.run, one.shard)
        row = read_shard(path, ["logprob", "rank"]).slice(one.row, 1).to_pylist()[0]
        rank = None if row["rank"] is None else np.array(row["rank"], np.int32)
        return Scores(np.array(row["logprob"], np.float32), rank)

    def _require(self, scores: Sequence[Scores], kept: str) -> Comparison:
        """The comparison, where it is within the bound; ``kept`` says what became of the scores."""
        comparison = compare(self.references, scores)
        if comparison.within(BOUNDS[self.check.dtype]):
            return comparison
        raise DataError(
            f"scores/{self.run}: {self.check.backend} does not give the scores of "
            f"{self.check.model.name}: {self._difference(comparison, scores)} "
            f"{self._cause(comparison, scores)} {kept}"
        )

    def _difference(self, found: Comparison, scores: Sequence[Scores]) -> str:
        """What is wrong, with one token as an example of it."""
        dtype, bound = self.check.dtype, BOUNDS[self.check.dtype]
        if found.agrees(bound) and found.wrong_rank is not None:
            number, at = found.wrong_rank
            rank, reference = scores[number].rank, self.references[number]
            assert rank is not None
            return (
                f"rank {rank[at]} at response token {at} of example {self.drawn[number].id}, "
                f"where transformers in float32 has {_span(reference, at)}, ties and near-ties "
                "allowed for. The log-probabilities agree."
            )
        number, at = found.worst
        return (
            f"{scores[number].logprob[at]:.6g} at response token {at} of example "
            f"{self.drawn[number].id}, where transformers in float32 has "
            f"{self.references[number].logprob[at]:.6g}. Over {found.tokens:,} tokens the largest "
            f"difference is {found.largest:.3g} nats and the mean {found.mean:.3g}, for {dtype} at "
            f"most {bound.largest:g} and {bound.mean:g} are right; {self._differing(scores)} of "
            f"{len(scores)} examples differ too much."
        )

    def _differing(self, scores: Sequence[Scores]) -> int:
        """How many examples are not as the bound allows."""
        bound = BOUNDS[self.check.dtype]
        pairs = zip(self.references, scores, strict=True)
        return sum(not compare([r], [s]).within(bound) for r, s in pairs)

    def _cause(self, found: Comparison, scores: Sequence[Scores]) -> str:
        """What the figures point to, and what to do."""
        bound = BOUNDS[self.check.dtype]
        if found.agrees(bound):
            return "Use another release of the engine, or scoring.backend: transformers."
        for by, other in ((1, "before"), (-1, "after")):
            moved = shifted(self.references, scores, by)
            if any(len(r.logprob) for r in moved[0]) and compare(*moved).agrees(bound):
                return (
                    f"They are those of the token {other} it: the engine returns them misaligned. "
                    "Use another release of it, or scoring.backend: transformers."
                )
        for dtype, wider in BOUNDS.items():
            if found.agrees(wider) and self._differing(scores) == len(scores):
                return (
                    f"They would be right for {dtype}: does the engine compute in it, or with "
                    "quantised weights? Set model.dtype to what it has."
                )
        subject = "the server" if self.check.backend == "server" else "the engine"
        return (
            f"Does {subject} run another model or revision, another dtype, quantised weights, or "
            "an option that changes logits? Give model.id, model.revision and model.dtype as it "
            "has them, or take scoring.backend: transformers."
        )


def combined(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What is known of the samples of several models that share a run, as that of one."""
    checked = [one for one in found if one["examples"]]
    if len(found) == 1 or not checked:
        return found[0]
    tokens = sum(one["tokens"] for one in checked)
    return checked[0] | {
        "examples": sum(one["examples"] for one in checked),
        "left_out": sum(one["left_out"] for one in checked),
        "tokens": tokens,
        "largest": max(one["largest"] for one in checked),
        "mean": round(sum(one["mean"] * one["tokens"] for one in checked) / tokens, 9),
        "ranks_checked": sum(one["ranks_checked"] for one in checked),
    }


def _span(reference: ReferenceScores, at: int) -> str:
    low, high = int(reference.lowest[at]), int(reference.highest[at])
    return str(low) if low == high else f"{low} to {high}"


def _fresh_rows(
    stage: Stage,
    run: str,
    tokens: Table,
    carried: ReusableScores | None,
    mask: Mask | None,
) -> list[Sequence[int]]:
    """Of each shard of ``tokens``, the rows whose scores come from this command or one resumed.

    Not those of shards adopted from a damaged table, nor those carried from an earlier version;
    whether a row was scored already plays no part, so that a resumed run has the same.
    """
    fresh: list[Sequence[int]] = []
    for shard in tokens.shards:
        record = stage.record(score_path(run, shard))
        if record is not None and "scored" not in record:
            fresh.append(range(0))
        elif carried is None:
            fresh.append(range(shard.rows))
        else:
            examples = examples_of(tokens.read(shard, ["prompt_ids", "response_ids"]))
            fresh.append([k for k, example in enumerate(examples) if not carried.has(example)])
    if mask is None:
        return fresh
    masks = [mask(shard) for shard in tokens.shards]
    return [[k for k in rows if own[k]] for rows, own in zip(fresh, masks, strict=True)]


def _draw(tokens: Table, fresh: list[Sequence[int]], count: int) -> list[Drawn]:
    """``count`` of the rows, or all; the same whatever shards they stand in."""
    ends = list(accumulate(map(len, fresh)))
    places = random.Random(SEED).sample(range(ends[-1]), min(count, ends[-1]))
    drawn = []
    for place in places:
        number = bisect_right(ends, place)
        shard = tokens.shards[number]
        row = fresh[number][place - (ends[number] - len(fresh[number]))]
        found = tokens.read(shard, ["id", "prompt_ids", "response_ids"]).slice(row, 1)
        example = examples_of(found.combine_chunks())[0]
        drawn.append(Drawn(shard, row, found["id"][0].as_py(), example))
    return drawn


def _within_budget(lengths: Sequence[int], most: int) -> list[int]:
    """Which to keep, in order, of examples with so many tokens: each that still has room.

    The shortest where none has.
    """
    kept, used = [], 0
    for number, length in enumerate(lengths):
        if used + length <= most:
            kept.append(number)
            used += length
    return kept or [min(range(len(lengths)), key=lambda k: lengths[k])]
