"""``pausedata`` and ``python -m pausedata``."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line, in Python's UTF-8 mode where the locale has another encoding.

    Python would read a folder's name in the locale's encoding, and hand it on to libraries (Arrow,
    DuckDB, tokenizers) that take names as UTF-8: they look for another, or fail at its characters.
    What is printed stays in the locale's.
    """
    if sys.getfilesystemencoding().lower() != "utf-8":
        printed = getattr(sys.stdout, "encoding", None) or "utf-8"  # None where it is closed
        environment = {"PYTHONIOENCODING": printed} | os.environ | {"PYTHONUTF8": "1"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    from pausedata import cli

    cli.main()


if __name__ == "__main__":
    main()
