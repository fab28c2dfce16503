"""Rows from the Hub or from files, and templates that make examples of them.

`open_source` opens what a recipe's `source` (`spec.Source`) names; `templates.Renderer` makes
prompts and responses of its rows.
"""

from __future__ import annotations

from pathlib import Path

from pausedata.sources.records import BadRow, OpenSource, Row, UnreachedSource, is_local_hub
from pausedata.sources.spec import Source

__all__ = ["BadRow", "OpenSource", "Row", "UnreachedSource", "is_local_hub", "open_source"]


def open_source(source: Source, folder: Path, revision: str | None = None) -> OpenSource:
    """Open what ``source`` names; relative paths are relative to ``folder``, the recipe's.

    ``revision`` is the commit to read from the Hub; files and local folders ignore it. Raises
    UsageError where a file, dataset, config or split is missing, naming those there are.
    """
    if source.hub is None:
        from pausedata.sources.files import FilesSource

        return FilesSource(source, folder)
    from pausedata.sources.hub import HubSource

    return HubSource(source, folder, revision)
