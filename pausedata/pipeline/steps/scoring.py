"""Shards being scored: unit by unit, by the scorer's workers, each shard staged when whole."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pausedata import scorers
from pausedata.core import stopping
from pausedata.core.progress import Advance, Progress
from pausedata.pipeline.steps.reuse import ReusableScores, examples_of
from pausedata.pipeline.steps.units import UNIT_TOKENS, WorkQueue, plan_units
from pausedata.scorers import Example, Scorer, Scores
from pausedata.store.dataset import Table
from pausedata.store.manifest import ShardEntry
from pausedata.store.shards import read_shard, shard_name
from pausedata.store.staging import Stage
from pausedata.store.tables import list_parts, schema_of

# Of a shard of tokens, which of its rows are meant: bool (rows).
Mask = Callable[[ShardEntry], NDArray[np.bool_]]


@dataclass(frozen=True)
class Pass:
    """What one loaded model scores: the rows of each shard that ``mask`` says, None: all.

    Of several passes each has other rows, and together they have all; a model is closed before the
    next one is loaded.
    """

    load: Callable[[Path], Scorer]
    mask: Mask | None = None

    def of(self, shard: ShardEntry, rows: pa.Table, start: int = 0) -> pa.Table:
        """Those of ``rows``, which stand in ``shard`` from row ``start`` on, that it scores."""
        if self.mask is None:
            return rows
        return rows.filter(pa.array(self.mask(shard)[start : start + rows.num_rows]))


@dataclass
class _Task:
    """Rows being scored, and of each the scores, or None where they are missing.

    They are those of a unit that a pass scores: the ``number``-th of a shard's ``count`` parts.
    """

    shard: ShardEntry
    number: int
    count: int
    rows: pa.Table
    examples: list[Example]
    scores: list[Scores | None]
    missing: list[int]
    made: dict[str, Any] = field(default_factory=dict)  # how the missing ones were scored


class ScoringWork:
    """Shards being scored, pass by pass and unit by unit, by as many workers as the scorer has."""

    def __init__(
        self,
        stage: Stage,
        run: str,
        tokens: Table,
        passes: Sequence[Pass],
        carried: ReusableScores | None,
    ) -> None:
        self._stage, self._run, self._tokens, self._carried = stage, run, tokens, carried
        self._passes = passes
        self._scorer: Scorer | None = None
        self._advance: Advance = self._note_early
        self._early = 0  # tokens that were done before the step was announced
        self._lock = threading.Lock()
        self._parts: dict[str, set[int]] = {}  # of a shard, those that are staged and whole
        self._kept_at = time.monotonic()

    def __enter__(self) -> ScoringWork:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def do(self, shards: list[ShardEntry], total: int, progress: Progress) -> None:
        """Score ``shards``, of ``total`` tokens, and stage each as it finishes."""
        passes = [self._tasks(number, shards) for number in range(len(self._passes))]
        first = list(islice(passes[0], 1))  # loads the model, which is none of the scoring's time
        with (
            stopping.graceful_shutdown(),
            progress.step(f"scoring {self._run}", total, "tokens", len(shards)) as self._advance,
        ):
            self._advance(self._early)
            self._kept_at = time.monotonic()
            for tasks in (chain(first, passes[0]), *passes[1:]):
                self._share_out(tasks)
                self._close()

    def _share_out(self, tasks: Iterable[_Task]) -> None:
        """Score what one pass has to, and keep it."""
        sharing = WorkQueue[_Task, _Task](self._score, self._workers)
        self._check = sharing.check
        with closing(sharing.run(tasks, self._abandon)) as finished:
            for task in finished:
                self._keep(task)

    def _close(self) -> None:
        if self._scorer is not None:
            self._scorer.close()
            self._scorer = None

    def _note_early(self, tokens: int, shards: int = 0, /) -> None:
        self._early += tokens

    def _workers(self) -> int:
        return self._scorer.workers if self._scorer is not None else 1

    def _abandon(self) -> None:
        if self._scorer is not None:
            self._scorer.close()

    def _tasks(self, number: int, shards: list[ShardEntry]) -> Iterator[_Task]:
        """What the pass ``number`` is to score, in order; read when it is asked for."""
        each = self._passes[number]
        for shard in shards:
            rows = self._tokens.read(shard, ["id", "prompt_ids", "response_ids"])
            units, left = plan_units(row_lengths(rows)), 0
            count = len(units) * len(self._passes)
            whole = self._parts.setdefault(shard.path, set())
            for unit in units:
                if stopping.asked():  # what is under way is finished and kept, nothing begun
                    return
                place = number * len(units) + unit.number
                part = rows.slice(unit.start, unit.stop - unit.start)
                part = each.of(shard, part, unit.start).combine_chunks()
                if count > 1 and self._stage.finished(_part(shard, place, count)):
                    self._advance(int(row_lengths(part).sum()))
                    whole.add(place)
                    continue
                left += 1
                examples = examples_of(part)
                scores: list[Scores | None] = [None] * len(examples)
                if self._carried is not None:
                    scores = self._carried.find(examples)
                self._advance(sum(len(e) for e, s in zip(examples, scores, strict=True) if s))
                missing = [i for i, found in enumerate(scores) if found is None]
                task = _Task(shard, place, count, part, examples, scores, missing)
                if missing and self._scorer is None:
                    self._scorer = each.load(self._stage.folder / "logs")
                    self._kept_at = time.monotonic()  # loading is none of the scoring's time
                yield task
            if not left and len(whole) == count:  # a kill came between the last part and the shard
                self._assemble(shard, count)

    def _score(self, task: _Task) -> _Task:
        """Score what is missing; runs in a thread."""
        if task.missing:
            assert self._scorer is not None
            examples = [task.examples[i] for i in task.missing]
            new = self._scorer.score(examples, self._progressed)
            for i, found in zip(task.missing, new, strict=True):
                where = f"example {task.rows['id'][i]}"
                task.scores[i] = scorers.check_scores(task.examples[i], found, where)
            task.made = {
                "versions": self._scorer.versions(),
                "rank_ties": self._scorer.rank_ties,
                "settings": [self._scorer.settings()],
            }
        return task

    def _progressed(self, tokens: int) -> None:
        self._check()
        with self._lock:
            self._advance(tokens)

    def _keep(self, task: _Task) -> None:
        """Stage what was scored: a whole shard, or a part of one, which the last part completes."""
        # Since the last one was kept: times of workers that work side by side add up to more.
        now, before = time.monotonic(), self._kept_at
        self._kept_at = now
        whole = [scores for scores in task.scores if scores is not None]
        missing = task.missing
        record: dict[str, Any] = {"scored": len(missing), "tokens": 0, "seconds": 0.0}
        if missing:
            record = {
                "scored": len(missing),
                "tokens": sum(len(task.examples[i]) for i in missing),
                "seconds": round(now - before, 3),
                **task.made,
            }
        table = scores_table(task.rows.column("id"), whole)
        if task.count == 1:
            self._stage.write(score_path(self._run, task.shard), table, record)
            self._whole()
            return
        self._stage.write(_part(task.shard, task.number, task.count), table, record)
        self._parts[task.shard.path].add(task.number)
        if len(self._parts[task.shard.path]) == task.count:
            self._assemble(task.shard, task.count)

    def _assemble(self, shard: ShardEntry, count: int) -> None:
        """Make a shard of its parts, which are removed then."""
        stage, parts = self._stage, [_part(shard, number, count) for number in range(count)]
        records = [record for path in parts for record in records_of(stage, path)]
        rows = pa.concat_tables([read_shard(stage.folder / path) for path in parts])
        if len(self._passes) > 1:  # each of which had rows from all over the shard
            place = {id: row for row, id in enumerate(rows.column("id").to_pylist())}
            order = self._tokens.read(shard, ["id"]).column("id").to_pylist()
            rows = rows.take([place[id] for id in order])
        stage.write(
            score_path(self._run, shard),
            rows.combine_chunks(),
            {"scored": sum(record["scored"] for record in records), "parts": records},
        )
        for path in parts:
            stage.remove(path)
        self._whole()

    def _whole(self) -> None:
        """Tell that a shard is staged."""
        with self._lock:
            self._advance(0, 1)


def score_path(run: str, shard: ShardEntry) -> str:
    """Where the scores of a shard of ``tokens`` are."""
    return f"scores/{run}/{shard.path.rsplit('/', 1)[1]}"


def part_lengths(rows: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tokens of the prompt, and of the response, of each row of ``tokens``."""
    prompts, responses = (list_parts(rows, name)[0] for name in ("prompt_ids", "response_ids"))
    return np.diff(prompts), np.diff(responses)


def row_lengths(rows: pa.Table) -> NDArray[np.int64]:
    """Tokens of prompt and response together, of each row of ``tokens``."""
    prompts, responses = part_lengths(rows)
    return prompts + responses


def records_of(stage: Stage, path: str) -> list[dict[str, Any]]:
    """What is known of a shard's making: of the whole, or of each of its parts."""
    record = stage.record(path) or {}
    return record.get("parts", [record])


def _part(shard: ShardEntry, number: int, count: int) -> str:
    """Where the ``number``-th of ``count`` parts of a shard is kept until all are there."""
    # How shards are cut is in the name: another release may cut them otherwise.
    return f"parts/{UNIT_TOKENS}/{shard.path.rsplit('/', 1)[1]}/{shard_name('rows', number, count)}"


def distinct(values: Iterable[Any]) -> list[Any]:
    """Each of the values once, in order; they need not be hashable."""
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def scores_table(ids: Any, scores: list[Scores]) -> pa.Table:
    """Rows of ``scores/<run>``; the mean is taken in float64 and stored in float32."""
    columns = {
        "id": ids,
        "n_tokens": [len(s.logprob) for s in scores],
        "mean_logprob": [float(s.logprob.mean(dtype=np.float64)) for s in scores],
        "min_logprob": [float(s.logprob.min()) for s in scores],
        "logprob": [s.logprob for s in scores],
        "rank": [s.rank for s in scores],
        "entropy": [s.entropy for s in scores],
    }
    schema = schema_of("scores")
    arrays = [
        columns["id"] if field.name == "id" else pa.array(columns[field.name], field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)
