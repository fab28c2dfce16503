"""A dataset in Python: its tables as ``pyarrow.dataset``, in batches, as ``datasets``, in SQL."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow.fs import LocalFileSystem

from pausedata import exporters
from pausedata.core.errors import DataError, UsageError, listing, nearest
from pausedata.hub.locate import located
from pausedata.store.dataset import Table, Version, open_version
from pausedata.store.integrity import require_whole
from pausedata.store.manifest import Manifest
from pausedata.store.shards import regrouped, shard_schema, stream_shard
from pausedata.store.tables import is_known, schema_of

if TYPE_CHECKING:
    import datasets
    import duckdb

    from pausedata.query.python import Parameters, Queries


class Dataset:
    """One version of a dataset, opened by ``pausedata.open``; it stays with that version.

    ``examples``, ``tokens``, ``vocab``, ``scores(run)``, ``placements(name)`` and
    ``exports(name)`` are each a ``pyarrow.dataset.Dataset`` over the shards that the manifest
    names, in its order, with the columns that docs/format.md lists. Nothing is read before it is
    asked for::

        data = pausedata.open("build/gsm8k")
        data.scores().to_table(columns=["id", "mean_logprob"])

    A name that is not there is a UsageError, which names the nearest one.
    """

    def __init__(self, version: Version) -> None:
        self._version = version

    def __reduce__(self) -> tuple[object, ...]:
        """In a process that it is sent to, a dataset has a connection for SQL of its own."""
        return Dataset, (self._version,)

    def __repr__(self) -> str:
        return f"<pausedata dataset '{self.manifest.name}', version {self.version}>"

    @property
    def root(self) -> Path:
        """The dataset's folder."""
        return self._version.root

    @property
    def folder(self) -> Path:
        """The version's folder, which the manifest's paths are relative to."""
        return self._version.folder

    @property
    def manifest(self) -> Manifest:
        """Everything about the version."""
        return self._version.manifest

    @property
    def version(self) -> int:
        """The version's number."""
        return self._version.number

    @property
    def number(self) -> int:
        """The version's number: 3 for ``versions/0003``."""
        return self._version.number

    @property
    def splits(self) -> list[str]:
        """The names of the splits, in order."""
        return self._version.splits

    @property
    def runs(self) -> list[str]:
        """The names of the scoring runs."""
        return self._version.runs

    @property
    def placement_names(self) -> list[str]:
        """The names of the placements."""
        return self._version.placements

    @property
    def export_names(self) -> list[str]:
        """The names of the exports."""
        return self._version.exports

    @property
    def examples(self) -> ds.Dataset:
        """``id``, ``split``, ``row``, ``prompt``, ``response``, ``meta``; a row an example."""
        return self._dataset("examples")

    @property
    def tokens(self) -> ds.Dataset:
        """``id``, ``prompt_ids`` [p], and ``response_ids``, ``char_start``, ``char_end`` [n]."""
        return self._dataset("tokens")

    @property
    def vocab(self) -> ds.Dataset:
        """``token_id``, ``token``, ``bytes``, ``special``; a row a token of the vocabulary."""
        return self._dataset("vocab")

    def scores(self, run: str | None = None) -> ds.Dataset:
        """``id``, ``n_tokens``, means, and ``logprob``, ``rank``, ``entropy`` [n] of a run.

        Without ``run``, the recipe's own where it is there, else the first.
        """
        if run is None:
            run = self._version.default_run
        if run is None:
            raise UsageError(f"{self.root}: version {self.version} has no scoring run.")
        return self._dataset(f"scores/{run}")

    def placements(self, name: str) -> ds.Dataset:
        """``id``, ``position`` [k] and ``count`` [k] of the placement ``name``."""
        return self._dataset(f"placements/{name}")

    def exports(self, name: str) -> ds.Dataset:
        """The rows of the export ``name``, with its format's columns."""
        return self._dataset(f"exports/{name}")

    def batches(
        self, *tables: str, rows: int = 1024, split: str | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The rows of several tables side by side, ``rows`` at a time, the last ones fewer.

        ``tables`` are named as in the manifest: ``examples``, ``scores/base``, ``placements/dit``.
        ``id`` stands first, once. Columns of ``examples`` and ``tokens`` go by their own names,
        others by ``TABLE.COLUMN``, so that none collide::

            for batch in data.batches("tokens", "scores/base", rows=512):
                batch["response_ids"], batch["scores/base.logprob"]

        A batch does not span two shards. What is in memory is a row group of each table, however
        large the shards are. Raises DataError where tables do not hold the same examples.
        """
        names = list(dict.fromkeys(tables)) or ["examples"]
        if rows < 1:
            raise UsageError(f"rows is {rows}: a batch has at least one row.")
        if "vocab" in names:
            raise UsageError("vocab has a row for each token, not for each example: use .vocab.")
        chosen = [self._table(name) for name in names]
        self._check_split(split)
        return self._batches(chosen, rows, split)

    def sql(self, query: str, params: Parameters | None = None) -> duckdb.DuckDBPyRelation:
        """The rows of a query over the views that ``pausedata sql`` has, as a relation of DuckDB's.

        Nothing is worked out before the rows are asked for (``.df()``, ``.pl()``, ``.arrow()``,
        ``.fetchall()``), and then each time; relations can be filtered, joined and so on before::

            data.sql("SELECT token, ppl(logprob) FROM tokens WHERE run = ? GROUP BY ALL", ["base"])

        ``params`` are the values of ``?`` (a sequence) or ``$name`` (a mapping). A query only
        reads, and only this dataset: ``pausedata.connect`` may do more. What is wrong with its
        words is a UsageError; what goes wrong when rows are fetched, DuckDB's own error. Any
        thread may ask; a relation belongs to the thread that made it, and outlives the dataset.
        """
        return self._queries.ask(query, params)

    @cached_property
    def _queries(self) -> Queries:
        from pausedata.query.python import Queries

        return Queries(self._version)

    def to_datasets(
        self, table: str = "examples", split: str | None = None, cache_dir: str | Path | None = None
    ) -> datasets.Dataset | datasets.DatasetDict:
        """A table as a ``datasets.DatasetDict``; with ``split``, and of ``vocab``, a ``Dataset``.

        ``datasets`` converts the shards once, into ``cache_dir`` or its own cache, and maps the
        result into memory.
        """
        from datasets import DatasetDict

        found = self._table(table)
        self._check_split(split)
        if not found.splits():  # vocab
            return self._loaded(found, None, cache_dir)
        if split is not None:
            return self._loaded(found, split, cache_dir)
        return DatasetDict({name: self._loaded(found, name, cache_dir) for name in found.splits()})

    def _loaded(
        self, table: Table, split: str | None, cache_dir: str | Path | None
    ) -> datasets.Dataset:
        from datasets import Dataset, Features, NamedSplit, load_dataset

        schema = self._schema(table)
        name = split or "train"
        if not any(shard.rows for shard in table.shards if split in (None, shard.split)):
            # load_dataset refuses a split without rows.
            nothing = {column: [] for column in schema.names}
            features = Features.from_arrow_schema(schema)
            return Dataset.from_dict(nothing, features=features, split=NamedSplit(name))
        if "::" in str(self.folder.absolute()):
            raise UsageError(
                f"{self.root}: `datasets` takes '::' in a path for a chain of addresses. Use a "
                "folder without it."
            )
        return load_dataset(
            "parquet",
            # It takes paths for patterns, which could match files of other folders.
            data_files={name: [glob.escape(str(p.absolute())) for p in self._paths(table, split)]},
            split=name,
            columns=schema.names,
            cache_dir=str(cache_dir) if cache_dir else None,
        )

    def _dataset(self, name: str) -> ds.Dataset:
        table = self._table(name)
        options = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
        return ds.FileSystemDataset.from_paths(
            [str(path.absolute()) for path in self._paths(table)],
            schema=self._schema(table),
            format=ds.ParquetFileFormat(default_fragment_scan_options=options),
            filesystem=LocalFileSystem(),
        )

    def _table(self, name: str) -> Table:
        if name not in self.manifest.tables and "/" not in name:
            there = list(self.manifest.tables)
            raise UsageError(
                f"version {self.version} has no table '{name}'.{nearest(name, there)} "
                f"There: {listing(there)}."
            )
        return self._version.table(name)

    def _check_split(self, split: str | None) -> None:
        if split is not None and split not in self.splits:
            raise UsageError(
                f"version {self.version} has no split '{split}'.{nearest(split, self.splits)} "
                f"There: {listing(self.splits)}."
            )

    def _paths(self, table: Table, split: str | None = None) -> list[Path]:
        """The shards' files, which are what the manifest says: what reads them may not look."""
        shards = [s for s in table.shards if split in (None, s.split)]
        table.need()
        require_whole(table.folder, shards)
        return [table.folder / shard.path for shard in shards]

    def _schema(self, table: Table) -> pa.Schema:
        """The columns that this release knows; of what a later one made, those of the files."""
        if table.name.startswith("exports/"):
            known = exporters.recorded(table.entry.provenance.get("inputs", {}))
            if known is not None:
                return known[0].schema(known[1])
        elif is_known(table.name):
            return schema_of(table.name)
        return shard_schema(table.paths()[0]) if table.shards else pa.schema([])

    def _batches(
        self, tables: list[Table], rows: int, split: str | None
    ) -> Iterator[pa.RecordBatch]:
        for table in tables:
            table.need()
        schemas = [self._schema(table) for table in tables]
        chosen = ([s for s in t.shards if split in (None, s.split)] for t in tables)
        for entries in zip_longest(*chosen):
            if None in entries:
                raise DataError(f"{self.folder}: tables have other shards than each other.")
            require_whole(self.folder, entries)
            shards = tuple(self.folder / entry.path for entry in entries)
            portions = [
                regrouped(stream_shard(path, rows, schema.names), rows)
                for path, schema in zip(shards, schemas, strict=True)
            ]
            for together in zip_longest(*portions):
                yield self._joined(tables, schemas, together, shards)

    def _joined(
        self,
        tables: list[Table],
        schemas: list[pa.Schema],
        portions: tuple[pa.Table | None, ...],
        shards: tuple[Path, ...],
    ) -> pa.RecordBatch:
        """One batch out of the same rows of several tables."""
        ids: Any = None
        columns: dict[str, Any] = {}
        for table, schema, rows, path in zip(tables, schemas, portions, shards, strict=True):
            if rows is None or (columns and len(rows) != len(next(iter(columns.values())))):
                raise DataError(f"{path}: has other rows than the shards beside it.")
            whole = rows.cast(schema).combine_chunks()
            for name in whole.column_names:
                column = whole.column(name).combine_chunks()
                if name == "id":
                    if ids is not None and not ids.equals(column):
                        raise DataError(f"{path}: has other examples than the shards beside it.")
                    ids = column
                own = table.name in ("examples", "tokens")
                columns.setdefault(name if own or name == "id" else f"{table.name}.{name}", column)
        if ids is not None:
            columns = {"id": ids} | columns
        return pa.RecordBatch.from_pydict(columns)


def open_dataset(path: str | Path, version: int | None = None) -> Dataset:
    """Open the dataset at ``path``: the current version, or the one numbered ``version``.

    Raises UsageError where there is no dataset or no such version, and DataError where the
    manifest is damaged or of a format that this release does not read. ``hf://ORG/NAME[@REV]``
    opens a dataset of the Hub: what is read of it is fetched into the cache then.
    """
    return Dataset(open_version(located(path), version))
