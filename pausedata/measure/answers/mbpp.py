"""MBPP: a program that passes its tests."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pausedata.core.errors import DataError
from pausedata.measure.answers import GradedAnswer
from pausedata.measure.answers.sandbox import require, run_python

# A fenced block, up to its end or the text's; of its info string the first word is the language:
# ```python3, ```{.python}, ```py title="x".
_FENCE = re.compile(
    r"(?<!`)(?P<ticks>`{3,})[ \t]*(?:\{[ \t]*)?\.?(?P<language>[^\s`{}.,:]*)"
    r"[^\n`]*\n(?P<code>.*?)(?:(?P=ticks)|\Z)",
    re.DOTALL,
)
_PYTHON = ("python", "python3", "py", "py3", "ipython", "ipython3")
# Where a model that runs on begins something else: as the harnesses for this data set cut.
_END = re.compile(r"\[/?DONE\]|^(?:```|Question:|Instruct:|Output:|# Test|\"\"\")", re.MULTILINE)
# What a program may begin with that is no end: blank lines, comments, a docstring.
_COMMENTS = re.compile(r"(?:[ \t]*(?:#[^\n]*)?\n)*")
_DOCSTRING = re.compile("[rRuU]?(\"\"\"|''')")
# What a program makes at its top, and what a test calls.
_MADE = re.compile(
    r"^(?:(?:async[ \t]+)?def|class)[ \t]+(\w+)|^(\w+)[ \t]*(?::[^=\n]*)?=(?!=)", re.MULTILINE
)
_CALLED = re.compile(r"\b([^\W\d]\w*)[ \t]*\(")


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
        code = program(generated, reference.asserts)
        if not any(part.strip() for part in code):
            return GradedAnswer(False, False, None, "no-answer")
        ran = run_python([reference.setup, *code], "\n".join(reference.asserts))
        right = ran.ended == "ok"
        return GradedAnswer(right, right, "\n".join(code), None if right else ran.ended)


def program(text: str, tests: Sequence[str] = ()) -> list[str]:
    """The program in a generated text, in the parts in which it stands there.

    Of fenced blocks those that are said to be Python, or, where none is, those of no language. They
    count up to the first by which what ``tests`` call is made: what comes behind it is an example
    of its use, a second thought, or the next question. Where there are no blocks, or where the text
    before them makes it, it is the text up to where it ends.
    """
    fenced = list(_FENCE.finditer(text))
    called = _called("\n".join(tests))
    if not fenced or called & _made(text[: fenced[0].start()]):
        return [_unfenced(text)]
    said = [block for block in fenced if block["language"].lower() in _PYTHON]
    blocks = [_code(block) for block in said or [b for b in fenced if not b["language"]]]
    wanted = called & {name for block in blocks for name in _made(block)}
    if not wanted:
        return blocks[:1]
    last, there = 0, _made(blocks[0])
    while not wanted <= there:
        last += 1
        there |= _made(blocks[last])
    # Before it may stand what it needs, or what shows how it is to be called.
    return [b for b in blocks[:last] if not _shows(b, wanted - _made(b))] + [blocks[last]]


def _code(block: re.Match[str]) -> str:
    """What stands in a fenced block, without the indentation that all of it shares."""
    code = block["code"]
    return textwrap.dedent(code) if code.lstrip("\r\n")[:1] in (" ", "\t") else code


def _called(code: str) -> set[str]:
    return set(_CALLED.findall(code))


def _shows(code: str, wanted: set[str]) -> bool:
    """Whether ``code`` is a session, or calls what it does not make."""
    return code.lstrip().startswith(">>>") or bool(_called(code) & wanted)


def _made(code: str) -> set[str]:
    return {function or name for function, name in _MADE.findall(code)}


def _unfenced(text: str) -> str:
    """The text up to where it ends, which it does not in what it begins with."""
    begun = 0
    for _ in range(2):  # comments may stand before a docstring, and behind it
        comments = _COMMENTS.match(text, begun)
        begun = comments.end() if comments else begun
        opened = _DOCSTRING.match(text, begun)
        closed = text.find(opened[1], opened.end()) if opened else -1
        if opened is None or closed < 0:
            break
        begun = closed + 3
    return text[:begun] + _END.split(text[begun:], maxsplit=1)[0]
