"""The release of pausedata: files say which one made them."""

from __future__ import annotations

__version__ = "0.1.0"
