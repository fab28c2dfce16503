"""How steps tell what they are doing, without knowing who listens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    pass


class Advance(Protocol):
    """What the block of a step calls: so many units more, and shards, are done."""

    def __call__(self, units: int, shards: int = 0, /) -> None:
        """Count them."""
        ...


class Progress(Protocol):
    """Somebody who listens: a terminal, a log, nobody."""

    def step(
        self, title: str, total: int | None, unit: str, shards: int | None = None
    ) -> AbstractContextManager[Advance]:
        """Announce a step of ``total`` units, in so many ``shards`` where it goes by them.

        The block calls what it gets as units and shards are done.
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
    """Nobody listens; warnings are kept for who asks."""

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
    """Nobody counts."""


def ignore_message(message: str) -> None:
    """A ``say`` or ``warn`` that does nothing."""
