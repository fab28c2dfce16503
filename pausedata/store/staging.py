"""Work in progress: one folder for each step, keyed by all that decides what the step makes."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from filelock import BaseFileLock, FileLock, Timeout

from pausedata.core.errors import ConflictError
from pausedata.core.progress import Progress
from pausedata.store import files
from pausedata.store.content import ContentHash
from pausedata.store.dataset import Table
from pausedata.store.manifest import FileEntry, ShardEntry, TableEntry
from pausedata.store.shards import parse_shard_name, read_shard, write_shard


class _Series:
    """The shards of one table and split, hashed as they are written, from the first one on."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.content = ContentHash(schema)
        self.rows: dict[str, int] = {}  # by path, in order

    def add(self, path: str, rows: pa.Table) -> None:
        self.content.update("", rows)
        self.rows[path] = rows.num_rows


class Stage:
    """The folder of one step. Shards in it are whole, and stay until the step is committed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._series: dict[str, _Series] = {}
        self._sha256: dict[str, str] = {}  # of the shards that were written or checked here

    def write(self, path: str, rows: pa.Table, record: dict[str, Any] | None = None) -> None:
        """Write the shard ``path`` (as in the manifest) with what is to be known of its making."""
        # The values are hashed while the shard is written: both are work outside Python.
        with ThreadPoolExecutor(1) as beside:
            hashed = beside.submit(self._follow, path, rows)
            write_shard(self.folder / path, rows)
            hashed.result()
        self._sha256[path] = files.sha256_of(self.folder / path)
        # The record is written after the shard, and holds its hash: both there means both whole.
        self.note(path, {"sha256": self._sha256[path], **(record or {})})

    def adopt(self, shard: Path, path: str) -> None:
        """Take a whole shard from elsewhere as ``path``."""
        (self.folder / path).unlink(missing_ok=True)
        files.link_or_copy(shard, self.folder / path)
        self._sha256[path] = files.sha256_of(self.folder / path)
        self.note(path, {"sha256": self._sha256[path]})

    def remove(self, path: str) -> None:
        """Remove a shard that is no longer needed, and what was known of it."""
        (self.folder / path).unlink(missing_ok=True)
        self._record_path(path).unlink(missing_ok=True)
        self._sha256.pop(path, None)

    def note(self, name: str, value: dict[str, Any]) -> None:
        """Keep a record beside the shards."""
        files.write_json(self._record_path(name), value)

    def record(self, name: str) -> dict[str, Any] | None:
        """The record kept under ``name``; None where there is none or it is damaged."""
        try:
            value = json.loads(self._record_path(name).read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def finished(self, path: str) -> dict[str, Any] | None:
        """The record of a shard that is there and whole, or None: then it has to be made."""
        record = self.record(path)
        if record is None or not (self.folder / path).is_file():
            return None
        sha256 = files.sha256_of(self.folder / path)
        if sha256 != record.get("sha256"):
            return None
        self._sha256[path] = sha256
        return record

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
        for split in dict.fromkeys(split for split, _ in shards):
            paths = [path for other, path in shards if other == split]
            first = 0
            for path, rows in self._hash(content, schema, split or "", paths).items():
                entries.append(
                    ShardEntry(split=split, rows=rows, first_row=first, **self._file(path))
                )
                first += rows
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

    def _record_path(self, name: str) -> Path:
        return self.folder / "records" / f"{name}.json"

    def _follow(self, path: str, rows: pa.Table) -> None:
        """Hash a shard's values with those of the shards before it, if all were written here."""
        name, number = parse_shard_name(path)
        if number == 0:
            self._series[name] = _Series(rows.schema)
        series = self._series.get(name)
        if series is None:
            return
        if len(series.rows) == number and series.schema.equals(rows.schema):
            series.add(path, rows)
        else:
            del self._series[name]

    def _hash(
        self, content: ContentHash, schema: pa.Schema, split: str, paths: list[str]
    ) -> dict[str, int]:
        """Put a split's rows into ``content``; the rows of each shard, by path."""
        series = self._series.get(parse_shard_name(paths[0])[0])
        if series is not None and list(series.rows) == paths and series.schema.equals(schema):
            content.adopt(split, series.content)
            return series.rows
        counts = {}
        for path in paths:  # written by another process, or not in this order
            rows = read_shard(self.folder / path)
            content.update(split, rows)
            counts[path] = rows.num_rows
        return counts

    def _file(self, path: str) -> dict[str, Any]:
        full = self.folder / path
        sha256 = self._sha256.get(path) or files.sha256_of(full)
        return {"path": path, "bytes": full.stat().st_size, "sha256": sha256}


def stage_folder(root: Path, step: str, inputs: dict[str, Any]) -> Path:
    """Where the step that makes ``step`` (a table's name) from ``inputs`` keeps its work."""
    key = files.digest(inputs).removeprefix("sha256:")[:16]
    return root / "staging" / f"{step.replace('/', '-')}-{key}"


Made = TypeVar("Made")


class BusyError(ConflictError):
    """Another process is at a step that this one needs; ``wait`` returns when it has ended."""

    def __init__(self, message: str, lock: Path) -> None:
        super().__init__(message)
        self._lock = lock

    def wait(self) -> None:
        """Return when the other process has let go of the step, or died."""
        with FileLock(self._lock):
            if not self._lock.with_suffix("").exists():  # done, and our wait made the lock again
                self._lock.unlink(missing_ok=True)


class Staging:
    """The stages of one command. Each is ours alone until the command has committed, or failed.

    Were a stage let go when its step ends, a second process could take it up, make the same again
    and find it gone when the first commits.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._locks: dict[Path, BaseFileLock] = {}

    def stage(self, step: str, inputs: dict[str, Any]) -> Stage:
        """The folder in which ``step`` (a table's name) is made from ``inputs``.

        Raises BusyError where another process is at the same step.
        """
        folder = stage_folder(self._root, step, inputs)
        if folder not in self._locks:
            path = folder.with_name(folder.name + ".lock")
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path, thread_local=False)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise BusyError(
                    f"{self._root}: another pausedata process{_holder(path)} is making "
                    f"'{step}' there.",
                    path,
                ) from None
            self._locks[folder] = lock
            _sign(path)
        folder.mkdir(parents=True, exist_ok=True)
        return Stage(folder)

    def discard(self, tables: list[Table]) -> None:
        """Remove the stages of tables that are committed now, and let go of them."""
        for folder in {table.folder for table in tables}:
            shutil.rmtree(folder, ignore_errors=True)
            self._let_go(folder)

    def drop(self, stage: Stage) -> None:
        """Remove a stage of which nothing is to be committed, and let go of it."""
        shutil.rmtree(stage.folder, ignore_errors=True)
        self._let_go(stage.folder)

    def _let_go(self, folder: Path) -> None:
        if lock := self._locks.pop(folder, None):
            # While it is ours: who waits for this file notices that it has gone.
            folder.with_name(folder.name + ".lock").unlink(missing_ok=True)
            lock.release()

    def close(self) -> None:
        """Let go of all stages; what is in them stays for the next time."""
        while self._locks:
            self._locks.popitem()[1].release()


def when_free(make: Callable[[], Made], progress: Progress) -> Made:
    """What ``make`` makes; where another process is at one of its steps, after waiting for that.

    It begins anew then: what the other has committed is there, and is not made twice.
    """
    while True:
        try:
            return make()
        except BusyError as busy:
            progress.say(f"{busy} Waiting for it to end …")
            busy.wait()


def _sign(lock: Path) -> None:
    """Write into a lock's file who holds it, for the others to read."""
    text = lock.read_text("utf-8", errors="replace")
    if text[:1] in ("", "{"):  # a lock without flock keeps notes of its own there
        # No host: a dataset that is copied in the middle of a step tells nothing of its machine.
        said = {"pid": os.getpid(), "since": time.strftime("%F %T")}
        lock.write_text(json.dumps(said), "utf-8")


def _holder(lock: Path) -> str:
    """`` (process 12, since …)`` from what the holder wrote; empty where that cannot be read."""
    try:
        said = json.loads(lock.read_text("utf-8"))
        return f" (process {said['pid']}, since {said['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


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
