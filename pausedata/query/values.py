"""DuckDB's values as texts, JSON and Python have them."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from typing import Any

from pausedata.query.views import identifier

Convert = Callable[[Any], Any]

# Of these Arrow and JSON have the same idea; everything else is turned into text by DuckDB.
_PLAIN = {
    "varchar", "boolean", "tinyint", "smallint", "integer", "bigint", "utinyint", "usmallint",
    "uinteger", "ubigint", "float", "double", "blob",
}  # fmt: skip
INTEGERS = {k for k in _PLAIN if k.endswith(("int", "integer"))}
LARGE_INTEGERS = {"hugeint", "uhugeint", "bignum"}


def type_name(kind: Any) -> str:
    """The name of DuckDB's type ``kind`` without its parameters: ``list``, ``decimal`` …"""
    return kind.id if hasattr(kind, "id") else str(kind).lower()


def portable(kind: Any) -> str:
    """The SQL type that a column of type ``kind`` is cast to for JSON, empty for none.

    Inside lists, structs and maps the same holds for their parts.
    """
    name = type_name(kind)
    if name in _PLAIN:
        return ""
    if name in ("list", "array"):
        parts = dict(kind.children)
        inner = portable(parts["child"])
        return inner and inner + ("[]" if name == "list" else f"[{parts['size']}]")
    if name == "struct" and all(key for key, _ in kind.children):
        fields = [(key, portable(child), child) for key, child in kind.children]
        if not any(cast for _, cast, _ in fields):
            return ""
        listed = (f"{identifier(key)} {cast or child}" for key, cast, child in fields)
        return f"STRUCT({', '.join(listed)})"
    if name == "map":
        key, value = (child for _, child in kind.children)
        if not (portable(key) or portable(value)):
            return ""
        return f"MAP({portable(key) or key}, {portable(value) or value})"
    return "VARCHAR"


def as_python(kind: Any) -> Convert | None:
    """What makes of a value as Arrow gives it (cast as ``portable`` says) one of Python's.

    None where it is one already. A map becomes a dict, a large integer an int.
    """
    name = type_name(kind)
    if name in LARGE_INTEGERS:
        return lambda value: None if value is None else int(value)
    if name in ("list", "array", "struct", "map"):
        return _nested(kind, lambda child: as_python(child) or _same)
    return None


def converter(kind: Any) -> Convert:
    """What makes a value of DuckDB's type ``kind``, as ``as_python`` left it, fit for JSON."""
    name = type_name(kind)
    if name in ("list", "array", "struct", "map"):
        return _nested(kind, converter)
    if name == "float":
        return short_float
    if name == "double":
        return lambda value: value if value is None or math.isfinite(value) else None
    if name == "blob":
        return lambda value: None if value is None else base64.b64encode(value).decode("ascii")
    return _same


def short_float(value: float | None) -> float | None:
    """The double with the fewest digits that rounds to this FLOAT: -1.2, not -1.2000000476."""
    if value is None or not math.isfinite(value):
        return None
    from numpy import float32  # takes as long as DuckDB does, and few results need it

    return float(str(float32(value)))


def _nested(kind: Any, convert: Callable[[Any], Convert]) -> Convert:
    name = type_name(kind)
    if name in ("list", "array"):
        inner = convert(dict(kind.children)["child"])
        return lambda value: None if value is None else [inner(item) for item in value]
    if name == "map":
        of_key, of_value = (convert(child) for _, child in kind.children)

        def map_(value: Any) -> Any:  # Arrow gives pairs
            pairs = value.items() if isinstance(value, dict) else value
            return pairs if pairs is None else {str(of_key(k)): of_value(v) for k, v in pairs}

        return map_
    fields = {key: convert(child) for key, child in kind.children}
    if not all(fields):
        return _same  # a tuple, which DuckDB made a text
    return lambda value: (
        None if value is None else {key: fit(value[key]) for key, fit in fields.items()}
    )


def _same(value: Any) -> Any:
    return value
