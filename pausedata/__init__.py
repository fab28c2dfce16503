"""Score a corpus token by token, place pauses before the unlikely tokens, export for trainers.

The public API is lazy: ``import pausedata`` loads neither torch, transformers, datasets nor
duckdb, nor even pyarrow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pausedata.core.version import __version__ as __version__

if TYPE_CHECKING:
    from pausedata.core.errors import ConflictError, DataError, PausedataError, UsageError
    from pausedata.dataset import open_dataset as open
    from pausedata.pipeline.build import build
    from pausedata.pipeline.recipe import load_recipe
    from pausedata.query.python import connect

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
    "build": ("pausedata.pipeline.build", "build"),
    "connect": ("pausedata.query.python", "connect"),
    "load_recipe": ("pausedata.pipeline.recipe", "load_recipe"),
    "open": ("pausedata.dataset", "open_dataset"),
    "ConflictError": ("pausedata.core.errors", "ConflictError"),
    "DataError": ("pausedata.core.errors", "DataError"),
    "PausedataError": ("pausedata.core.errors", "PausedataError"),
    "UsageError": ("pausedata.core.errors", "UsageError"),
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
