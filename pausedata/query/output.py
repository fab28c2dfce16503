"""A result as CSV, JSON, JSON lines or Parquet, written batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO, get_args

from pausedata.core.errors import UsageError, listing, nearest
from pausedata.query.run import Result
from pausedata.store.files import replacing

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["table", "csv", "json", "jsonl", "parquet"]
FORMATS: tuple[str, ...] = get_args(Format)
_PIECE_BYTES = 4 << 20
_GROUP_ROWS, _GROUP_BYTES = 122_880, 64 << 20


def write(
    result: Result,
    format: Format,
    output: Path | None,
    stream: TextIO,
    print_table: Callable[[Result, TextIO], int],
) -> int:
    """Write ``result`` to the file ``output``, atomically, or else to ``stream``; how many rows.

    Values in JSON, and in lists in CSV: FLOAT with the fewest digits that tell it apart, NaN and
    infinities null, BLOB as base64, dates, times, decimals and UUIDs as strings. ``print_table``
    draws a ``table``, and says how many rows it has.
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
        return print_table(result, sink)


def chosen_format(format: str | None, output: Path | None) -> Format:
    """``format`` where it is given, else what the ending of ``output`` says, else ``table``.

    UsageError names the nearest format where there is no such one.
    """
    if format is None:
        ending = output.suffix.removeprefix(".").lower() if output else ""
        if ending in ("", "txt"):
            return "table"
        if ending not in FORMATS:
            raise UsageError(
                f"{output}: no format has the ending .{ending}.{nearest(ending, FORMATS)} "
                "Say which with --format."
            )
        return ending  # type: ignore[return-value]
    if format not in FORMATS:
        hint = nearest(format, FORMATS) or f" There: {listing(FORMATS)}."
        raise UsageError(f"--format: unknown format '{format}'.{hint}")
    return format  # type: ignore[return-value]


def _write_csv(result: Result, sink: TextIO) -> int:
    from pausedata.query.texts import csv_quoted, csv_texts, lines

    sink.write(",".join(map(csv_quoted, result.columns)) + "\n")
    rows = 0
    for batch in _pieces(result):
        alone = batch.num_columns == 1
        columns = zip(batch.columns, result.types, strict=True)
        texts = [csv_texts(column, kind, alone) for column, kind in columns]
        parts = [part for text in texts for part in (",", text)][1:]
        sink.write(lines([*parts, "\n"]))
        rows += batch.num_rows
    return rows


def _write_json(result: Result, sink: TextIO) -> int:
    rows = 0
    sink.write("[")
    for text, count in _objects(result, ",\n ", ""):
        sink.write(text if rows else text[1:])
        rows += count
    sink.write("\n]\n" if rows else "]\n")
    return rows


def _write_lines(result: Result, sink: TextIO) -> int:
    rows = 0
    for text, count in _objects(result, "", "\n"):
        sink.write(text)
        rows += count
    return rows


def _objects(result: Result, before: str, after: str) -> Iterator[tuple[str, int]]:
    """Rows as JSON objects, each between ``before`` and ``after``, and how many they are."""
    from pausedata.query.texts import dumps, json_texts, lines

    keys = [f"{', ' if k else '{'}{dumps(name)}: " for k, name in enumerate(result.columns)]
    for batch in _pieces(result):
        texts = (json_texts(c, kind) for c, kind in zip(batch.columns, result.types, strict=True))
        parts = [part for pair in zip(keys, texts, strict=True) for part in pair]
        yield lines([before, *parts, "}" + after]), batch.num_rows


def _pieces(result: Result) -> Iterator[pa.RecordBatch]:
    """The rows in batches of a few megabytes: lists become Python's, which are far larger."""
    for batch in result.arrow(as_text=True):
        rows = max(1, min(batch.num_rows, _PIECE_BYTES * batch.num_rows // (batch.nbytes or 1)))
        for start in range(0, batch.num_rows, rows):
            yield batch.slice(start, rows)


def _write_parquet(result: Result, output: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = 0
    with _naming(output), replacing(output) as temporary:
        reader = result.arrow()
        try:
            writer = pq.ParquetWriter(temporary, reader.schema, compression="zstd")
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise UsageError(
                f"{output}: Parquet has no such type ({str(error).splitlines()[0]}). "
                "Cast the column, for example CAST(x AS VARCHAR)."
            ) from None
        with writer:
            for group in _groups(reader):
                writer.write_table(group)
                rows += group.num_rows
    return rows


def _groups(reader: pa.RecordBatchReader) -> Iterator[pa.Table]:
    """The rows in tables that are worth a row group each, and do not fill the memory."""
    import pyarrow as pa

    held: list[pa.RecordBatch] = []
    for batch in reader:
        held.append(batch)
        if (
            sum(b.num_rows for b in held) >= _GROUP_ROWS
            or sum(b.nbytes for b in held) >= _GROUP_BYTES
        ):
            yield pa.Table.from_batches(held)
            held = []
    if held:
        yield pa.Table.from_batches(held)


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
