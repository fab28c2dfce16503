"""What is scored in one go: a part of a shard; and how parts are shared out among engines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from pausedata.scorers import EngineLostError

# Prompt and response tokens of a unit: what a kill can cost, and what is in memory for a lane. As
# large as a shard that pausedata chooses, so that such a shard is mostly one unit, yet small enough
# that larger ones, which a person asks for, lose little.
UNIT_TOKENS = 262_144
MOST_LANES = 1024
# An engine may die by a unit; one that two have died of is the culprit.
MOST_LOSSES = 2

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class ScoringUnit:
    """Rows ``start`` to ``stop`` of a shard, the ``number``-th of its ``count`` units."""

    number: int
    count: int
    start: int
    stop: int


def plan_units(lengths: NDArray[np.int64]) -> list[ScoringUnit]:
    """Cut a shard, given the tokens of each of its rows, into units of about `UNIT_TOKENS`.

    A pure function of the lengths, so that a resumed run has the same units. A row that is longer
    is a unit of its own. A shard without rows is one unit, as empty.
    """
    if not len(lengths):
        return [ScoringUnit(0, 1, 0, 0)]
    ends = np.cumsum(lengths)
    cuts = [0]
    while cuts[-1] < len(lengths):
        before = int(ends[cuts[-1] - 1]) if cuts[-1] else 0
        stop = int(np.searchsorted(ends, before + UNIT_TOKENS, side="right"))
        cuts.append(max(stop, cuts[-1] + 1))
    count = len(cuts) - 1
    return [ScoringUnit(k, count, cuts[k], cuts[k + 1]) for k in range(count)]


class Cancelled(BaseException):
    """The work that this thread is at is no longer wanted."""


class WorkQueue(Generic[Task, Result]):
    """Runs tasks on as many threads as there are workers, and gives results as they come.

    Only as many tasks are taken up as there are workers, so that memory stays bounded; the next one
    is taken up before a result is given away, so that no lane waits for what is done with it. A
    task whose engine was lost is given to another.
    """

    def __init__(self, act: Callable[[Task], Result], workers: Callable[[], int]) -> None:
        """``act`` runs in the threads; ``workers`` tells how many may be under way now."""
        self._act, self._workers = act, workers
        self._stop = threading.Event()

    def check(self) -> None:
        """Raise `Cancelled` where the work is no longer wanted; ``act`` calls it now and then."""
        if self._stop.is_set():
            raise Cancelled

    def run(self, tasks: Iterable[Task], abandon: Callable[[], None]) -> Generator[Result]:
        """The result of every task, in the order in which they are done.

        ``abandon`` is called where the work ends early: what it closes makes calls under way fail.
        Raises what ``act`` raises; a task that two engines were lost by raises that error when all
        others are done.
        """
        waiting, again = iter(tasks), list[Task]()
        losses: dict[int, int] = {}
        given_up: list[EngineLostError] = []
        under_way: dict[Future[Result], Task] = {}
        with ThreadPoolExecutor(MOST_LANES, "scoring") as pool:  # threads are made as needed

            def fill() -> None:
                # Without a lane one more task is tried, whose error says why there is none.
                while len(under_way) < (self._workers() or not given_up):
                    task = again.pop() if again else next(waiting, None)
                    if task is None:
                        return
                    under_way[pool.submit(self._act, task)] = task

            try:
                fill()
                while under_way:
                    done, _ = wait(under_way, return_when=FIRST_COMPLETED)
                    results, failed = [], None
                    for future in done:
                        task = under_way.pop(future)
                        try:
                            results.append(future.result())
                            losses.pop(id(task), None)
                        except EngineLostError as error:
                            losses[id(task)] = losses.get(id(task), 0) + 1
                            if losses[id(task)] < MOST_LOSSES and self._workers():
                                again.append(task)
                            else:
                                given_up.append(error)
                        except BaseException as error:
                            failed = error
                    if failed is None:
                        fill()
                    yield from results
                    if failed is not None:
                        raise failed
                if given_up:
                    raise given_up[0]
            except BaseException:
                self._stop.set()
                with suppress(Exception):
                    abandon()
                raise
