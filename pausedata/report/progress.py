"""Progress for people: bars on a terminal, plain lines elsewhere, all on standard error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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

EVERY = 15.0  # seconds between plain lines


def listener() -> Bars | Lines:
    """Bars where standard error is a terminal, else lines."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    return Bars(console) if console.is_terminal else Lines(console)


class Lines:
    """One line when a step starts, when it ends, and now and then between."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def step(self, title: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
        """Print the step's pace in ``unit`` per second and the time that is left."""
        started = spoken = time.monotonic()
        done = 0
        size = f"{total:,} {unit}" if total is not None else unit
        self.say(f"{title}: {size}")

        def advance(units: int) -> None:
            nonlocal done, spoken
            done += units
            now = time.monotonic()
            if now - spoken < EVERY:
                return
            spoken = now
            rate = done / (now - started)
            of = f" of {total:,}" if total is not None else ""
            left = ""
            if total is not None and rate > 0:
                left = f", {_duration((total - done) / rate)} left"
            self.say(f"{title}: {done:,}{of} {unit}, {rate:,.0f} {unit}/s{left}")

        yield advance
        seconds = time.monotonic() - started
        pace = f", {done / seconds:,.0f} {unit}/s" if seconds > 1 else ""
        self.say(f"{title}: {done:,} {unit} in {_duration(seconds)}{pace}")

    def say(self, message: str) -> None:
        """Print a message."""
        self._console.print(message, soft_wrap=True)

    def warn(self, message: str) -> None:
        """Print a warning."""
        self._console.print(f"warning: {message}", soft_wrap=True)


class Bars:
    """A bar for each step, with units per second and the time that is left."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def step(self, title: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
        """Draw the step's bar; it stays on the screen when the step is done."""
        # The title takes what room is left, so that a narrow terminal has one line a step.
        title_column = Column(ratio=1, no_wrap=True, overflow="ellipsis")
        columns = (
            TextColumn("{task.description}", markup=False, table_column=title_column),
            BarColumn(bar_width=10),
            TaskProgressColumn(),
            _Pace(unit),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console, expand=True) as bars:
            task = bars.add_task(title, total=total)
            yield lambda units: bars.advance(task, units)
            bars.update(task, total=bars.tasks[0].completed)

    def say(self, message: str) -> None:
        """Print a message."""
        self._console.print(message, style="dim", soft_wrap=True)

    def warn(self, message: str) -> None:
        """Print a warning."""
        self._console.print(f"warning: {message}", style="yellow", soft_wrap=True)


class _Pace(ProgressColumn):
    """Units per second over the whole step."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        super().__init__(Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        speed = task.completed / task.elapsed if task.elapsed else 0
        return Text(f"{speed:>8,.0f} {self._unit}/s", style="progress.data.speed")


def _duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 5 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
