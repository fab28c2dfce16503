"""Work in progress: one folder for each step, keyed by all that decides what the step makes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from filelock import FileLock, Timeout

from pausedata.errors import ConflictError
from pausedata.store import files
from pausedata.store.content import ContentHash
from pausedata.store.dataset import Table
from pausedata.store.manifest import FileEntry, ShardEntry, TableEntry
from pausedata.store.shards import read_shard, write_shard


class Stage:
    """The folder of one step. Shards in it are whole, and stay until the step is committed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, path: str, rows: pa.Table, record: dict[str, Any] | None = None) -> None:
        """Write the shard ``path`` (as in the manifest) with what is to be known of its making."""
        write_shard(self.folder / path, rows)
        # The record is written after the shard, and holds its hash: both there means both whole.
        self.note(path, {"sha256": files.sha256_of(self.folder / path), **(record or {})})

    def note(self, name: str, value: dict[str, Any]) -> None:
        """Keep a record beside the shards."""
        files.write_json(self.folder / "records" / f"{name}.json", value)

    def record(self, name: str) -> dict[str, Any] | None:
        """The record kept under ``name``; None where there is none or it is damaged."""
        try:
            value = json.loads((self.folder / "records" / f"{name}.json").read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def finished(self, path: str) -> dict[str, Any] | None:
        """The record of a shard that is there and whole, or None: then it has to be made."""
        record = self.record(path)
        if record is None or not (self.folder / path).is_file():
            return None
        whole = files.sha256_of(self.folder / path) == record.get("sha256")
        return record if whole else None

    def table(
        self,
        name: str,
        schema: pa.Schema,
        shards: list[tuple[str | None, str]],
        provenance: dict[str, Any],
        extra: list[str] | None = None,
    ) -> Table:
        """The finished table ``name``: ``shards`` are its (split, path), in order."""
        content = ContentHash(schema)
        entries: list[ShardEntry] = []
        first: dict[str | None, int] = {}
        for split, path in shards:
            rows = read_shard(self.folder / path)
            content.update(split or "", rows)
            entry = ShardEntry(
                split=split,
                rows=rows.num_rows,
                first_row=first.get(split, 0),
                **self._file(path),
            )
            first[split] = entry.first_row + entry.rows
            entries.append(entry)
        return Table(
            name,
            TableEntry(
                rows=sum(entry.rows for entry in entries),
                content=content.hexdigest(),
                provenance=provenance,
                shards=entries,
                files=[FileEntry(**self._file(path)) for path in extra or []],
            ),
            self.folder,
        )

    def _file(self, path: str) -> dict[str, Any]:
        full = self.folder / path
        return {"path": path, "bytes": full.stat().st_size, "sha256": files.sha256_of(full)}


def stage_folder(root: Path, step: str, inputs: dict[str, Any]) -> Path:
    """Where the step that makes ``step`` (a table's name) from ``inputs`` keeps its work."""
    key = files.digest(inputs).removeprefix("sha256:")[:16]
    return root / "staging" / f"{step.replace('/', '-')}-{key}"


@contextmanager
def staged(root: Path, step: str, inputs: dict[str, Any]) -> Iterator[Stage]:
    """The step's folder, ours alone while the block runs.

    Raises ConflictError where another process is at the same step.
    """
    folder = stage_folder(root, step, inputs)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(folder.name + ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConflictError(
            f"{root}: another pausedata process is making '{step}' there. Wait for it to end, "
            "then run this again: what it finished is taken as it is."
        ) from None
    try:
        yield Stage(folder)
    finally:
        lock.release()


def discard(tables: list[Table]) -> None:
    """Remove the staging folders of tables that are committed now."""
    for folder in {table.folder for table in tables}:
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_name(folder.name + ".lock").unlink(missing_ok=True)


class Pins:
    """``staging/pins.json``: what was resolved once for this dataset, before its first commit too.

    Keys say what was resolved (``source.revision openai/gsm8k``), so that a recipe that names
    another source or model does not get the old one's value.
    """

    def __init__(self, root: Path, committed: dict[str, Any], *, keep: bool = True) -> None:
        """``committed`` is what the current version pins; ``keep``: whether to pin at all."""
        self._path = root / "staging" / "pins.json"
        self._committed = committed
        self._keep = keep

    def resolve(self, key: str, find: Callable[[], Any], *, anew: bool = False) -> Any:
        """The pinned value; where there is none, or ``anew``, what ``find`` gives, pinned."""
        staged = self._read()
        pinned = None if anew else staged.get(key, self._committed.get(key))
        if pinned is None:
            pinned = find()
        if self._keep and staged.get(key) != pinned:
            files.write_json(self._path, self._read() | {key: pinned})
        return pinned

    def _read(self) -> dict[str, Any]:
        try:
            return json.loads(self._path.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
