"""What is scored in one go, and how that is shared out: parts, workers, engines that fail."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import Recipe, Run, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from pausedata.pipeline.steps import units
from pausedata.pipeline.steps.units import WorkQueue, plan_units
from pausedata.scorers import EngineLostError
from pausedata.scorers.transformers import TransformersScorer
from pausedata.store.dataset import open_version

# How a shard is cut


@given(st.lists(st.integers(1, 200_000), max_size=60))
def test_units_are_as_large_as_they_may_be(lengths: list[int]) -> None:
    """As one would cut by hand: a row goes to the unit before it where there is room for it."""
    wanted: list[list[int]] = [] if lengths else [[]]
    for row, length in enumerate(lengths):
        if wanted and sum(lengths[k] for k in wanted[-1]) + length <= units.UNIT_TOKENS:
            wanted[-1].append(row)
        else:
            wanted.append([row])
    found = plan_units(np.array(lengths, np.int64))
    assert [list(range(u.start, u.stop)) for u in found] == wanted
    assert [(u.number, u.count) for u in found] == [(k, len(wanted)) for k in range(len(wanted))]


def test_a_row_larger_than_a_unit_is_one_of_its_own() -> None:
    most = units.UNIT_TOKENS
    found = plan_units(np.array([1, most + 1, 1, most, 1]))
    assert [(u.start, u.stop) for u in found] == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]


# How units are shared out


class Engines:
    """Lanes that are lost by some tasks."""

    def __init__(self, workers: int, kills: dict[int, int]) -> None:
        """``kills``: how many workers each of these tasks takes with it."""
        self.workers, self.kills = workers, dict(kills)
        self.under_way = self.most = 0
        self.lock = threading.Lock()

    def act(self, task: int) -> int:
        with self.lock:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        time.sleep(0.001)
        with self.lock:
            self.under_way -= 1
            if self.kills.get(task, 0):
                self.kills[task] -= 1
                self.workers -= 1
                raise EngineLostError(f"lost by {task}")
        return task

    def run(self, tasks: int) -> list[int]:
        return list(WorkQueue(self.act, lambda: self.workers).run(range(tasks), lambda: None))


@settings(deadline=None)  # threads wait for others of a busy machine
@given(st.integers(0, 12), st.integers(1, 4))
def test_every_task_is_done_once_on_no_more_threads_than_lanes(tasks: int, workers: int) -> None:
    engines = Engines(workers, {})
    assert sorted(engines.run(tasks)) == list(range(tasks))
    assert engines.most <= workers


def test_what_a_lost_engine_had_is_given_to_another() -> None:
    engines = Engines(3, {2: 1, 5: 1})
    assert sorted(engines.run(9)) == list(range(9))
    assert engines.workers == 1


def test_a_task_that_loses_two_engines_is_the_culprit_and_the_others_are_done() -> None:
    engines, done = Engines(4, {2: 9}), []
    with pytest.raises(EngineLostError, match="lost by 2"):
        for task in WorkQueue(engines.act, lambda: engines.workers).run(range(9), lambda: None):
            done.append(task)
    assert sorted(done) == [0, 1, 3, 4, 5, 6, 7, 8]
    assert engines.workers == 2


@pytest.mark.parametrize("kills", [{0: 1}, {3: 1}, {4: 1}])
def test_without_an_engine_left_the_error_is_told(kills: dict[int, int]) -> None:
    with pytest.raises(EngineLostError, match="lost by"):
        Engines(1, kills).run(5)


@pytest.mark.parametrize("done", [0, 2])
def test_engines_that_end_by_themselves_are_missed_at_the_next_task(done: int) -> None:
    engines, taken = Engines(1, {}), list[int]()

    def act(task: int) -> int:
        taken.append(task)
        if not engines.workers:
            raise EngineLostError("it was killed")
        return task

    engines.workers = int(done > 0)
    with pytest.raises(EngineLostError, match="it was killed"):
        for number, _ in enumerate(
            WorkQueue(act, lambda: engines.workers).run(range(9), lambda: None), 1
        ):
            engines.workers = int(number < done)
    assert len(taken) <= done + 2


def test_tasks_are_taken_up_as_lanes_are_free() -> None:
    """So that memory is bounded: one ahead of what was done, for each lane."""
    taken: list[int] = []

    def tasks() -> Any:
        for k in range(20):
            taken.append(k)
            yield k

    sharing = WorkQueue[int, int](lambda task: task, lambda: 2)
    for number, _ in enumerate(sharing.run(tasks(), lambda: None), 1):
        assert len(taken) <= number + 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_stops_the_others_and_what_was_done_is_given_first(
    error: type[BaseException],
) -> None:
    sharing: WorkQueue[int, int]
    stopped, abandoned, second = threading.Event(), threading.Event(), threading.Event()

    def act(task: int) -> int:
        if task == 0:
            second.wait(5)
            raise error
        second.set()
        try:
            while True:
                sharing.check()
                time.sleep(0.001)
        except BaseException:
            stopped.set()
            raise

    sharing = WorkQueue(act, lambda: 2)
    with pytest.raises(error):
        list(sharing.run(range(5), abandoned.set))
    assert stopped.is_set() and abandoned.is_set()


# Shards in parts


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch, recipe: Recipe) -> Recipe:
    """One shard of twelve examples, in units of about three."""
    monkeypatch.setattr(units, "UNIT_TOKENS", 700)
    recipe.data["shard_rows"] = 12
    return recipe


def stop_at(monkeypatch: pytest.MonkeyPatch, call: int) -> list[int]:
    """Interrupt scoring at a call; how many examples each call was given."""
    own, calls = TransformersScorer.score, list[int]()

    def score(self: Any, examples: Any, *rest: Any) -> Any:
        calls.append(len(examples))
        if len(calls) == call:
            raise KeyboardInterrupt
        return own(self, examples, *rest)

    monkeypatch.setattr(TransformersScorer, "score", score)
    return calls


def test_a_large_shard_is_kept_part_by_part(
    small_units: Recipe, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = stop_at(monkeypatch, 3)
    words = ("build", small_units.write())
    assert run(*words).status == 130
    parts = sorted(p.name for p in small_units.out.glob("staging/scores-*/parts/*/*/*.parquet"))
    # The one that was done when the other was interrupted may be kept, or not.
    assert parts and parts[0].startswith("rows-00000-of-")
    before, count = sum(calls[: len(parts)]), len(calls)
    done = run(*words)
    assert done.status == 0, done.err
    assert before + sum(calls[count:]) == 12
    facts = open_version(small_units.out).table("scores/base").entry.provenance
    assert (facts["scored_examples"], facts["carried_examples"]) == (12, 0)
    assert not list(small_units.out.glob("staging/scores-*"))


def test_parts_with_and_without_a_kill_give_the_same_bytes(
    small_units: Recipe, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("build", small_units.write())
    assert run(*words).status == 0
    whole = open_version(small_units.out).table("scores/base").entry
    other = small_units.out.with_name("other")
    stop_at(monkeypatch, 2)
    assert run(*words, "--output", other).status == 130
    assert run(*words, "--output", other).status == 0
    again = open_version(other).table("scores/base").entry
    assert again.content == whole.content
    assert [s.sha256 for s in again.shards] == [s.sha256 for s in whole.shards]


def test_a_split_without_a_row_is_a_shard_without_rows(
    recipe: Recipe, rows: list[dict[str, Any]], run: Callable[..., Run]
) -> None:
    folder = recipe.folder / "hub"
    folder.mkdir()
    write_rows(folder / "train.jsonl", rows)
    write_rows(folder / "test.jsonl", [rows[0] | {"answer": ""}])
    recipe.data["source"] = {"hub": str(folder), "split": ["train", "test"], "max_bad_rows": 5}
    done = run("build", recipe.write())
    assert done.status == 0, done.err
    shards = open_version(recipe.out).table("scores/base").shards
    assert [(s.split, s.rows) for s in shards if s.split == "test"] == [("test", 0)]
    assert run("verify", recipe.out).status == 0


def test_a_damaged_part_is_scored_again(
    small_units: Recipe, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("build", small_units.write())
    calls = stop_at(monkeypatch, 3)
    assert run(*words).status == 130
    part = next(small_units.out.glob("staging/scores-*/parts/*/*/rows-00000-*.parquet"))
    part.chmod(0o644)
    part.write_bytes(b"PAR1")
    first = calls[0]
    calls.clear()
    calls += [0, 0, 0]  # no further interruption
    assert run(*words).status == 0
    assert first in calls
    assert run("verify", small_units.out).status == 0
