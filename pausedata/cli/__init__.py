"""The command line: parses, calls, prints. No logic of its own.

`main` runs it. A file for each group of commands; `render/` draws what they show.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import warnings
from typing import Any

from pausedata.cli.app import app
from pausedata.cli.common import Terminated, answer, warn
from pausedata.core import stopping

_show_warning = warnings.showwarning
_COMPLETE = "_PAUSEDATA_COMPLETE"  # Typer's variable, which its shell scripts set


def main() -> None:
    """Run the command line; the process ends with the exit status that the command gives."""
    signal.signal(signal.SIGTERM, _terminate)
    stopping.listen(answer)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without UTF-8 gets marks, no error
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _warn
    if os.environ.get(_COMPLETE, "").startswith("complete_"):
        _complete()
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Terminated:
        sys.exit(143)


def _complete() -> None:
    """Answer the shell, which waits for a completion: names or nothing, and no error."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):  # noqa: PTH123
        try:
            app()
        except Exception:
            sys.exit(1)


def _warn(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    if category.__module__.partition(".")[0] == "pausedata":
        warn(str(message))
    else:
        _show_warning(message, category, *where, **more)


def _terminate(signum: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # cleaning up is not to be cut short
    raise Terminated
