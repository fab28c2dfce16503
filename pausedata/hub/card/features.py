"""What ``datasets`` knows of each table, without reading its rows: features and splits."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pyarrow as pa

from pausedata import exporters
from pausedata.store.dataset import Table, Version
from pausedata.store.shards import shard_schema
from pausedata.store.tables import is_known, schema_of


def dataset_infos(version: Version, tables: Collection[str]) -> dict[str, dict[str, Any]]:
    """The ``dataset_info`` of each of ``tables`` that has splits, as the Hub's YAML has it."""
    from datasets import DatasetInfo, Features, SplitDict, SplitInfo

    found = {}
    for name in tables:
        table = version.table(name)
        schema = _schema(table)
        if schema is None or not table.splits():
            continue
        splits = SplitDict()
        for split in table.splits():
            shards = [shard for shard in table.shards if shard.split == split]
            splits.add(SplitInfo(split, sum(s.bytes for s in shards), sum(s.rows for s in shards)))
        size = sum(shard.bytes for shard in table.shards)
        info = DatasetInfo(
            features=Features.from_arrow_schema(schema),
            splits=splits,
            download_size=size,
            dataset_size=size,
        )
        found[name] = info._to_yaml_dict()
    return found


def _schema(table: Table) -> pa.Schema | None:
    """The columns; None where only the files could tell, which are not here."""
    if table.shards and not table.absent:
        return shard_schema(table.folder / table.shards[0].path)
    if table.name.startswith("exports/"):
        known = exporters.recorded(table.entry.provenance.get("inputs", {}))
        return known[0].schema(known[1]) if known else None
    return schema_of(table.name) if is_known(table.name) else None
