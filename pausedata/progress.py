"""How steps tell what they are doing, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int], None]


class Progress(Protocol):
    """Somebody who listens: a terminal, a log, nobody."""

    def step(self, title: str, total: int | None, unit: str) -> AbstractContextManager[Advance]:
        """Announce a step of ``total`` units; the block calls what it gets as units are done."""
        ...

    def say(self, message: str) -> None:
        """Tell something worth knowing."""
        ...

    def warn(self, message: str) -> None:
        """Tell something that the user may want to mend."""
        ...


class Silent:
    """Nobody listens; warnings are kept for who asks."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    @contextmanager
    def step(self, title: str, total: int | None, unit: str) -> Iterator[Advance]:
        """Nothing is shown."""
        yield lambda done: None

    def say(self, message: str) -> None:
        """Nothing is shown."""

    def warn(self, message: str) -> None:
        """Kept in ``warnings``."""
        self.warnings.append(message)
