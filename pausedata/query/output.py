"""A result as CSV, JSON, JSON lines or Parquet, written batch by batch."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TextIO, get_args

from pausedata.errors import UsageError, listing, nearest
from pausedata.query.messages import translated
from pausedata.query.run import Result
from pausedata.query.values import Convert, converter
from pausedata.store.files import replacing

Format = Literal["table", "csv", "json", "jsonl", "parquet"]
FORMATS: tuple[str, ...] = get_args(Format)


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


def chosen_format(format: str | None, output: Path | None) -> Format:
    """``format`` where it is given, else what the ending of ``output`` says, else ``table``.

    UsageError names the nearest format where there is no such one.
    """
    if format is None:
        ending = output.suffix.removeprefix(".") if output else ""
        return ending if ending in FORMATS else "table"  # type: ignore[return-value]
    if format not in FORMATS:
        hint = nearest(format, FORMATS) or f" There: {listing(FORMATS)}."
        raise UsageError(f"--format: unknown format '{format}'.{hint}")
    return format  # type: ignore[return-value]


def json_rows(result: Result) -> Iterator[dict[str, Any]]:
    """The rows as objects that ``json.dumps(…, allow_nan=False)`` takes, keyed by column."""
    converts = [converter(kind) for kind in result.types]
    for batch in result.batches():
        for row in batch:
            values = (c(v) for c, v in zip(converts, row, strict=True))
            yield dict(zip(result.columns, values, strict=True))


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
    fit = convert(value)
    if isinstance(value, float) and fit is None:
        return str(value)  # CSV, unlike JSON, has words for these: nan, inf, -inf
    if isinstance(fit, bool):
        return "true" if fit else "false"
    return _dumps(fit) if isinstance(fit, list | dict) else fit


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
        with writer, translated(result.session):
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
