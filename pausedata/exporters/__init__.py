"""Placements to what each trainer reads; each format is registered with its options, typed."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from pausedata.exporters import tokenized
from pausedata.exporters.base import Format, Rows, insert_pauses
from pausedata.registry import Registry

__all__ = ["Format", "Rows", "describe", "get", "insert_pauses", "names", "parse"]

_registry = Registry("format", [tokenized.FORMAT])
names = _registry.names
get = _registry.get
describe = _registry.describe


def parse(format: Format, values: dict[str, Any], where: str) -> BaseModel:
    """``values`` as the format's typed options; UsageError begins with ``where``."""
    return _registry.parse(format, values, where)
