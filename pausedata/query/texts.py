"""A column's values as the texts that a line of CSV or JSON is put together from.

Whole columns at a time, in Arrow: row by row in Python, twenty million rows take many minutes.
"""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported.

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pausedata.query.values import INTEGERS, LARGE_INTEGERS, as_python, converter, type_name

_JSON_ESCAPED = r'["\\\x00-\x1f]'
_CSV_QUOTED = r'[",\r\n]'


def dumps(value: Any) -> str:
    """JSON on one line, with every character as it is; NaN is an error."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def json_texts(column: pa.Array, kind: Any) -> pa.Array:
    """Each value of a column of DuckDB's type ``kind`` as JSON (cast as ``values.portable`` says).

    Null, NaN and infinities are ``null``.
    """
    name = type_name(kind)
    if name in INTEGERS or name in LARGE_INTEGERS or name == "boolean":
        texts = pc.cast(column, pa.string())
    elif name in ("float", "double"):
        texts = pc.if_else(pc.is_finite(column), _floats(column), pa.scalar(None, pa.string()))
    elif name == "blob":
        texts = _each(column, lambda value: dumps(base64.b64encode(value).decode("ascii")))
    elif name in ("list", "array", "struct", "map"):
        texts = _nested(column, kind)
    else:
        texts = _where(column, _JSON_ESCAPED, dumps, quote='"')
    return pc.fill_null(texts, "null")


def csv_texts(column: pa.Array, kind: Any, alone: bool = False) -> pa.Array:
    """Each value as CSV has it, quoted where it needs it; null is empty, a list is JSON.

    In a column that stands ``alone``, an empty text is ``""``: an empty line would be no row.
    """
    name = type_name(kind)
    if name in INTEGERS or name in LARGE_INTEGERS or name == "boolean":
        texts = pc.cast(column, pa.string())
    elif name in ("float", "double"):
        texts = _floats(column)
    elif name == "blob":
        texts = _each(column, lambda value: base64.b64encode(value).decode("ascii"))
    else:
        if name in ("list", "array", "struct", "map"):
            column = _nested(column, kind)
        texts = _where(column, _CSV_QUOTED, csv_quoted)
    texts = pc.fill_null(texts, "")
    return pc.if_else(pc.equal(texts, ""), '""', texts) if alone else texts


def csv_quoted(text: str) -> str:
    """A field of CSV, in quotes where it needs them."""
    return '"' + text.replace('"', '""') + '"' if re.search(_CSV_QUOTED, text) else text


def lines(parts: Sequence[pa.Array | str]) -> str:
    """The rows' parts, one after the other, row after row. Constants are the same in each."""
    joined = pc.binary_join_element_wise(
        *(pc.cast(p, pa.large_string()) if isinstance(p, pa.Array) else _scalar(p) for p in parts),
        _scalar(""),
    )
    _, offsets, data = joined.buffers()
    ends = pa.Array.from_buffers(pa.int64(), len(joined) + 1, [None, offsets], offset=joined.offset)
    start, end = ends[0].as_py(), ends[-1].as_py()
    return data.slice(start, end - start).to_pybytes().decode("utf-8") if end > start else ""


def _scalar(text: str) -> pa.Scalar:
    return pa.scalar(text, pa.large_string())


def _floats(column: pa.Array) -> pa.Array:
    """With the fewest digits that tell a value apart, and always a point or an exponent."""
    texts = pc.cast(column, pa.string())
    whole = pc.match_substring_regex(texts, r"^-?\d+$")
    if not pc.any(whole).as_py():
        return texts
    return pc.if_else(whole, pc.binary_join_element_wise(texts, ".0", ""), texts)


def _where(
    column: pa.Array, pattern: str, change: Callable[[str], str], quote: str = ""
) -> pa.Array:
    """``change`` of the texts that ``pattern`` matches; the others between two ``quote``."""
    distinct = pc.dictionary_encode(pc.cast(column, pa.string()))  # tokens recur
    texts = distinct.dictionary
    matches = pc.match_substring_regex(texts, pattern)
    plain = pc.binary_join_element_wise(quote, texts, quote, "") if quote else texts
    if pc.any(matches).as_py():
        changed = pa.array([change(text) for text in texts.filter(matches).to_pylist()])
        plain = pc.replace_with_mask(plain, matches, changed)
    return plain.take(distinct.indices)


def _each(column: pa.Array, change: Callable[[Any], str]) -> pa.Array:
    return pa.array([None if v is None else change(v) for v in column.to_pylist()], pa.string())


def _nested(column: pa.Array, kind: Any) -> pa.Array:
    pythonic, convert = as_python(kind) or (lambda value: value), converter(kind)
    return _each(column, lambda value: dumps(convert(pythonic(value))))
