"""How a format's rows lie in the files that its trainer reads, inside a dataset and outside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import pyarrow as pa

from pausedata.core.errors import PausedataError

Shards = Iterable[pa.Table]
# What reading a damaged file of whatever layout may raise.
UNREADABLE = (OSError, PausedataError, ValueError, KeyError, TypeError, pa.ArrowException)


class FileLayout(ABC):
    """The trainer's files of one format; rows come split by split, shard by shard.

    A *stem* is what a split's files are named by: the split, or the file that a user named.
    """

    inside: str  # the files' folder in the dataset, under exports/NAME; empty: that one itself

    @abstractmethod
    def outside(self, target: Path, type: str | None, shard_rows: int | None) -> FileLayout:
        """The layout of ``export -o target --type … --shard-rows …``; UsageError where none is."""

    @abstractmethod
    def place(self, target: Path, splits: list[str]) -> tuple[Path, dict[str, str]]:
        """Where ``export -o target`` writes: the folder, and each split's stem.

        Raises UsageError where ``target`` cannot be, or must not be, written.
        """

    @abstractmethod
    def opened(self, folder: Path) -> AbstractContextManager[Path]:
        """The folder to write to in place of ``folder``, which has all of it when the block ends.

        For exports outside a dataset: within one, nobody reads a folder before it is committed.
        """

    @abstractmethod
    def write(self, folder: Path, rows: Mapping[str, Shards], schema: pa.Schema) -> list[str]:
        """Write the rows of every stem; returns the files' paths, relative to ``folder``."""

    @abstractmethod
    def remove_stale(self, folder: Path, stems: Iterable[str], written: list[str]) -> None:
        """Remove what an earlier export left in ``folder``, outside a dataset, of the same stems.

        Not within one, where Parquet shards of the export itself have such names.
        """

    @abstractmethod
    def paths(self, folder: Path, stems: Iterable[str]) -> list[Path]:
        """What a trainer is told to read, of what ``write`` wrote to ``folder``."""

    @abstractmethod
    def problems(
        self, folder: Path, rows: Mapping[str, Shards], schema: pa.Schema
    ) -> Iterator[str]:
        """Where the files in ``folder`` do not hold ``rows``: lines that begin with a path."""

    @abstractmethod
    def usage(self, path: str, split: str) -> list[str]:
        """Lines of Python that load ``split`` from one of ``paths`` as ``rows``."""
