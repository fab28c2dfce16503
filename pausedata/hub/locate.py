"""The folder of a dataset, wherever it is; the Hub's client is imported only for ``hf://``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pausedata.core.progress import Progress
from pausedata.hub.reference import reference


def located(path: str | Path, progress: Callable[[], Progress] | None = None) -> Path:
    """The folder of a dataset; of one on the Hub (``hf://…``) that of its copy in the cache."""
    named = reference(path)
    if named is None:
        return Path(path)
    from pausedata.hub.cached import local_copy  # with it comes the Hub's client

    return local_copy(named, progress() if progress else None)
