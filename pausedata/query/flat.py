"""A flat copy of the tokens in the user's cache: a row for each token, which DuckDB reads itself.

It is made once for the tokens, the scores and the vocabulary that it is made from, and it is never
needed: the views over the shards answer the same, though more slowly.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pausedata.core.cache import cache_folder
from pausedata.core.errors import PausedataError, UsageError
from pausedata.core.progress import Progress
from pausedata.query.sources import Tokens, Vocabulary
from pausedata.store.dataset import Version
from pausedata.store.files import new_folder
from pausedata.store.hashes import file_sha256s

_LAYOUT = 1  # changes whenever the copies would
_ROW_GROUP = 122_880  # what DuckDB gives to a thread at a time
_DONE = "done.json"  # written last: the size and hash of each file


def flat_copy(version: Version, run: str | None, progress: Progress) -> list[Path]:
    """The files with the rows of ``tokens`` for ``run``, made where they are not there yet.

    Columns are those of the view but ``run``. Raises UsageError where the cache cannot be written.
    """
    folder = cache_folder() / "flat" / _key(version, run)
    if (files := _whole(folder)) is not None:
        return files
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = new_folder(folder.parent, ".making-")
    except OSError as error:
        raise UsageError(
            f"{folder.parent}: cannot be written ({error.strerror or error}). A flat copy is kept "
            "in the cache: set PAUSEDATA_CACHE to a folder that can be, or ask without it."
        ) from None
    try:
        _make(version, run, made, progress)
        shutil.rmtree(folder, ignore_errors=True)  # one that is not whole
        with suppress(OSError):  # another process was faster
            made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    if (files := _whole(folder)) is None:
        raise PausedataError(f"{folder}: was not kept. Ask again, or without a flat copy.")
    return files


def _key(version: Version, run: str | None) -> str:
    """What the copy depends on: the values, and how they are cut into shards."""
    names = ["tokens", "vocab", *([f"scores/{run}"] if run is not None else [])]
    tables = [version.manifest.tables[name] for name in names]
    shards = [(shard.split, shard.rows) for shard in version.table("tokens").shards]
    facts = [_LAYOUT, run is None, [table.content for table in tables], shards]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _whole(folder: Path) -> list[Path] | None:
    """The files of a finished copy; None where there is none, or it is not what was written."""
    try:
        recorded: dict[str, str] = json.loads((folder / _DONE).read_text(encoding="utf-8"))
        files = [folder / name for name in recorded]
        whole = file_sha256s(files, keep=True) == list(recorded.values())
    except (OSError, ValueError, AttributeError):
        return None
    return files if whole else None


def _make(version: Version, run: str | None, folder: Path, progress: Progress) -> None:
    source = Tokens(version, run, Vocabulary(version))
    names = [f"{number:05d}.parquet" for number in range(len(source))]

    def write(number: int) -> int:
        columns = source.read(number, source.schema.names, None)
        # With the whole vocabulary as its dictionary each row group would hold all of it.
        columns["token"] = columns["token"].dictionary_decode()
        rows = pa.table({name: columns[name] for name in source.schema.names})
        path = folder / names[number]
        pq.write_table(
            rows, path, compression="zstd", compression_level=1, row_group_size=_ROW_GROUP
        )
        return version.table("tokens").shards[number].rows

    total = version.table("tokens").entry.rows
    with (
        progress.step(f"flat copy, {run or 'no run'}", total, "examples") as advance,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for rows in pool.map(write, range(len(source))):
            advance(rows)
    hashes = file_sha256s([folder / name for name in names], keep=True)
    text = json.dumps(dict(zip(names, hashes, strict=True)), indent=1)
    (folder / _DONE).write_text(text, encoding="utf-8")
