"""A result as CSV, JSON, JSON lines or Parquet, written batch by batch."""

from __future__ import annotations

import base64
import csv
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np

from pausedata.errors import UsageError
from pausedata.query.run import Result, translated
from pausedata.store.files import replacing

Format = Literal["table", "csv", "json", "jsonl", "parquet"]
Convert = Callable[[Any], Any]


def write(
    result: Result,
    format: Format,
    output: Path | None,
    stream: TextIO,
    console_width: int | None = None,
) -> int | None:
    """Write ``result`` to the file ``output``, atomically, or else to ``stream``.

    Values in JSON, and in lists in CSV: FLOAT with the fewest digits that tell it apart, NaN and
    infinities null, BLOB as base64, dates, times, decimals and UUIDs as strings. ``table`` is as
    wide as ``console_width`` (None: the terminal). Returns the number of rows, None for ``table``.
    Raises UsageError for ``parquet`` without ``output``, and where ``output`` cannot be written.
    """
    if format == "parquet":
        if output is None:
            raise UsageError("Parquet is no text: say which file to write with -o FILE.parquet")
        return _write_parquet(result, output)
    with _opened(output, stream) as sink:
        if format == "csv":
            return _write_csv(result, sink)
        if format == "json":
            return _write_json(result, sink)
        if format == "jsonl":
            return _write_lines(result, sink)
        from pausedata.report.table import print_result

        print_result(result, sink, console_width)
        return None


def json_rows(result: Result) -> Iterator[dict[str, Any]]:
    """The rows as objects that ``json.dumps(…, allow_nan=False)`` takes, keyed by column."""
    converts = [converter(kind) for kind in result.types]
    for batch in result.batches():
        for row in batch:
            values = (c(v) for c, v in zip(converts, row, strict=True))
            yield dict(zip(result.columns, values, strict=True))


def converter(kind: Any) -> Convert:
    """What makes a value of DuckDB's type ``kind`` fit for JSON."""
    name = kind.id if hasattr(kind, "id") else str(kind).lower()
    if name in ("list", "array"):
        inner = converter(dict(kind.children)["child"])
        return lambda value: None if value is None else [inner(item) for item in value]
    if name == "struct":
        fields = {key: converter(child) for key, child in kind.children}
        return lambda value: (
            None if value is None else {key: convert(value[key]) for key, convert in fields.items()}
        )
    return _float32 if name == "float" else _plain


def _float32(value: float | None) -> float | None:
    """The double with the fewest digits that rounds to this FLOAT: -1.2, not -1.2000000476."""
    if value is None or not math.isfinite(value):
        return None
    return float(str(np.float32(value)))


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(bytes(value)).decode("ascii")
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    return str(value)


def _write_csv(result: Result, sink: TextIO) -> int:
    converts = [converter(kind) for kind in result.types]
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(result.columns)
    rows = 0
    for batch in result.batches():
        for row in batch:
            writer.writerow(_cell(v, c) for v, c in zip(row, converts, strict=True))
        rows += len(batch)
    return rows


def _cell(value: Any, convert: Convert) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # CSV has a word for it: nan, inf, -inf
    value = convert(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return _dumps(value) if isinstance(value, list | dict) else value


def _write_json(result: Result, sink: TextIO) -> int:
    rows = 0
    sink.write("[")
    for row in json_rows(result):
        sink.write(",\n " if rows else "\n ")
        sink.write(_dumps(row))
        rows += 1
    sink.write("\n]\n" if rows else "]\n")
    return rows


def _write_lines(result: Result, sink: TextIO) -> int:
    rows = 0
    for row in json_rows(result):
        sink.write(_dumps(row) + "\n")
        rows += 1
    return rows


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _write_parquet(result: Result, output: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = 0
    with _naming(output), replacing(output) as temporary:
        reader = result.arrow()
        schema = pa.schema(
            [f.with_name(n) for f, n in zip(reader.schema, result.columns, strict=True)]
        )
        try:
            writer = pq.ParquetWriter(temporary, schema, compression="zstd")
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise UsageError(
                f"{output}: Parquet has no such type ({str(error).splitlines()[0]}). "
                "Cast the column, for example CAST(x AS VARCHAR)."
            ) from None
        with writer, translated(result.sql, result.version, result.connection):
            for batch in reader:
                writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
                rows += batch.num_rows
    return rows


@contextmanager
def _opened(output: Path | None, stream: TextIO) -> Iterator[TextIO]:
    if output is None:
        yield stream
        return
    with (
        _naming(output),
        replacing(output) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as sink,
    ):
        yield sink


@contextmanager
def _naming(output: Path) -> Iterator[None]:
    """An error of the file system that names the file which was asked for."""
    if output.is_dir():
        raise UsageError(f"{output}: is a folder; -o names the file to write.")
    try:
        yield
    except OSError as error:
        raise UsageError(f"{output}: cannot be written: {error.strerror or error}.") from None
