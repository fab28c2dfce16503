"""One item made while the one before it is used."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def prefetch(items: Iterator[T]) -> Iterator[T]:
    """Yield the items; while one is used, a thread makes the next one and no more."""
    end: Any = object()
    with ThreadPoolExecutor(1) as beside:
        coming = beside.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = beside.submit(next, items, end)
            yield item
