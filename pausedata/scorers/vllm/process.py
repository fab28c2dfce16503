"""An engine in a process of its own: starting it, talking to it, and ending it for certain."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from pausedata.core.errors import DataError, PausedataError, UsageError
from pausedata.scorers import EngineLostError, Example
from pausedata.scorers.vllm.engine import EngineScores
from pausedata.scorers.vllm.loop import DATA, USAGE, Message

# Seconds that an engine has to end by itself when told to, and then by SIGTERM.
PATIENCE, MORE_PATIENCE = 5.0, 3.0


# Of an engine and of vLLM's own processes: each line is in the log when it is printed, so that the
# last words before a crash are there too, and no locale keeps a character from being written.
_LOGGED = {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8:backslashreplace"}


class EngineProcess:
    """One engine. `start` it, wait until it is `ready`, then `score` from as many threads as like.

    Its process, and those that vLLM starts from there, are one process group, which is ended when
    this object is closed, when the process ends, or when this Python does, however it ends.
    """

    def __init__(
        self,
        name: str,
        job: Mapping[str, Any],
        environment: Mapping[str, str],
        log: Path,
        warn: Callable[[str], None],
    ) -> None:
        self.name, self.log, self._warn = name, log, warn
        self.facts: dict[str, Any] = {}
        self._job, self._environment = job, environment
        self._keys = count()
        self._sending, self._ending = threading.Lock(), threading.Lock()
        self._waiting: dict[int, queue.SimpleQueue[Message | None]] = {}
        self._lost: PausedataError | None = None
        self._broken = False
        self._ready = threading.Event()
        self._closing = self._ended = False
        self._process: Any = None  # a Popen, once it is started

    @property
    def alive(self) -> bool:
        """Whether it can still score."""
        return self._lost is None and not self._broken

    def start(self) -> None:
        """Start the process; it loads the model meanwhile."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        ours, theirs = Pipe()
        self._pipe = ours
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pausedata.scorers.vllm.worker", str(theirs.fileno())],
                stdin=subprocess.PIPE,  # held open: its end is how the engine learns of ours
                stdout=log,
                stderr=log,
                env=os.environ | _LOGGED | dict(self._environment),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        theirs.close()
        ours.send(dict(self._job))
        threading.Thread(target=self._listen, daemon=True, name=self.name).start()

    def ready(self) -> None:
        """Return when the model is loaded; UsageError or EngineLostError where that failed."""
        self._ready.wait()
        if self._lost is not None:
            raise self._lost

    def score(self, examples: Sequence[Example], on_tokens: Callable[[int], None]) -> EngineScores:
        """The scores of ``examples``; EngineLostError where the engine ends meanwhile."""
        key, messages = next(self._keys), queue.SimpleQueue[Message | None]()
        self._waiting[key] = messages
        try:
            if self._lost is not None:
                raise self._lost
            self._send(("score", key, list(examples)))
            while (message := messages.get()) is not None:
                if message[0] == "scores":
                    return EngineScores(key, *message[2:])
                on_tokens(message[2])
            raise self._lost or EngineLostError(f"{self.name} was closed.")
        finally:
            del self._waiting[key]

    def _send(self, message: Message) -> None:
        try:
            with self._sending:
                self._pipe.send(message)
        except OSError:
            self._broken = True  # nothing more is sent there while its process takes time to end
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(PATIENCE)
            self._fail(EngineLostError(self._obituary()))

    def stop(self) -> None:
        """Tell the engine to end, and make calls under way fail; `close` waits for it."""
        if self._closing or self._process is None:
            return
        self._closing = True
        self._fail(EngineLostError(f"{self.name} was closed."))
        # A unit that is being sent may wait for the engine to take it: then a signal has to do.
        if self._sending.acquire(timeout=1):
            try:
                self._pipe.send(("stop",))
            except OSError:  # it has ended already
                pass
            finally:
                self._sending.release()

    def close(self) -> None:
        """End the engine, gently first: what it does now is given a few seconds.

        Interrupted, it ends the engine at once.
        """
        if self._process is None:  # it was never started
            return
        try:
            self.stop()
            for wait, signal_number in ((PATIENCE, signal.SIGTERM), (MORE_PATIENCE, None)):
                try:
                    self._process.wait(wait)
                    break
                except subprocess.TimeoutExpired:
                    if signal_number is not None:
                        self._signal(signal_number)
        finally:
            self._end()

    def _listen(self) -> None:
        """Give messages to who waits for them, until the engine ends; runs in a thread.

            It goes on when nobody waits any more: an engine that cannot send would never read the
        message that ends it.
        """
        with suppress(OSError, EOFError), self._pipe:
            while True:
                # vLLM's own processes may hold the other end open after the engine's has gone.
                if not self._pipe.poll(0.5):
                    if self._process.poll() is not None and not self._pipe.poll(0.1):
                        break
                    continue
                self._take(self._pipe.recv())
        if self._closing:  # which ends the process, too
            return
        with suppress(subprocess.TimeoutExpired):  # it writes its last words into the log
            self._process.wait(PATIENCE)
        self._fail(EngineLostError(self._obituary()))
        self._end()

    def _take(self, message: Message) -> None:
        kind = message[0]
        if kind == "ready":
            self.facts = message[1]
            self._ready.set()
        elif kind == "warn":
            with suppress(Exception):  # whoever hears it must not end the engine
                self._warn(message[1])
        elif kind == "failed":
            _, text, why = message
            if why in (USAGE, DATA):
                self._fail(UsageError(text) if why == USAGE else DataError(text))
                return
            self._fail(
                EngineLostError(f"{self.name} failed: {self._cause(text)}. {self._see_log()}")
            )
        else:
            waiting = self._waiting.get(message[1])
            if waiting is not None:
                waiting.put(message)

    def _fail(self, error: PausedataError) -> None:
        if self._lost is None:
            self._lost = error
        self._ready.set()
        for waiting in list(self._waiting.values()):
            waiting.put(None)

    def _end(self) -> None:
        """End what is left of the process group, and let go of the pipes."""
        with self._ending:
            if self._ended:  # its number may be another process's by now
                return
            self._ended = True
            self._signal(signal.SIGKILL)
        self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _obituary(self) -> str:
        status = self._process.poll()
        how = "ended"
        if status is not None and status < 0:
            how = f"was ended by {signal.Signals(-status).name}"
            if -status == signal.SIGKILL:
                how += ", as the kernel does where memory runs out"
        return f"{self.name} {how}. {self._see_log()}"

    def _see_log(self) -> str:
        return f"Finished shards are kept, the same command goes on; vLLM's own words: {self.log}"

    def _cause(self, text: str) -> str:
        """The first error in the log where vLLM says that it is there, else ``text``."""
        if "root cause" not in text:
            return text
        with suppress(OSError):
            for line in self.log.read_text("utf-8", errors="replace").splitlines():
                found = re.search(r"\b\w*(?:Error|Exception): .+", line)
                if found:
                    return found[0]
        return text
