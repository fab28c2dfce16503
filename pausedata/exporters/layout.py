"""The files that a trainer reads, written from a format's rows, in a dataset and outside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa

from pausedata.core.errors import PausedataError, first_line

Shards = Iterable[pa.Table]
# What reading a damaged file of whatever layout may raise.
UNREADABLE = (OSError, PausedataError, ValueError, KeyError, TypeError, pa.ArrowException)


def problem_in(path: str, compare: Callable[..., str | None], *arguments: Any) -> Iterator[str]:
    """A line about what ``compare`` finds wrong in a file, or why it cannot be read."""
    try:
        problem = compare(*arguments)
    except UNREADABLE as error:
        problem = f"unreadable: {first_line(error)}"
    if problem:
        yield f"{path}: {problem}"


class FileLayout(ABC):
    """The trainer's files of one format; rows come split by split, shard by shard.

    A *stem* is what a split's files are named by: the split, or the file that a user named.
    """

    inside: str  # the files' folder in the dataset, under exports/NAME; empty: that one itself

    @abstractmethod
    def outside(self, target: Path, type: str | None, shard_rows: int | None) -> FileLayout:
        """The layout that ``export -o target --type … --shard-rows …`` asks for, or UsageError."""

    @abstractmethod
    def place(self, target: Path, splits: list[str]) -> tuple[Path, dict[str, str]]:
        """Where ``export -o target`` writes: the folder, and each split's stem.

        Raises UsageError where ``target`` cannot be, or must not be, written.
        """

    @abstractmethod
    def opened(self, folder: Path) -> AbstractContextManager[Path]:
        """The folder to write to; when the block ends, all of it is in ``folder``.

        For exports outside a dataset: within one, nobody reads a folder before it is committed.
        """

    @abstractmethod
    def write(self, folder: Path, rows: Mapping[str, Shards], schema: pa.Schema) -> list[str]:
        """Write the rows of every stem; returns the files' paths, relative to ``folder``."""

    @abstractmethod
    def remove_stale(self, folder: Path, stems: Iterable[str], written: list[str]) -> None:
        """Remove files of the same stems that an earlier export left in ``folder``.

        Only outside a dataset: within one, the export's own Parquet shards have such names.
        """

    @abstractmethod
    def paths(self, folder: Path, stems: Iterable[str]) -> list[Path]:
        """Those of the files that ``write`` wrote which a trainer is told to read."""

    @abstractmethod
    def problems(
        self, folder: Path, rows: Mapping[str, Shards], schema: pa.Schema
    ) -> Iterator[str]:
        """Where the files in ``folder`` do not hold ``rows``: lines that begin with a path."""

    @abstractmethod
    def usage(self, path: str, split: str) -> list[str]:
        """Lines of Python that load ``split`` from one of ``paths`` as ``rows``."""
