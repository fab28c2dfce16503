"""Where pausedata keeps what it can make again: hashes of large files, converted models."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``PAUSEDATA_CACHE``, else ``XDG_CACHE_HOME/pausedata``, else ``~/.cache/pausedata``.

    It need not be there. Without a home folder it is a path at which nothing can be written.
    """
    own, shared = os.environ.get("PAUSEDATA_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        folder = Path(own) if own else Path(shared or "~/.cache") / "pausedata"
        return folder.expanduser().absolute()
    except RuntimeError:  # no home folder
        return Path(os.devnull) / "pausedata"
