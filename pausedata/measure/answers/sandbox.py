"""Runs generated Python where it can do nothing but compute, and says how that ended.

The program runs in a Python of its own (`sandbox_child.py`), which, before it looks at the program,

- loads the modules of `MODULES`, and closes what it does not need;
- limits itself: memory (RLIMIT_AS), processor time (RLIMIT_CPU), no bytes to any file
  (RLIMIT_FSIZE), no core file;
- gives the kernel a seccomp filter that lets through what a computation needs (memory, time,
  reading and writing what is open already, ending) and refuses every other call, for good. So
  nothing is opened (neither files to read nor to write), no socket is made, no process or thread
  is started, nobody is sent a signal, whoever it runs as.

The kernel ends it when it has had its processor time, however busy the machine is; the parent kills
one that only waits, when a far longer time has passed. As it starts nothing, nothing is left. The
filter is of Linux on x86-64 and ARM64; elsewhere nothing is run. What is not kept out: a fault in
the kernel's own few calls that are let through, and reading what the process was given: its memory
and, of the machine, the time. A program that sets out to lie can say that its tests passed: a score
is as honest as the model.
"""

from __future__ import annotations

import math
import os
import platform
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pausedata.core.errors import UsageError

CHILD = Path(__file__).with_name("sandbox_child.py")
MACHINES = ("x86_64", "aarch64", "arm64")
MEGABYTE = 1 << 20
FAR = 10  # times its processor time is the most that a program may take by the clock
_MOST = 4096  # bytes of a result that are read


@dataclass(frozen=True)
class Ran:
    """How a program ended: ``ok``, or what ended it and a line that says more."""

    ended: str  # ok, failed, error, syntax, timeout, memory, forbidden, died
    said: str = ""


def run_python(
    code: str | Sequence[str],
    tests: str = "",
    *,
    seconds: float = 5.0,
    wall: float | None = None,
    memory: int = 512 * MEGABYTE,
) -> Ran:
    """Run ``code``, then ``tests`` in the same namespace; ``failed`` is an AssertionError of them.

    ``code`` may be in parts, which run in turn and are compiled each by itself, so that each may
    begin with ``from __future__``. ``seconds`` of processor time (in whole ones, rounded up), the
    start of Python among them, and ``memory`` in bytes are the most that it may take. ``wall``
    seconds by the clock end what waits rather than computes: `FAR` times ``seconds`` by default.
    UsageError where no sandbox is to be had.
    """
    require()
    parts = [code] if isinstance(code, str) else list(code)
    return _run(parts, tests, math.ceil(seconds), FAR * seconds if wall is None else wall, memory)


@cache
def require() -> None:
    """UsageError unless programs can be run here without harm; tried once."""
    why = None
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        why = f"the sandbox needs Linux on x86-64 or ARM64, this is {sys.platform}"
    else:
        tried = _run([], "", 60, 60.0, 512 * MEGABYTE)
        if tried.ended != "ok":
            why = f"the kernel gives no sandbox here ({tried.said or tried.ended})"
    if why is not None:
        raise UsageError(
            f"generated programs are not run on this machine: {why}. Generate here without the "
            "task, and score where there is one, as in a Linux container."
        )


def _run(code: Sequence[str], tests: str, seconds: int, wall: float, memory: int) -> Ran:
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
        os.kill(process.pid, signal.SIGKILL)

    timer = threading.Timer(wall, kill)
    timer.start()
    used = 0.0
    try:
        assert process.stdin is not None and process.stdout is not None
        given = b"".join(
            len(raw).to_bytes(8, "big") + raw
            for raw in (
                part.encode("utf-8", "backslashreplace")
                for part in (word, str(memory), str(seconds), tests, *code)
            )
        )
        try:
            with process.stdin as pipe:
                pipe.write(given)
        except BrokenPipeError:  # it could not even begin
            pass
        result = process.stdout.read(_MOST)
    finally:
        timer.cancel()
        timer.join()  # from here on nobody else knows the process's number, which may be another's
        used = _reap(process)
        if process.stdout is not None:
            process.stdout.close()
    # Past its limit the kernel ends it, by SIGXCPU or, where it holds that off, a second later by
    # SIGKILL.
    if process.returncode == -signal.SIGXCPU or (process.returncode < 0 and used >= seconds):
        return Ran("timeout", f"it took more than {seconds} s of processor time")
    if late.is_set():
        return Ran("timeout", f"it waited, and was not done after {wall:g} s")
    line = result.decode("utf-8", "replace")
    if not line.startswith(word + " "):
        return Ran("died", "it ended without a result")
    ended, _, said = line[len(word) + 1 :].strip().partition(" ")
    return Ran(ended, said)


def _reap(process: subprocess.Popen[bytes]) -> float:
    """End ``process``, which nobody waited for yet; the seconds of processor time that it took."""
    os.kill(process.pid, signal.SIGKILL)  # Popen's own would wait, and not tell the time
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime
