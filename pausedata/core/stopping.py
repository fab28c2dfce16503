"""Ctrl-C: in work that has safe points, the first Ctrl-C takes effect at the next of them.

A step that keeps what it finishes says so with `graceful_shutdown`: a stop that is asked for there
comes when what is under way is kept, at `raise_if_stopped`. Everywhere else (a model that loads, a
query, a prompt, rows being read) there is nothing to wait for, and Ctrl-C raises KeyboardInterrupt
at once, as in any program. Nothing that is written is harmed by a stop at any moment; a graceful
one also loses no work.

Nothing here happens unless `listen` was called, as the command line does.
"""

from __future__ import annotations

import _thread
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STOPPING = "stopping at the next safe point (Ctrl-C again stops now) …"


class _State:
    gentle = 0  # how many `graceful_shutdown` blocks the main thread is in
    asked = False  # whether a stop was asked for in one of them
    say: Callable[[str], None] | None = None


def listen(say: Callable[[str], None]) -> None:
    """Take Ctrl-C from now on; ``say`` tells that it was heard where it has to wait.

    A program that is started to ignore it, as by `nohup` or in the background, goes on doing so.
    """
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        _State.gentle, _State.asked, _State.say = 0, False, say
        signal.signal(signal.SIGINT, _on_interrupt)


@contextmanager
def graceful_shutdown() -> Iterator[None]:
    """Work that comes to a safe point soon: the first Ctrl-C waits for it, the second does not.

    The end of the block is such a point. Raises KeyboardInterrupt there if a stop was asked for.
    """
    _State.gentle += 1
    try:
        yield
    except BaseException:
        _State.gentle -= 1
        if not _State.gentle:
            _State.asked = False
        raise
    _State.gentle -= 1
    raise_if_stopped()


def asked() -> bool:
    """Whether a stop was asked for: nothing more is to be begun."""
    return _State.asked


def raise_if_stopped() -> None:
    """Raise KeyboardInterrupt if a stop was asked for: what was finished is kept."""
    if _State.asked:
        if not _State.gentle:
            _State.asked = False
        raise KeyboardInterrupt


def _on_interrupt(number: int, frame: object) -> None:
    if not _State.gentle or _State.asked:
        raise KeyboardInterrupt
    _State.asked = True
    if _State.say is not None:
        # In a thread: the main one may be in the middle of a line, and hold its lock.
        _thread.start_new_thread(_State.say, (STOPPING,))
