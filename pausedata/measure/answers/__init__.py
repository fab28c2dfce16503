"""Whether a generated answer is right: the tasks of the paper's Table 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from pausedata.core.errors import UsageError, listing, nearest

# How answers are read, for what keeps their marks: raised where any task reads a text otherwise.
READING = 2


@dataclass(frozen=True)
class GradedAnswer:
    """One answer: whether it is right, what was read off it, and why it is not right.

    ``right`` is by the task's strict reading, whose figures others publish too. ``lenient`` is by
    the reading that forgives how an answer is written, or by the strict one: what is right is so
    leniently, too.
    """

    right: bool
    lenient: bool
    answer: str | None = None  # as the strict reading has it
    reason: str | None = None  # None where it is right; no-answer, wrong, timeout …

    @classmethod
    def compared(cls, found: Any, reference: Any, *, lenient: bool) -> GradedAnswer:
        """Right where ``found``, what the answer says (None: nothing), equals ``reference``."""
        if found is None:
            return cls(False, lenient, None, "no-answer")
        right = found == reference
        return cls(right, right or lenient, str(found), None if right else "wrong")


class Task(Protocol):
    """How answers of one kind are read and compared."""

    name: str

    def reference(self, response: str, meta: dict[str, Any]) -> Any:
        """What a right answer is, from an example's response and ``meta``.

        DataError where the example does not say.
        """
        ...

    def score(self, generated: str, reference: Any) -> GradedAnswer:
        """Whether ``generated``, a text without pauses, is right."""
        ...


TASKS: dict[str, str] = {
    "gsm8k": "pausedata.measure.answers.gsm8k:GSM8K",
    "aqua": "pausedata.measure.answers.aqua:AQuA",
    "mbpp": "pausedata.measure.answers.mbpp:MBPP",
}
#: Tasks that have a lenient reading beside the strict one: a program passes its tests or does not.
LENIENT = ("gsm8k", "aqua")


def get(name: str) -> Task:
    """The task ``name``; UsageError where there is none, or where it cannot be had here."""
    from importlib import import_module

    if name not in TASKS:
        raise UsageError(f"--task: no '{name}'.{nearest(name, TASKS)} There: {listing(TASKS)}.")
    module, _, task = TASKS[name].partition(":")
    return getattr(import_module(module), task)()
