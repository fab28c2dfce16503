"""A file of rows for each split, or several: JSON lines, compressed or not, or Parquet."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import pyarrow as pa

from pausedata.core.errors import UsageError, listing
from pausedata.exporters.jsonl import json_lines
from pausedata.exporters.layout import FileLayout, Shards, problem_in
from pausedata.exporters.usage import quoted
from pausedata.store.files import replacing
from pausedata.store.shards import open_shard, regrouped, write_rows

_GROUP_ROWS = 10_000  # of Parquet, which may not depend on the dataset's shards
_SHARD = r"-\d{5}-of-\d{5}"
Write = Callable[[pa.Table], object]


@contextmanager
def _plain(path: Path, schema: pa.Schema) -> Iterator[Write]:
    with path.open("wb") as out:
        yield lambda rows: out.writelines(json_lines(rows))


@contextmanager
def _gzip(path: Path, schema: pa.Schema) -> Iterator[Write]:
    # Neither a time nor a name in it: equal rows, equal bytes.
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as out:
        yield lambda rows: out.writelines(json_lines(rows))


@contextmanager
def _zstd(path: Path, schema: pa.Schema) -> Iterator[Write]:
    with pa.OSFile(str(path), "wb") as raw, pa.CompressedOutputStream(raw, "zstd") as out:
        yield lambda rows: [out.write(lines) for lines in json_lines(rows)]


@contextmanager
def _parquet(path: Path, schema: pa.Schema) -> Iterator[Write]:
    with open_shard(path, schema) as writer:
        yield lambda rows: write_rows(writer, rows)


@dataclass(frozen=True)
class FileType:
    """A kind of file."""

    name: str  # as after --type; a file of it ends in a point and this
    opened: Callable[[Path, pa.Schema], AbstractContextManager[Write]]
    reader: str = "json"  # what `datasets` calls it

    @property
    def ending(self) -> str:
        """What names of such files end in."""
        return f".{self.name}"


TYPES = {
    kind.name: kind
    for kind in (
        FileType("jsonl", _plain),
        FileType("jsonl.gz", _gzip),
        FileType("jsonl.zst", _zstd),
        FileType("parquet", _parquet, "parquet"),
    )
}


@dataclass(frozen=True)
class RowFiles(FileLayout):
    """``SPLIT.jsonl``; outside a dataset other types too, and several files a split."""

    type: FileType = TYPES["jsonl"]
    shard_rows: int | None = None
    inside = ""

    def outside(self, target: Path, type: str | None, shard_rows: int | None) -> RowFiles:
        """The type is that of the target's ending, where it has one, else ``type``."""
        if type is not None and type not in TYPES:
            raise UsageError(f"--type {type}: there are {listing(TYPES)}.")
        by_ending = _type_of(target)
        if by_ending is not None and type not in (None, by_ending.name):
            raise UsageError(f"{target}: its ending says {by_ending.name}, --type {type}.")
        return replace(self, type=by_ending or TYPES[type or self.type.name], shard_rows=shard_rows)

    def place(self, target: Path, splits: list[str]) -> tuple[Path, dict[str, str]]:
        """A file where the name has one of the types' endings, for one split; else a folder."""
        kind = _type_of(target)
        if kind is not None:
            if len(splits) > 1:
                epochs = splits[0].endswith(".epoch1")
                todo = "" if epochs else "name one with --split, or "
                raise UsageError(
                    f"{target} is one file, and there are the splits {listing(splits)}: {todo}give "
                    "a folder."
                )
            return target.parent, dict.fromkeys(splits, target.name.removesuffix(kind.ending))
        if target.suffix and not target.is_dir():
            endings = ", ".join(kind.ending for kind in TYPES.values())
            raise UsageError(
                f"{target}: give a file that ends in {endings}, or a folder without an ending."
            )
        return target, {split: split for split in splits}

    @contextmanager
    def opened(self, folder: Path) -> Iterator[Path]:
        """The folder itself, in which other files may be: each of ours replaces the old one."""
        yield folder

    def write(self, folder: Path, rows: Mapping[str, Shards], schema: pa.Schema) -> list[str]:
        """One file for each stem, or for each ``shard_rows`` rows of it."""
        names = []
        for stem, shards in rows.items():
            if self.type.reader == "parquet":
                shards = regrouped(shards, _GROUP_ROWS)
            own = (
                self._write_shards(folder, stem, shards, schema)
                if self.shard_rows
                else [self._write_file(folder, f"{stem}{self.type.ending}", shards, schema)]
            )
            names += own
        return names

    def _write_file(self, folder: Path, name: str, rows: Shards, schema: pa.Schema) -> str:
        with (
            replacing(folder / name) as temporary,
            self.type.opened(temporary, schema) as write,
        ):
            for shard in rows:
                write(shard)
        return name

    def _write_shards(self, folder: Path, stem: str, rows: Shards, schema: pa.Schema) -> list[str]:
        """Their names say how many there are, which is known at the end."""
        assert self.shard_rows is not None
        portions = regrouped(rows, self.shard_rows)
        first = next(portions, schema.empty_table())
        parts = []
        try:
            for number, portion in enumerate(chain([first], portions)):
                part = f".{stem}.{number:05d}.part"
                parts.append(part)
                self._write_file(folder, part, [portion], schema)
            names = [
                f"{stem}-{number:05d}-of-{len(parts):05d}{self.type.ending}"
                for number in range(len(parts))
            ]
            for part, name in zip(parts, names, strict=True):
                (folder / part).replace(folder / name)
        finally:
            for part in parts:
                (folder / part).unlink(missing_ok=True)
        return names

    def remove_stale(self, folder: Path, stems: Iterable[str], written: list[str]) -> None:
        """Those beside a ``STEM.meta.json``: without one the files are another's."""
        endings = "|".join(re.escape(kind.ending) for kind in TYPES.values())
        for stem in stems:
            if not (folder / f"{stem}.meta.json").exists():
                continue
            ours = re.compile(f"{re.escape(stem)}({_SHARD})?({endings})")
            for path in folder.iterdir():
                if ours.fullmatch(path.name) and path.name not in written:
                    path.unlink()

    def paths(self, folder: Path, stems: Iterable[str]) -> list[Path]:
        """The file of each stem, or a pattern for its files."""
        which = "-*" if self.shard_rows else ""
        return [folder / f"{stem}{which}{self.type.ending}" for stem in stems]

    def problems(
        self, folder: Path, rows: Mapping[str, Shards], schema: pa.Schema
    ) -> Iterator[str]:
        """Byte for byte what would be written: JSON lines, as they are inside a dataset."""
        for stem, shards in rows.items():
            path = f"{stem}{self.type.ending}"
            yield from problem_in(path, _compare, folder / path, shards)

    def usage(self, path: str, split: str) -> list[str]:
        """``load_dataset`` of one file."""
        return [
            "from datasets import load_dataset",
            "",
            f'rows = load_dataset("{self.type.reader}", data_files={quoted(path)}, split="train")',
        ]


def _type_of(target: Path) -> FileType | None:
    """The type that a file's name ends in."""
    if target.is_dir():
        return None
    return next((kind for kind in TYPES.values() if target.name.endswith(kind.ending)), None)


def _compare(path: Path, shards: Shards) -> str | None:
    with path.open("rb") as found:
        for shard in shards:
            for lines in json_lines(shard):
                if found.read(len(lines)) != lines:
                    return "does not hold the rows of the shards"
        return "holds more rows than the shards" if found.read(1) else None
