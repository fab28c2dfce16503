"""Whether a generated answer is right: the tasks of the paper's Table 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from pausedata.core.errors import UsageError, listing, nearest


@dataclass(frozen=True)
class GradedAnswer:
    """One answer: whether it is right, what was read off it, and why it is not right."""

    right: bool
    answer: str | None = None
    reason: str | None = None  # None where it is right; no-answer, wrong, timeout …

    @classmethod
    def compared(cls, found: Any, reference: Any) -> GradedAnswer:
        """Right where ``found``, what the answer says (None: nothing), equals ``reference``."""
        if found is None:
            return cls(False, None, "no-answer")
        right = found == reference
        return cls(right, str(found), None if right else "wrong")


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


def get(name: str) -> Task:
    """The task ``name``; UsageError where there is none, or where it cannot be had here."""
    from importlib import import_module

    if name not in TASKS:
        raise UsageError(f"--task: no '{name}'.{nearest(name, TASKS)} There: {listing(TASKS)}.")
    module, _, task = TASKS[name].partition(":")
    return getattr(import_module(module), task)()
