"""The log of a command: all that it says, with times, in a file that is appended to."""

from __future__ import annotations

import re
import sys
import threading
import time
from pathlib import Path

from pausedata.core.errors import UsageError

_USER = re.compile(r"(?<=://)[^/@\s]+@")  # user and password of an address
HIDDEN = "[a secret]"


class LogFile:
    """Appends lines with a time in front. No secret of this process is ever among them."""

    def __init__(self, path: Path) -> None:
        """UsageError where ``path`` cannot be written to; what is in the file stays."""
        try:
            self._file = path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
        except OSError as error:
            raise UsageError(
                f"--log-file {path}: {error.strerror or error}. Name a file that can be written, "
                "in a folder that is there."
            ) from None
        from pausedata.hub.scan import KEYS, own_secrets

        keys = [*(f"(?:{key})" for key in KEYS.values()), *map(re.escape, own_secrets())]
        self._secrets = re.compile("|".join(keys))
        self._lock = threading.Lock()
        self._broken = False

    def write(self, message: str) -> None:
        """Append ``message``, each of its lines with the time.

        Work goes on where the log cannot be written any more: a warning says so, once.
        """
        when = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        hidden = _USER.sub(f"{HIDDEN}@", self._secrets.sub(HIDDEN, message))
        with self._lock:
            if self._broken:
                return
            try:
                for line in hidden.splitlines() or [""]:
                    self._file.write(f"{when} {line}\n")
            except (OSError, ValueError) as error:
                self._broken = True
                print(f"warning: the log ends here: {error}", file=sys.stderr)

    def close(self) -> None:
        """Write nothing more."""
        with self._lock:
            self._broken = True
            self._file.close()
