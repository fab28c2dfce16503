"""AQuA-RAT: the letter of an option."""

from __future__ import annotations

import re
from typing import Any

from pausedata.core.errors import DataError
from pausedata.measure.answers import GradedAnswer

# A lower-case letter is an option where it stands by itself: "The answer is a fraction" names none.
_LETTER = (
    r"(?:[A-E](?![A-Za-z])"
    r"|[a-e](?=[*_}$\"'`\s]{0,8}(?:\Z|[)\]])"
    r"|[*_]{0,3}(?:[.,;:!](?![A-Za-z0-9])|[ \t]{0,8}\r?\n(?!\s{0,8}[a-z]))))"
)

# Behind #### as our recipes and the paper's reference code write it, else in the phrase with which
# the data set's own rationales mostly end: "The answer is B", "Correct answer - A", "Answer: (C)".
_MARKED = re.compile(r"####\s*\(?([A-E])\b")
_PHRASE = re.compile(
    r"\b(?i:answer|option|choice)\s*(?:(?i:is|:|-|–|=)+\s*)?(?i:option\s*)?\(?"
    rf"({_LETTER})"
)

# What a letter may be dressed in, in Markdown and LaTeX.
_DRESS = r"(?:[*_`$\s\"'(\[]|\\[(\[]|\\(?:boxed|fbox|text|textbf|textrm|mathbf|mathrm|bf)?\{){0,12}"
_NAMED = rf"{_DRESS}(?:(?i:option|choice|answer)\b[\s:]{{0,3}}{_DRESS})?({_LETTER})"
# The lenient reading takes the first of these that names a letter: the first mark, the last box,
# the last phrase. An answer's own words come before those about options, which are many.
_MARK = re.compile(rf"####(?!#){_NAMED}")
_BEHIND = (
    re.compile(rf"(?=\\boxed\{{){_NAMED}"),
    re.compile(
        r"\b(?i:answer|ans)\b[.*_\s]{0,4}(?:(?i:is|:|-|–|=|will be)[*_\s]{0,4}){0,3}"
        rf"{_NAMED}"
    ),
    re.compile(
        rf"(?<![A-Za-z])({_LETTER})[)\]*_`$}}]{{0,6}}\s(?i:is\s(?:the\s)?(?:correct|right|answer))"
    ),
    re.compile(rf"\b(?i:option|choice)\b[\s:]{{0,4}}(?:(?i:is)\b)?{_NAMED}"),
)
_BY_ITSELF = re.compile(
    rf"^{_DRESS}({_LETTER})[)\]*_`$}}\"'.]{{0,8}}[ \t]{{0,8}}\r?$", re.MULTILINE
)
# Of two options none is named, nor one that is turned down, nor a variable or an article.
_NOT_MEANT = re.compile(
    r"['’]|[)\]*_}$\s]{0,6}(?:(?:or|and|/|,|&)[(*\s]{0,4}[A-Ea-e](?![A-Za-z])"
    r"|(?:is|are)\s(?:not\b|in|wrong|false)|isn|[-+=×÷<>^]\s?[0-9A-Za-z])"
)


class AQuA:
    """Exact match of the option's letter."""

    name = "aqua"

    def reference(self, response: str, meta: dict[str, Any]) -> str:
        """The letter in the example's column ``correct`` if that was kept, else its response's."""
        given = meta.get("correct")
        found = given if given in tuple("ABCDE") else strict(response)
        if found is None:
            raise DataError(
                "task aqua: a response names no option (as in '#### B'), and its example has no "
                "column 'correct'. Is it another data set's?"
            )
        return found

    def score(self, generated: str, reference: str) -> GradedAnswer:
        """Right where the letters are equal."""
        forgiven = lenient(generated) == reference
        return GradedAnswer.compared(strict(generated), reference, lenient=forgiven)


def strict(text: str) -> str | None:
    """The letter: behind the first ``####``, else in the last phrase that names one."""
    marked = _MARKED.search(text)
    if marked:
        return marked[1]
    said = _PHRASE.findall(text)
    return said[-1].upper() if said else None


def lenient(text: str) -> str | None:
    """The letter that ``text`` gives as its answer, however written; None where that is open."""
    if marked := _MARK.search(text):
        return _meant(text, marked)
    for form in _BEHIND:
        if said := list(form.finditer(text)):
            return _meant(text, said[-1])
    alone = {found[1].upper() for found in _BY_ITSELF.finditer(text)}
    return alone.pop() if len(alone) == 1 else None


def _meant(text: str, found: re.Match[str]) -> str | None:
    return None if _NOT_MEANT.match(text, found.end(1)) else found[1].upper()
