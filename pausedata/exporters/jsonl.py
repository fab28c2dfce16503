"""Arrow rows as JSON lines: the bytes of ``json.dumps``, without a Python loop over rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

# Elements of the longest column that are turned into text at once, and the widest range of
# integers for which a table of their texts is kept: memory, and Arrow's 32-bit offsets.
_AT_ONCE = 4 << 20
_WIDEST = 1 << 22
pc: Any = pyarrow.compute  # whose functions are made when it is imported


def json_lines(rows: pa.Table) -> Iterator[bytes]:
    """The rows, one JSON object a line: no spaces, keys in the schema's order, UTF-8 as it is."""
    for portion in _portions(rows):
        parts: list[Any] = []
        before = "{"
        for name in portion.column_names:
            parts.append(f"{before}{json.dumps(name, ensure_ascii=False)}:")
            parts.append(_texts(portion.column(name).combine_chunks()))
            before = ","
        parts.append("}\n" if portion.column_names else "{}\n")
        scalars = [part if isinstance(part, pa.Array) else pa.scalar(part) for part in parts]
        whole = pc.binary_join_element_wise(*scalars, "")
        whole = whole.combine_chunks() if isinstance(whole, pa.ChunkedArray) else whole
        yield _bytes_of(whole)


def _portions(rows: pa.Table) -> Iterator[pa.Table]:
    """The rows in parts of about ``_AT_ONCE`` elements."""
    if not rows.num_rows:
        return
    each = max(1, rows.num_rows * _AT_ONCE // max(1, rows.nbytes // 4))
    for first in range(0, rows.num_rows, each):
        yield rows.slice(first, each)


def _bytes_of(texts: pa.StringArray) -> bytes:
    """An array's texts, one after another."""
    offsets = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset :][: len(texts) + 1]
    return memoryview(texts.buffers()[2])[offsets[0] : offsets[-1]].tobytes()


def _texts(column: pa.Array) -> pa.StringArray:
    """Each value as JSON: [rows]."""
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
    kind = column.type
    if (
        pa.types.is_list(kind)
        and pa.types.is_integer(kind.value_type)
        and not column.null_count
        and not column.values.null_count
    ):
        offsets = column.offsets.to_numpy()
        values = column.values.slice(offsets[0], offsets[-1] - offsets[0])
        inner = _joined(offsets - offsets[0], values.to_numpy(zero_copy_only=False))
        return pc.binary_join_element_wise("[", inner, "]", "")
    dumped = [json.dumps(v, separators=(",", ":"), ensure_ascii=False) for v in column.to_pylist()]
    return pa.array(dumped, pa.string())


def _joined(offsets: np.ndarray, values: np.ndarray) -> pa.StringArray:
    """Lists of integers as ``1,2,3``: [rows], from offsets and elements."""
    if not len(values):
        return pa.array([""] * (len(offsets) - 1), pa.string())
    low, high = int(values.min()), int(values.max())
    lengths = np.diff(offsets)
    if low == high:  # as a mask of ones
        once, more = str(low), pa.array(np.maximum(lengths - 1, 0))
        repeated = pc.binary_repeat(pa.scalar(f"{once},"), more)
        last = pa.array(np.array(["", once], object)[(lengths > 0).astype(int)], pa.string())
        return pc.binary_join_element_wise(repeated, last, "")
    if high - low >= _WIDEST:
        texts = pa.array(values).cast(pa.string())
        lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), texts)
        return pc.binary_join(lists, ",")
    # Each element's text is looked up, with a comma before it but for the first of a row: then
    # the texts, which Arrow lays one behind another, are the rows' texts already.
    span = high - low + 1
    at = values.astype(np.int64) - low + span
    firsts = offsets[:-1][lengths > 0]
    at[firsts] -= span
    texts = pc.take(_table(low, high), pa.array(at), boundscheck=False)
    bounds = np.frombuffer(texts.buffers()[1], np.int32)[: len(texts) + 1][offsets]
    return pa.StringArray.from_buffers(
        len(offsets) - 1, pa.py_buffer(bounds.astype(np.int32)), texts.buffers()[2]
    )


@lru_cache(maxsize=8)
def _table(low: int, high: int) -> pa.StringArray:
    """The integers from ``low`` to ``high`` as text, then the same with a comma before."""
    plain = pa.array(np.arange(low, high + 1)).cast(pa.string())
    return pa.concat_arrays([plain, pc.binary_join_element_wise("", plain, ",")])
