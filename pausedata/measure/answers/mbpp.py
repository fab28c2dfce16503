"""MBPP: a program that passes its tests."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pausedata.core.errors import DataError
from pausedata.measure.answers import GradedAnswer
from pausedata.measure.answers.sandbox import require, run_python

_FENCE = re.compile(r"```[ \t]*(?:python|py)?[ \t]*\r?\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
# Where a model that runs on begins something else: as the harnesses for this data set cut.
_END = re.compile(r"\[/?DONE\]|^(?:```|Question:|Instruct:|Output:|# Test|\"\"\")", re.MULTILINE)


@dataclass(frozen=True)
class Checks:
    """What a program has to pass."""

    setup: str
    asserts: tuple[str, ...]


class MBPP:
    """Right where every test of the example passes, in the sandbox.

    The tests are read from the columns ``test_list`` and ``test_setup_code``, which the recipe has
    to keep (`source.keep`).
    """

    name = "mbpp"

    def __init__(self) -> None:
        """UsageError where programs cannot be run without harm."""
        require()

    def reference(self, response: str, meta: dict[str, Any]) -> Checks:
        """The example's tests."""
        tests = meta.get("test_list")
        if not isinstance(tests, list) or not tests or not all(isinstance(t, str) for t in tests):
            raise DataError(
                "task mbpp: an example has no tests in its column 'test_list'. Keep it: "
                "`source: {keep: [test_list, test_setup_code]}` in the recipe."
            )
        return Checks(str(meta.get("test_setup_code") or ""), tuple(tests))

    def score(self, generated: str, reference: Checks) -> GradedAnswer:
        """Run the program of ``generated``, and its tests; ``reason`` says what ended it."""
        code = program(generated)
        if not code.strip():
            return GradedAnswer(False, None, "no-answer")
        ran = run_python(f"{reference.setup}\n{code}", "\n".join(reference.asserts))
        return GradedAnswer(ran.ended == "ok", code, None if ran.ended == "ok" else ran.ended)


def program(text: str) -> str:
    """The program in a generated text: of its first fenced block, else up to where it ends."""
    fenced = _FENCE.search(text)
    if fenced:
        return fenced[1]
    return _END.split(text, maxsplit=1)[0]
