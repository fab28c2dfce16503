"""Runs generated Python where it can do nothing but compute, and says how that ended.

The program runs in a Python of its own (`sandbox_child.py`), which, before it looks at the program,

- loads the modules of `MODULES`, and closes what it does not need;
- limits itself: memory (RLIMIT_AS), processor time (RLIMIT_CPU), no bytes to any file
  (RLIMIT_FSIZE), no core file;
- gives the kernel a seccomp filter that lets through what a computation needs (memory, time,
  reading and writing what is open already, ending) and refuses every other call, for good. So
  nothing is opened (neither files to read nor to write), no socket is made, no process or thread
  is started, nobody is sent a signal, whoever it runs as.

The parent kills it when its time is over; as it starts nothing, nothing is left. The filter is of
Linux on x86-64 and ARM64; elsewhere nothing is run. What is not kept out: a fault in the kernel's
own few calls that are let through, and reading what the process was given: its memory and, of the
machine, the time. A program that sets out to lie can say that its tests passed: a score is as
honest as the model.
"""

from __future__ import annotations

import platform
import secrets
import subprocess
import sys
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pausedata.core.errors import UsageError

CHILD = Path(__file__).with_name("sandbox_child.py")
MACHINES = ("x86_64", "aarch64", "arm64")
MEGABYTE = 1 << 20
_MOST = 4096  # bytes of a result that are read


@dataclass(frozen=True)
class Ran:
    """How a program ended: ``ok``, or what ended it and a line that says more."""

    ended: str  # ok, failed, error, syntax, timeout, memory, forbidden, died
    said: str = ""


def run_python(
    code: str, tests: str = "", *, seconds: float = 5.0, memory: int = 512 * MEGABYTE
) -> Ran:
    """Run ``code``, then ``tests`` in the same namespace; ``failed`` is an AssertionError of them.

    ``seconds`` of wall-clock time and ``memory`` in bytes are the most that it may take, the start
    of Python among them. UsageError where no sandbox is to be had.
    """
    require()
    return _run(code, tests, seconds, memory)


@cache
def require() -> None:
    """UsageError unless programs can be run here without harm; tried once."""
    why = None
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        why = f"the sandbox needs Linux on x86-64 or ARM64, this is {sys.platform}"
    else:
        tried = _run("", "", 60.0, 512 * MEGABYTE)
        if tried.ended != "ok":
            why = f"the kernel gives no sandbox here ({tried.said or tried.ended})"
    if why is not None:
        raise UsageError(
            f"generated programs are not run on this machine: {why}. Generate here without the "
            "task, and score where there is one, as in a Linux container."
        )


def _run(code: str, tests: str, seconds: float, memory: int) -> Ran:
    # Only who was given this word before the program began can say how it ended: a program that
    # ends the process, with whatever status, says nothing.
    word = secrets.token_hex(16)
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-X", "utf8", str(CHILD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={"PYTHONHASHSEED": "0"},
        start_new_session=True,  # a Ctrl-C of the command would be told as its end
    )
    late = threading.Event()

    def kill() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(seconds, kill)
    timer.start()
    try:
        assert process.stdin is not None and process.stdout is not None
        parts = [word, str(memory), str(max(1, int(seconds) + 1)), code, tests]
        given = b"".join(
            len(raw).to_bytes(8, "big") + raw
            for raw in (part.encode("utf-8", "backslashreplace") for part in parts)
        )
        try:
            with process.stdin as pipe:
                pipe.write(given)
        except BrokenPipeError:  # it could not even begin
            pass
        result = process.stdout.read(_MOST)
    finally:
        timer.cancel()
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    if late.is_set():
        return Ran("timeout", f"it took more than {seconds:g} s")
    line = result.decode("utf-8", "replace")
    if not line.startswith(word + " "):
        return Ran("died", "it ended without a result")
    ended, _, said = line[len(word) + 1 :].strip().partition(" ")
    return Ran(ended, said)
