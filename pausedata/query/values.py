"""DuckDB's values as JSON has them."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from typing import Any

import numpy as np

Convert = Callable[[Any], Any]


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
    return short_float if name == "float" else _plain


def short_float(value: float | None) -> float | None:
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
