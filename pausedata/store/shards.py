"""Shards: Parquet files that any tool reads, and how rows are shared out among them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pausedata.core.errors import DataError, first_line
from pausedata.store.files import replacing

_NUMBERED = re.compile(r"(.+)-(\d{5,})-of-\d{5,}\.parquet")

# A shard is what a kill can cost: about five minutes of scoring a 135M model on two CPU cores.
SHARD_TOKENS = 250_000
# More shards than this make a dataset slow to open; larger shards then, up to the cap.
MANY_SHARDS = 1_000
MOST_SHARD_TOKENS = 10_000_000
# The Hub viewer refuses row groups over 286 MiB in memory; the format promises 100 MB. Smaller ones
# let a reader of one example skip the rest of a large shard, and cost nothing: what is compressed
# together is a page, of which a column has several even here.
ROW_GROUP_BYTES = 16_000_000
# Bytes a response token and microseconds to write it, for examples, tokens and a run together, on
# GSM8K (scores drawn like 20,000 real ones): 12.4 and 0.6 at level 3, 12.1 and 0.8 at 6, 12.0 and
# 1.2 at 9, 11.9 and 2.0 at 11. benchmarks/size.py prints the bytes of any dataset.
COMPRESSION_LEVEL = 9
# Scores are what is large and dear: from level 9 to 17 a log-probability goes from 3.18 to 2.95
# bytes and an entropy from 3.38 to 3.31, for a microsecond a token; 19 takes another for nothing.
FLOAT_LEVEL = 17

# How columns are encoded: by name, or else by type; with bytes a response token, measured on the
# same shards of about 163,000 of them. What is named in neither gets a dictionary, which falls back
# to plain values. BYTE_STREAM_SPLIT would serve integers too (a span 0.53, ranks 0.38 instead of
# 0.46), but DuckDB reads that only from 2.0 on. Content-defined chunks made tokens 3% larger, and
# let nothing be shared with the same corpus grown at its front: a column of a shard is hardly more
# than a page.
_BY_NAME = {
    # Texts repeat phrases, which zstd finds where ids stay whole: response_ids 0.89, by dictionary
    # 1.03, by differences 1.81.
    "prompt_ids": "PLAIN",
    "response_ids": "PLAIN",
    "input_ids": "PLAIN",
    "labels": "PLAIN",
    # What ascends: char_start 0.63, plain the same in twice the time, by dictionary 0.78.
    "char_start": "DELTA_BINARY_PACKED",
    "char_end": "DELTA_BINARY_PACKED",
    "row": "DELTA_BINARY_PACKED",
    "token_id": "DELTA_BINARY_PACKED",
    "n_tokens": "DELTA_BINARY_PACKED",
}


def _encoding(name: str, kind: pa.DataType) -> str | None:
    """The encoding of a column whose values, or items, are of type ``kind``; None: dictionary."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    if pa.types.is_floating(kind):  # of 20,000 real ones: logprob 3.60, plain 3.72, dictionary 5.61
        return "BYTE_STREAM_SPLIT"
    if pa.types.is_string(kind) or pa.types.is_binary(kind):  # id 0.140, by dictionary 0.165
        return "DELTA_LENGTH_BYTE_ARRAY"
    if pa.types.is_boolean(kind):
        return "PLAIN"
    return None


def choose_shard_rows(examples: int, tokens: int) -> int:
    """Examples a shard, for a corpus of ``examples`` with ``tokens`` in all."""
    budget = min(max(SHARD_TOKENS, tokens // MANY_SHARDS), MOST_SHARD_TOKENS)
    return max(1, math.ceil(budget * examples / max(tokens, 1)))


def shard_name(split: str, number: int, count: int) -> str:
    """``train-00000-of-00004.parquet``: the naming that ``datasets`` and the Hub know."""
    return f"{split}-{number:05d}-of-{count:05d}.parquet"


def parse_shard_name(path: str) -> tuple[str, int]:
    """The part before the number, and the number; without one, the whole name and 0."""
    found = _NUMBERED.fullmatch(path)
    return (found[1], int(found[2])) if found else (path, 0)


def write_shard(path: Path, rows: pa.Table) -> None:
    """Write one shard, atomically; equal rows give equal bytes under one release of pyarrow."""
    with replacing(path) as temporary, open_shard(temporary, rows.schema) as writer:
        write_rows(writer, rows)


def open_shard(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A Parquet writer with the format's settings."""
    encodings = {leaf: _encoding(name, kind) for name, leaf, kind in _leaves(schema)}
    levels = {
        leaf: FLOAT_LEVEL if pa.types.is_floating(kind) else COMPRESSION_LEVEL
        for _, leaf, kind in _leaves(schema)
    }
    by_dictionary = [leaf for leaf, encoding in encodings.items() if encoding is None]
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        compression_level=levels,
        use_dictionary=by_dictionary or False,  # pyright: ignore[reportArgumentType]: may be a list
        column_encoding={leaf: name for leaf, name in encodings.items() if name is not None},
        write_page_index=True,
        write_page_checksum=True,
    )


def write_rows(writer: pq.ParquetWriter, rows: pa.Table) -> None:
    """Append ``rows`` in row groups of a size that the Hub viewer takes."""
    if not rows.num_rows:
        return  # no row group at all: `datasets` stumbles over one without rows
    each = max(1, int(ROW_GROUP_BYTES * rows.num_rows / max(rows.nbytes, 1)))
    writer.write_table(rows.combine_chunks(), row_group_size=each)


def read_shard(path: Path, columns: list[str] | None = None, threads: bool = True) -> pa.Table:
    """A shard's rows, whole; its page checksums are verified."""
    with _reading(path):
        # Not read_table, which spends a fifth more on a shard, as if it were a folder of them.
        with pq.ParquetFile(path, page_checksum_verification=True, memory_map=False) as file:
            rows = file.read(columns, use_threads=threads)
        return rows if columns is None else rows.select(columns)


def shard_schema(path: Path) -> pa.Schema:
    """A shard's columns."""
    with _reading(path):
        return pq.read_schema(path, memory_map=False)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what reading a shard may raise into a DataError."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(
            f"{path}: the shard is missing. `pausedata verify` says what else is."
        ) from None
    except (pa.ArrowException, OSError, UnicodeDecodeError, KeyError) as error:
        raise DataError(
            f"{path}: cannot be read as Parquet ({first_line(error)}). "
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
    """The rows of ``tables`` in portions of exactly ``rows``; the last may be smaller."""
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


def _leaves(schema: pa.Schema) -> list[tuple[str, str, pa.DataType]]:
    """Each column's name, its leaf's path in Parquet, and the type of its values or items."""
    return [
        (field.name, f"{field.name}.list.element", field.type.value_type)
        if pa.types.is_list(field.type)
        else (field.name, field.name, field.type)
        for field in schema
    ]
