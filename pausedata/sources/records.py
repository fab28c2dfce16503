"""What a source yields: rows, and rows that cannot be used, each with its place in the source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pausedata.core.errors import UnreachableError


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a split.

    ``index`` counts the rows of the split from 0, over all its files. ``where`` is for people,
    ``rows.jsonl:17`` or ``openai/gsm8k train[17]``, and holds base names only, since it can get
    into a manifest.
    """

    split: str
    index: int
    columns: dict[str, Any]
    where: str


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used: ``reason`` is a word to count by, ``detail`` a sentence."""

    split: str
    index: int
    where: str
    reason: str
    detail: str


class OpenSource(ABC):
    """A source whose files (or repository, config and splits) are known to exist."""

    @abstractmethod
    def rows(self, split: str) -> Iterator[Row | BadRow]:
        """The split's rows in order, at most ``source.limit``, with bounded memory.

        A row that cannot be read is a BadRow, counts as a row and takes an index. DataError
        where a file is so broken that what follows in it cannot be read.
        """

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """What the rows come from, as JSON for the manifest; no machine path is in it."""

    @abstractmethod
    def count(self, split: str) -> int | None:
        """How many rows ``rows(split)`` yields, where that is cheap to tell; else None."""

    def columns(self, split: str) -> list[str] | None:
        """The column names of the split's first readable row; None where there is none."""
        for row in self.rows(split):
            if isinstance(row, Row):
                return list(row.columns)
        return None


class UnreachedSource(OpenSource):
    """A source that cannot be reached: whatever it is asked, it raises the reason."""

    def __init__(self, error: UnreachableError) -> None:
        self.error = error

    def rows(self, split: str) -> Iterator[Row | BadRow]:
        """Raises UnreachableError."""
        raise self.error

    def provenance(self) -> dict[str, Any]:
        """Raises UnreachableError."""
        raise self.error

    def count(self, split: str) -> int | None:
        """Raises UnreachableError."""
        raise self.error


def is_local_hub(hub: str) -> bool:
    """Whether ``source.hub`` is a folder laid out like a Hub dataset, not the id of one."""
    return hub.startswith((".", "/", "~"))
