"""Progress for people: bars on a terminal, plain lines elsewhere, all on standard error."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from pausedata.core import progress

EVERY = 15.0  # seconds between plain lines
_WIDE = 90  # columns from which there is room for a bar


def listener(*, quiet: bool = False, verbose: bool = False) -> Bars | Lines | Quiet:
    """Bars where standard error is a terminal that a person looks at, else lines.

    ``quiet``: warnings alone. ``verbose``: details too.
    """
    bars = sys.stderr.isatty() and draws(os.environ)
    # Rich would take FORCE_COLOR for a terminal, which a log of CI is not.
    console = Console(
        stderr=True, highlight=False, markup=False, emoji=False, force_terminal=bars or None
    )
    if quiet:
        return Quiet(partial(console.print, soft_wrap=True))
    if bars:
        return Bars(console, verbose=verbose)
    return Lines(partial(print, file=sys.stderr, flush=True), verbose=verbose)


def draws(environment: Mapping[str, str]) -> bool:
    """Whether what looks like a terminal can draw over what it shows.

    Notebooks and some CI systems give commands a terminal, and keep all that is written to it.
    """
    ci = environment.get("CI", "").lower() not in ("", "0", "false")
    notebook = "JPY_PARENT_PID" in environment  # of `!command` in a notebook
    return not (ci or notebook or environment.get("TERM", "") in ("", "dumb", "unknown"))


class Quiet(progress.Silent):
    """Warnings, and nothing else."""

    def __init__(self, emit: Callable[[str], object]) -> None:
        super().__init__()
        self._emit = emit

    def warn(self, message: str) -> None:
        """Print a warning."""
        self._emit(f"warning: {message}")


class Lines:
    """One line when a step starts, when it ends, and now and then between."""

    def __init__(self, emit: Callable[[str], object], *, verbose: bool = False) -> None:
        """``emit`` takes a line; ``verbose``: details, and each shard with its time, too."""
        self._emit, self._verbose = emit, verbose

    @contextmanager
    def step(
        self, title: str, total: int | None, unit: str, shards: int | None = None
    ) -> Iterator[progress.Advance]:
        """Tell shards, the pace in ``unit`` per second, and the time that went and is left."""
        pace = _Counted(title, total, unit, shards)
        cut = f" in {shards:,} shard{'' if shards == 1 else 's'}" if shards is not None else ""
        self.say(f"{title}: " + (f"{total:,} {unit}" if total is not None else unit) + cut)
        spoken = pace.started

        def advance(units: int, finished: int = 0, /) -> None:
            nonlocal spoken
            took = pace.add(units, finished)
            if took is not None and self._verbose:
                self.say(took)
            now = time.monotonic()
            if now - spoken >= EVERY:
                spoken = now
                self.say(pace.line())

        yield advance
        self.say(pace.last())

    def say(self, message: str) -> None:
        """Print a message."""
        self._emit(message)

    def warn(self, message: str) -> None:
        """Print a warning."""
        self._emit(f"warning: {message}")

    def detail(self, message: str) -> None:
        """Print a message for those who asked for more."""
        if self._verbose:
            self._emit(message)


class Bars:
    """A bar for each step, with shards, units per second, and the time that went and is left."""

    def __init__(self, console: Console, *, verbose: bool = False) -> None:
        self._console, self._verbose = console, verbose

    @contextmanager
    def step(
        self, title: str, total: int | None, unit: str, shards: int | None = None
    ) -> Iterator[progress.Advance]:
        """Draw the step's bar; it stays on the screen when the step is done."""
        # The title takes what room is left, so that a narrow terminal has one line a step.
        title_column = Column(ratio=1, no_wrap=True, overflow="ellipsis")
        counted = _Counted(title, total, unit, shards)
        wide = self._console.width >= _WIDE
        columns: list[ProgressColumn] = [
            TextColumn("{task.description}", markup=False, table_column=title_column),
            *([BarColumn(bar_width=10)] if wide else []),
            TaskProgressColumn(),
            *([_Shards(counted, wide)] if shards is not None else []),
            _Pace(unit),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        ]
        with Progress(*columns, console=self._console, expand=True) as bars:
            task = bars.add_task(title, total=total)

            def advance(units: int, finished: int = 0, /) -> None:
                took = counted.add(units, finished)
                bars.advance(task, units)
                if took is not None and self._verbose:
                    self.say(took)

            yield advance
            bars.update(task, total=bars.tasks[0].completed)

    def say(self, message: str) -> None:
        """Print a message."""
        self._console.print(message, style="dim", soft_wrap=True)

    def warn(self, message: str) -> None:
        """Print a warning."""
        self._console.print(f"warning: {message}", style="yellow", soft_wrap=True)

    def detail(self, message: str) -> None:
        """Print a message for those who asked for more."""
        if self._verbose:
            self.say(message)


class Several:
    """Tells all it hears to several listeners."""

    def __init__(self, *listeners: progress.Progress) -> None:
        self._listeners = listeners

    @contextmanager
    def step(
        self, title: str, total: int | None, unit: str, shards: int | None = None
    ) -> Iterator[progress.Advance]:
        """A step that each of them shows."""
        with ExitStack() as stack:
            every = [
                stack.enter_context(one.step(title, total, unit, shards)) for one in self._listeners
            ]

            def advance(units: int, finished: int = 0, /) -> None:
                for each in every:
                    each(units, finished)

            yield advance

    def say(self, message: str) -> None:
        """Tell them all."""
        for one in self._listeners:
            one.say(message)

    def warn(self, message: str) -> None:
        """Warn them all."""
        for one in self._listeners:
            one.warn(message)

    def detail(self, message: str) -> None:
        """Tell them all."""
        for one in self._listeners:
            one.detail(message)


class _Counted:
    """How far a step is, in words."""

    def __init__(self, title: str, total: int | None, unit: str, shards: int | None) -> None:
        self.title, self.total, self.unit, self.shards = title, total, unit, shards
        self.done = self.finished = 0
        self.started = self._shard_started = time.monotonic()
        self._lock = threading.Lock()

    def add(self, units: int, finished: int) -> str | None:
        """Count; where a shard was finished, how long it took, in words."""
        with self._lock:
            self.done += units
            if not finished:
                return None
            self.finished += finished
            now, before = time.monotonic(), self._shard_started
            self._shard_started = now
        return f"{self.title}: {self.cut()} done, the last in {duration(now - before)}"

    def cut(self) -> str:
        """``3 of 12 shards``."""
        of = f" of {self.shards:,}" if self.shards is not None else ""
        return f"{self.finished:,}{of} shard{'' if self.shards == 1 else 's'}"

    def line(self) -> str:
        """Under way: shards, pace, and the time that went and is left."""
        seconds = time.monotonic() - self.started
        rate = self.done / seconds if seconds else 0.0
        of = f" of {self.total:,}" if self.total is not None else ""
        said = [f"{self.done:,}{of} {self.unit}"]
        if self.shards is not None:
            said.append(self.cut())
        said += [f"{rate:,.0f} {self.unit}/s", f"{duration(seconds)} elapsed"]
        if self.total is not None and rate > 0:
            said.append(f"{duration(max(0, self.total - self.done) / rate)} left")
        return f"{self.title}: {', '.join(said)}"

    def last(self) -> str:
        """At the end: what it came to."""
        seconds = time.monotonic() - self.started
        pace = f", {self.done / seconds:,.0f} {self.unit}/s" if seconds > 1 else ""
        return f"{self.title}: {self.done:,} {self.unit} in {duration(seconds)}{pace}"


class _Pace(ProgressColumn):
    """Units per second over the whole step."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        super().__init__(Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        speed = task.completed / task.elapsed if task.elapsed else 0
        return Text(f"{speed:>6,.0f} {self._unit}/s", style="progress.data.speed")


class _Shards(ProgressColumn):
    """``3/12``, with the word where there is room for it."""

    def __init__(self, counted: _Counted, wide: bool) -> None:
        self._counted, self._word = counted, " shards" if wide else ""
        super().__init__(Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        return Text(f"{self._counted.finished:,}/{self._counted.shards:,}{self._word}")


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 5 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
