"""How steps tell what they are doing, without knowing who listens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Advance(Protocol):
    """Called within a step: ``units`` more are done, and ``shards`` more are finished."""

    def __call__(self, units: int, shards: int = 0, /) -> None:
        """Count them."""
        ...


class Progress(Protocol):
    """What hears of the work: a terminal, a log, or nothing."""

    def step(
        self, title: str, total: int | None, unit: str, shards: int | None = None
    ) -> AbstractContextManager[Advance]:
        """Announce a step of ``total`` units, in ``shards`` shards where it is counted by them.

        The block is given an `Advance`, to be called as units and shards are done.
        """
        ...

    def say(self, message: str) -> None:
        """Tell something worth knowing."""
        ...

    def warn(self, message: str) -> None:
        """Tell something that the user may want to mend."""
        ...

    def detail(self, message: str) -> None:
        """Tell something for those who want to know more: what is read, and where it goes."""
        ...


class Silent:
    """Shows nothing, and keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    @contextmanager
    def step(
        self, title: str, total: int | None, unit: str, shards: int | None = None
    ) -> Iterator[Advance]:
        """Nothing is shown."""
        yield _ignore

    def say(self, message: str) -> None:
        """Nothing is shown."""

    def warn(self, message: str) -> None:
        """Kept in ``warnings``."""
        self.warnings.append(message)

    def detail(self, message: str) -> None:
        """Nothing is shown."""


def _ignore(units: int, shards: int = 0, /) -> None:
    """An `Advance` that does nothing."""


def ignore_message(message: str) -> None:
    """A ``say`` or ``warn`` that does nothing."""
