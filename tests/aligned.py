"""Whole tables of a version side by side, as tests look at them."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from pausedata.store.dataset import Version
from pausedata.store.manifest import ShardEntry


def aligned(version: Version, *names: str) -> Iterator[tuple[ShardEntry, list[pa.Table]]]:
    """Each shard of the first table, and the rows of that shard in all of them."""
    tables = [version.table(name) for name in names]
    for shards in zip(*(table.shards for table in tables), strict=True):
        yield shards[0], [t.read(shard) for t, shard in zip(tables, shards, strict=True)]
