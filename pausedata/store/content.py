"""Content hashes: a sha256 over a table's values, whatever wrote them and however sharded.

docs/format.md ("Content hash") defines the canonical form; change neither without the other.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa

from pausedata.store.files import digest


class ContentHash:
    """The hash of a table, whose rows are fed in order, in portions of any size, split by split."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._splits: dict[str, dict[str, _Column]] = {}
        self._rows: dict[str, int] = {}

    def update(self, split: str, rows: pa.Table) -> None:
        """Add the next rows of ``split`` (the empty string for a table without splits)."""
        columns = self._splits.setdefault(
            split, {field.name: _Column(field.type) for field in self._schema}
        )
        self._rows[split] = self._rows.get(split, 0) + rows.num_rows
        for name, column in columns.items():
            for chunk in rows.column(name).chunks:
                column.update(chunk)

    def adopt(self, split: str, other: ContentHash) -> None:
        """Take what ``other`` was fed under the empty split for all the rows of ``split``."""
        self._splits[split] = other._splits[""]
        self._rows[split] = other._rows[""]

    def hexdigest(self) -> str:
        """``sha256:…`` over all that was fed; the order of splits does not matter."""
        return digest(
            {
                split: {
                    "rows": self._rows[split],
                    "columns": {name: column.summary() for name, column in columns.items()},
                }
                for split, columns in self._splits.items()
            }
        )


class _Column:
    """Up to three streams of one column: which rows are not null, their lengths, their values.

    A struct has its fields, and a list of what is not plain numbers its items, as columns of
    their own.
    """

    def __init__(self, kind: pa.DataType) -> None:
        self._kind = kind
        self._nested = pa.types.is_list(kind)
        self._sized = self._nested or pa.types.is_string(kind) or pa.types.is_binary(kind)
        self._valid, self._lengths, self._values = (hashlib.sha256() for _ in range(3))
        self._items = (
            _Column(kind.value_type) if self._nested and not _is_plain(kind.value_type) else None
        )
        fields = [kind.field(k) for k in range(kind.num_fields)] if _is_struct(kind) else []
        self._fields = {field.name: _Column(field.type) for field in fields}

    def update(self, array: Any) -> None:
        valid = np.ones(len(array), np.uint8)
        if array.null_count:
            valid = array.is_valid().to_numpy(zero_copy_only=False).astype(np.uint8)
        self._valid.update(valid.tobytes())
        if self._fields:
            for column, part in zip(self._fields.values(), array.flatten(), strict=True):
                column.update(part)
            return
        if not self._sized:
            self._values.update(_bytes_of(array))
            return
        array = array.drop_null() if array.null_count else array
        if self._items is not None:
            offsets = array.offsets.to_numpy(zero_copy_only=False)
            self._items.update(array.values.slice(offsets[0], offsets[-1] - offsets[0]))
        else:
            offsets, values = _parts(array, self._nested)
            self._values.update(values)
        lengths = np.zeros(len(valid), "<i8")
        lengths[valid == 1] = np.diff(offsets)
        self._lengths.update(lengths.tobytes())

    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = {"type": _name(self._kind), "valid": self._valid.hexdigest()}
        if self._fields:
            fields = {name: column.summary() for name, column in self._fields.items()}
            return found | {"fields": fields}
        if self._sized:
            found["lengths"] = self._lengths.hexdigest()
        if self._items is not None:
            return found | {"items": self._items.summary()}
        return found | {"values": self._values.hexdigest()}


def _is_plain(kind: pa.DataType) -> bool:
    """Whether values are numbers or booleans: each takes the same number of bytes."""
    return pa.types.is_primitive(kind)


def _is_struct(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind)


def _name(kind: pa.DataType) -> str:
    """The type's name; that of a list leaves out the name that Arrow gives its items."""
    if pa.types.is_list(kind):
        return f"list<{_name(kind.value_type)}>"
    if _is_struct(kind):
        fields = (kind.field(k) for k in range(kind.num_fields))
        return f"struct<{', '.join(f'{field.name}: {_name(field.type)}' for field in fields)}>"
    return str(kind)


def _parts(array: Any, nested: bool) -> tuple[np.ndarray, Any]:
    """A column of strings, bytes or lists, without nulls: offsets, and the bytes of its values."""
    if nested:
        offsets = array.offsets.to_numpy(zero_copy_only=False)
        if len(offsets) == 0:
            return np.zeros(1, np.int64), b""
        items = array.values.slice(offsets[0], offsets[-1] - offsets[0])
        if items.null_count:
            raise ValueError("a list holds nulls, which the format does not allow")
        return offsets, _bytes_of(items)
    _, offset_buffer, data = array.buffers()
    if len(array) == 0 or offset_buffer is None:
        return np.zeros(1, np.int64), b""
    offsets = np.frombuffer(offset_buffer, np.int32)[array.offset : array.offset + len(array) + 1]
    return offsets, memoryview(data or b"")[offsets[0] : offsets[-1]]


def _bytes_of(array: pa.Array) -> Any:
    """Little-endian values one after another; a bool is a byte, a null a zero."""
    if array.null_count:
        array = array.fill_null(False if pa.types.is_boolean(array.type) else 0)
    values = array.to_numpy(zero_copy_only=False)
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    return np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
