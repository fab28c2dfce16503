"""Shards: Parquet files that any tool reads, and how rows are shared out among them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pausedata.errors import DataError
from pausedata.store.files import replacing

# A shard is what a kill can cost: about five minutes of scoring a 135M model on two CPU cores.
SHARD_TOKENS = 250_000
# More shards than this make a dataset slow to open; larger shards then, up to the cap.
MANY_SHARDS = 1_000
MOST_SHARD_TOKENS = 10_000_000
# The Hub viewer refuses row groups over 286 MiB in memory; the format promises 100 MB.
ROW_GROUP_BYTES = 64_000_000


def choose_shard_rows(examples: int, tokens: int) -> int:
    """Examples a shard, for a corpus of ``examples`` with ``tokens`` in all."""
    budget = min(max(SHARD_TOKENS, tokens // MANY_SHARDS), MOST_SHARD_TOKENS)
    return max(1, math.ceil(budget * examples / max(tokens, 1)))


def shard_name(split: str, number: int, count: int) -> str:
    """``train-00000-of-00004.parquet``: the naming that ``datasets`` and the Hub know."""
    return f"{split}-{number:05d}-of-{count:05d}.parquet"


def write_shard(path: Path, rows: pa.Table) -> None:
    """Write one shard, atomically; equal rows give equal bytes under one release of pyarrow."""
    with replacing(path) as temporary, open_shard(temporary, rows.schema) as writer:
        write_rows(writer, rows)


def open_shard(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A Parquet writer with the format's settings."""
    floats = [leaf for leaf, kind in _leaves(schema) if pa.types.is_floating(kind)]
    others = [leaf for leaf, kind in _leaves(schema) if not pa.types.is_floating(kind)]
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=others,  # pyright: ignore[reportArgumentType]: a list, says its docs
        use_byte_stream_split=floats,  # pyright: ignore[reportArgumentType]
        write_page_index=True,
        write_page_checksum=True,
    )


def write_rows(writer: pq.ParquetWriter, rows: pa.Table) -> None:
    """Append ``rows`` in row groups of a size that the Hub viewer takes."""
    if not rows.num_rows:
        return  # no row group at all: `datasets` stumbles over one without rows
    each = max(1, int(ROW_GROUP_BYTES * rows.num_rows / max(rows.nbytes, 1)))
    writer.write_table(rows.combine_chunks(), row_group_size=each)


def read_shard(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A shard's rows, whole; its page checksums are verified."""
    with _reading(path):
        return pq.read_table(
            path,
            columns=columns,
            page_checksum_verification=True,
            partitioning=None,  # pyright: ignore[reportArgumentType]: no columns from the path
            memory_map=False,
        )


def shard_schema(path: Path) -> pa.Schema:
    """A shard's columns."""
    with _reading(path):
        return pq.read_schema(path, memory_map=False)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What reading a shard may raise, as DataError."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(
            f"{path}: the shard is missing. `pausedata verify` says what else is."
        ) from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read as Parquet ({_first_line(error)}). "
            "`pausedata verify` says what else is damaged."
        ) from None


def stream_shard(path: Path, rows: int, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """A Parquet file's rows, ``rows`` at a time."""
    with (
        _reading(path),
        pq.ParquetFile(path, memory_map=False, page_checksum_verification=True) as file,
    ):
        for batch in file.iter_batches(rows, columns=columns):
            yield pa.Table.from_batches([batch], schema=batch.schema)


def regrouped(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in portions of exactly ``rows``, the last one smaller."""
    held: list[pa.Table] = []
    count = 0
    for table in tables:
        held.append(table)
        count += table.num_rows
        while count >= rows:
            whole = pa.concat_tables(held)
            yield whole.slice(0, rows).combine_chunks()
            rest = whole.slice(rows)
            held, count = [rest], rest.num_rows
    if count:
        yield pa.concat_tables(held).combine_chunks()


def _leaves(schema: pa.Schema) -> list[tuple[str, pa.DataType]]:
    """Parquet's column paths with the types at their ends."""
    return [
        (f"{field.name}.list.element", field.type.value_type)
        if pa.types.is_list(field.type)
        else (field.name, field.type)
        for field in schema
    ]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
