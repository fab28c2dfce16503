"""Which Chromium looks at the report: of the tests, and of the pictures."""

from __future__ import annotations

import os
import shutil

_NAMES = ["chromium", "chromium-browser", "google-chrome", "chrome"]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def program() -> str:
    """``CHROMIUM``, or what is found; SystemExit where there is none."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        raise SystemExit(
            "no Chromium: install one (apt-get install chromium), or say where: CHROMIUM="
        )
    return found
