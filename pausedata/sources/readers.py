"""One reader for each file format: a path in, rows with their place in the file out.

Each yields ``(place, columns)`` or ``(place, Problem)``; the place is ``:17`` (a line, from 1)
or ``[16]`` (an element, from 0). DataError where what follows in the file cannot be read.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from pausedata.core.errors import DataError, UsageError, listing

BOM = b"\xef\xbb\xbf"
CHUNK = 1 << 16  # characters of a JSON array read at a time
JSON_SPACE = re.compile(r"[ \t\r\n]*")
SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True)
class Problem:
    """Why one row cannot be read."""

    reason: str
    detail: str


Item = tuple[str, "dict[str, Any] | Problem"]
Reader = Callable[[Path], Iterator[Item]]


def reader_for(path: Path) -> Reader:
    """The reader for the file's extension; UsageError naming those supported for another."""
    name = path.name.lower()
    for extension, reader in READERS.items():
        if name.endswith(extension) or (
            extension != ".parquet" and name.endswith(f"{extension}.gz")
        ):
            return reader
    raise UsageError(
        f"source.files: '{path.name}' is of no known format, which its extension tells: "
        ".jsonl, .ndjson, .json or .csv (each also .gz), or .parquet."
    )


def read_jsonl(path: Path) -> Iterator[Item]:
    """One JSON object a line; blank lines are no rows."""
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                line = line.removeprefix(BOM)
            if line.strip():
                yield f":{number}", _json_line(line.rstrip())


def _json_line(line: bytes) -> dict[str, Any] | Problem:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return Problem("bad_utf8", f"byte {error.start + 1} of the line is not UTF-8")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        return Problem("bad_json", f"column {error.colno}: {error.msg}")
    except (ValueError, RecursionError) as error:  # an endless number, endless nesting
        return Problem("bad_json", f"column 1: {error}")
    return _checked(value, SURROGATE_ESCAPE.search(line) is not None)


def _checked(value: Any, may_hold_surrogates: bool) -> dict[str, Any] | Problem:
    """``value`` if it is a JSON object whose text can be written as UTF-8."""
    if not isinstance(value, dict):
        return Problem("not_an_object", f"a row is a JSON object, not {_kind(value)}")
    if may_hold_surrogates and not writable(json.dumps(value, ensure_ascii=False)):
        return Problem("bad_utf8", "half a surrogate pair (such as \\ud800), which is no text")
    return value


def writable(text: str) -> bool:
    """Whether ``text`` can be written as UTF-8: half a surrogate pair cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    kinds: dict[type, str] = {bool: "true or false", list: "an array", str: "text"}
    return kinds.get(type(value), "a number")


def read_json(path: Path) -> Iterator[Item]:
    """An array of objects, element by element, so that memory holds one of them at a time."""
    # surrogateescape keeps bytes that are not UTF-8 within their element, which _checked finds.
    with _open(path) as file, _text(file) as text:
        for index, (value, suspect) in enumerate(_elements(text, path.name)):
            yield f"[{index}]", _checked(value, suspect)


def _elements(text: io.TextIOBase, name: str) -> Iterator[tuple[Any, bool]]:
    """The array's elements, each with whether half a surrogate pair may be in it."""
    decoder = json.JSONDecoder()
    buffer, at, line, done = "", 0, 1, False

    def more() -> bool:
        """Read on. For a long element ever more, so that it is not parsed again and again."""
        nonlocal buffer, at, line, done
        line += buffer.count("\n", 0, at)
        buffer, at = buffer[at:], 0
        piece = text.read(max(CHUNK, len(buffer)))
        buffer, done = buffer + piece, not piece
        return not done

    def next_mark() -> str:
        """Skip white space; the character after it, which is not consumed."""
        nonlocal at
        while True:
            space = JSON_SPACE.match(buffer, at)
            at = space.end() if space else at
            if at < len(buffer) or not more():
                return buffer[at : at + 1]

    def broken(message: str) -> DataError:
        return DataError(f"{name}:{line + buffer.count(chr(10), 0, at)}: {message}")

    mark = next_mark()
    if mark != "[":
        hint = " If it has one object a line, name it .jsonl." if mark == "{" else ""
        raise broken(f"a .json file is an array of objects.{hint}")
    at += 1
    mark = next_mark()
    while mark != "]":
        next_mark()
        try:
            value, end = decoder.raw_decode(buffer, at)
        except (ValueError, RecursionError) as error:
            if isinstance(error, ValueError) and not done and more():
                continue
            message = getattr(error, "msg", str(error))
            raise broken(f"broken JSON: {message}, in the element that begins here") from None
        if end == len(buffer) and not done:  # a number may go on in the next piece
            more()
            continue
        element = buffer[at:end]
        at = end
        mark = next_mark()
        if mark not in (",", "]"):
            raise broken("broken JSON: expected ',' or ']' after an element")
        yield value, not writable(element) or "\\u" in element
        at += mark == ","
    at += 1
    if next_mark():
        raise broken("broken JSON: something follows the array")


def read_csv(path: Path) -> Iterator[Item]:
    """Rows under a header line; every value is text, an empty one too. Blank lines are no rows."""
    csv.field_size_limit(max(csv.field_size_limit(), 1 << 30))  # a long text is no error
    with _open(path) as file, _text(file) as text:
        reader = csv.reader(text, strict=True)
        header = _header(reader, path.name)
        while True:
            place = f":{reader.line_num + 1}"
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield place, Problem("bad_csv", f"the row that begins here: {error}")
                continue
            if not cells:
                continue
            if len(cells) != len(header):
                detail = f"{len(cells)} cells, and the header has {len(header)}"
                yield place, Problem("ragged", detail)
            elif not writable("".join(cells)):
                yield place, Problem("bad_utf8", "bytes that are not UTF-8")
            else:
                yield place, dict(zip(header, cells, strict=True))


def _header(reader: Any, name: str) -> list[str]:
    try:
        header = next((cells for cells in reader if cells), [])
    except csv.Error as error:
        raise DataError(f"{name}:1: the header cannot be read: {error}") from None
    if not header:
        raise DataError(f"{name}: is empty. A CSV file begins with a line of column names.")
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice or not writable("".join(header)):
        problem = f"names {listing(twice)} twice" if twice else "is not UTF-8"
        raise DataError(f"{name}:1: the header {problem}.")
    return header


def read_parquet(path: Path) -> Iterator[Item]:
    """The rows, a small batch at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    index = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for value in _batch_rows(batch):
                    yield f"[{index}]", value
                    index += 1
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path.name}: not readable as Parquet: {one_line(error)}") from None


def _batch_rows(batch: Any) -> Iterator[dict[str, Any] | Problem]:
    try:
        yield from cast(list[dict[str, Any]], batch.to_pylist())
        return
    except UnicodeDecodeError:
        pass  # Parquet does not check that strings are UTF-8: find the row that is not
    for index in range(batch.num_rows):
        try:
            yield batch.slice(index, 1).to_pylist()[0]
        except UnicodeDecodeError:
            yield Problem("bad_utf8", "bytes that are not UTF-8")


def parquet_rows(path: Path) -> int:
    """The number of rows, from the file's footer."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path.name}: not readable as Parquet: {one_line(error)}") from None


def one_line(error: object) -> str:
    """The error's text on one line, cut where it is long."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}…"


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    """The file's bytes, unpacked where it is .gz; DataError where they cannot be read."""
    try:
        with path.open("rb") as raw:
            if path.suffix.lower() == ".gz":
                with gzip.open(raw, "rb") as unpacked:
                    yield cast(BinaryIO, unpacked)
            else:
                yield raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path.name}: broken or cut off gzip: {one_line(error)}") from None
    except OSError as error:
        raise DataError(f"{path.name}: cannot be read: {error.strerror or error}") from None


def _text(file: BinaryIO) -> io.TextIOWrapper:
    return io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")


READERS: dict[str, Reader] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".parquet": read_parquet,
}
