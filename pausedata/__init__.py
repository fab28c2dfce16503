"""Score a corpus token by token, place pauses before the unlikely tokens, export for trainers.

The public API is lazy: ``import pausedata`` loads neither torch, transformers, datasets nor
duckdb, nor even pyarrow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pausedata.build import build
    from pausedata.dataset import open_dataset as open
    from pausedata.errors import ConflictError, DataError, PausedataError, UsageError
    from pausedata.query.python import connect
    from pausedata.recipe import load_recipe

__all__ = [
    "ConflictError",
    "DataError",
    "PausedataError",
    "UsageError",
    "build",
    "connect",
    "load_recipe",
    "open",
]

_HOMES = {
    "build": ("pausedata.build", "build"),
    "connect": ("pausedata.query.python", "connect"),
    "load_recipe": ("pausedata.recipe", "load_recipe"),
    "open": ("pausedata.dataset", "open_dataset"),
    "ConflictError": ("pausedata.errors", "ConflictError"),
    "DataError": ("pausedata.errors", "DataError"),
    "PausedataError": ("pausedata.errors", "PausedataError"),
    "UsageError": ("pausedata.errors", "UsageError"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pausedata' has no attribute '{name}'")
    from importlib import import_module

    module, attribute = _HOMES[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
