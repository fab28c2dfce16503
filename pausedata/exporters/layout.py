"""How a format's rows lie in the files that its trainer reads, inside a dataset and outside."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pyarrow as pa

from pausedata.errors import PausedataError, UsageError, listing
from pausedata.exporters.usage import quoted
from pausedata.store.files import replacing

Shards = Iterable[pa.Table]
# What reading a damaged file of whatever layout may raise.
UNREADABLE = (OSError, PausedataError, ValueError, KeyError, TypeError, pa.ArrowException)


class Layout(ABC):
    """The trainer's files of one format; rows come split by split, shard by shard.

    A *stem* is what a split's files are named by: the split, or the file that a user named.
    """

    inside: str  # the files' folder in the dataset, under exports/NAME; empty: that one itself

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


def json_lines(table: pa.Table) -> Iterator[str]:
    """One JSON object a row, without spaces, keys in the schema's order."""
    for row in table.to_pylist():
        yield json.dumps(row, separators=(",", ":"), ensure_ascii=False)


class JsonLines(Layout):
    """``SPLIT.jsonl``: one JSON object a line."""

    inside = ""

    def place(self, target: Path, splits: list[str]) -> tuple[Path, dict[str, str]]:
        """A file where the name ends in ``.jsonl``, for one split; else a folder."""
        if target.suffix == ".jsonl":
            if len(splits) > 1:
                raise UsageError(
                    f"{target} is one file, and there are the splits {listing(splits)}: name one "
                    "with --split, or give a folder."
                )
            return target.parent, dict.fromkeys(splits, target.stem)
        if target.suffix and not target.is_dir():
            raise UsageError(f"{target}: give FILE.jsonl, or a folder without an ending.")
        return target, {split: split for split in splits}

    @contextmanager
    def opened(self, folder: Path) -> Iterator[Path]:
        """The folder itself, in which other files may be: each of ours replaces the old one."""
        yield folder

    def write(self, folder: Path, rows: Mapping[str, Shards], schema: pa.Schema) -> list[str]:
        """One file for each stem."""
        for stem, shards in rows.items():
            with (
                replacing(folder / f"{stem}.jsonl") as temporary,
                temporary.open("w", encoding="utf-8") as out,
            ):
                for shard in shards:
                    out.writelines(line + "\n" for line in json_lines(shard))
        return [f"{stem}.jsonl" for stem in rows]

    def paths(self, folder: Path, stems: Iterable[str]) -> list[Path]:
        """The files."""
        return [folder / f"{stem}.jsonl" for stem in stems]

    def problems(
        self, folder: Path, rows: Mapping[str, Shards], schema: pa.Schema
    ) -> Iterator[str]:
        """Line for line what would be written."""
        for stem, shards in rows.items():
            path = f"{stem}.jsonl"
            try:
                problem = self._compare(folder / path, shards)
            except UNREADABLE as error:
                problem = f"unreadable: {str(error).splitlines()[0]}"
            if problem:
                yield f"{path}: {problem}"

    def _compare(self, path: Path, shards: Shards) -> str | None:
        with path.open(encoding="utf-8", newline="") as lines:
            for shard in shards:
                for line in json_lines(shard):
                    if next(lines, "") != line + "\n":
                        return "does not hold the rows of the shards"
            return "holds more rows than the shards" if next(lines, None) is not None else None

    def usage(self, path: str, split: str) -> list[str]:
        """``load_dataset`` of one file."""
        return [
            "from datasets import load_dataset",
            "",
            f'rows = load_dataset("json", data_files={quoted(path)}, split="train")',
        ]
