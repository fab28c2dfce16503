"""The loop of an engine's process: messages with work in, messages with scores out."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from pausedata.core.errors import PausedataError, UsageError, reason
from pausedata.scorers.vllm.engine import Engine

# In: ("score", key, examples); ("stop",). Out: ("tokens", key, n); ("scores", key, logprob, rank or
# None, facts), of all examples one after the other; ("warn", message); ("failed", message, kind):
# another engine would run into USAGE and DATA as well.
Message = tuple[Any, ...]
USAGE, DATA, LOST = "usage", "data", "lost"


def serve(
    engine: Engine,
    receive: Callable[[bool], Message | None],
    send: Callable[[Message], None],
    facts: Callable[[], dict[str, Any]],
) -> None:
    """Feed ``engine`` what is received until told to stop.

    ``receive(wait)`` gives the next message; None where there is none and ``wait`` is false.
    ``facts`` is what to tell of the engine with each answer.
    """
    try:
        while True:
            message = receive(not engine.busy)
            if message is not None:
                if message[0] == "stop":
                    return
                _, key, examples = message
                engine.submit(key, examples)
                continue  # what else there is, first: the engine batches it
            steps = engine.step()
            for key, tokens in steps.tokens.items():
                send(("tokens", key, tokens))
            for answer in steps.finished:
                send(("scores", answer.key, answer.logprob, answer.rank, facts()))
    except Exception as error:  # vLLM raises whatever the part that fails raises
        send(failed(error))


def failed(error: Exception) -> Message:
    """The message that tells of an error; the whole of it is printed, for the log."""
    traceback.print_exception(error)
    if isinstance(error, PausedataError):
        return "failed", str(error), USAGE if isinstance(error, UsageError) else DATA
    return "failed", reason(error), LOST
