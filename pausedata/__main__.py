"""``pausedata`` and ``python -m pausedata``."""

from __future__ import annotations

import io
import os
import sys

_ENCODING = "_PAUSEDATA_ENCODING"  # says that Python was started again, and what to print in


def main() -> None:
    """Run the command line, in Python's UTF-8 mode where the locale has another encoding.

    Python would read a folder's name in the locale's encoding, and hand it on to libraries (Arrow,
    DuckDB, tokenizers) that take names as UTF-8: they look for another, or fail at its characters.
    What is printed stays in the locale's.
    """
    printed = os.environ.pop(_ENCODING, None)
    if printed is not None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(encoding=printed)
    elif sys.getfilesystemencoding().lower() != "utf-8":
        # Once at most: a person may have turned that mode off (-X utf8=0). The option is for this
        # process, also with -I or -E, the variable for those that it starts.
        started = {_ENCODING: getattr(sys.stdout, "encoding", None) or "utf-8", "PYTHONUTF8": "1"}
        command = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        os.execve(sys.executable, command, os.environ | started)
    from pausedata import cli

    cli.main()


if __name__ == "__main__":
    main()
