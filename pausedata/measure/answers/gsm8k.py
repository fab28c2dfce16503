"""GSM8K: the number behind ``####``."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from typing import Any

from pausedata.core.errors import DataError
from pausedata.measure.answers import GradedAnswer
from pausedata.measure.answers.numerals import Read, read_number

# As the data set's own code (openai/grade-school-math, dataset.py) and the strict match of
# lm-evaluation-harness read it; the currency that some models write before it is allowed.
_ANSWER = re.compile(r"####\s*(?:\$\s*)?(-?\$?[0-9][0-9,]*(?:\.[0-9]+)?|-?\.[0-9]+)")

# Where the lenient reading looks: behind the marks; else in the last box, or the last such phrase.
_MARK = re.compile(r"####(?!#)")
_BOX = re.compile(r"(?=\\boxed\{[^}]{0,800}\})")
_PHRASE = re.compile(
    r"\banswer[*_]{0,2}\s{0,2}(?:(?:is|was|:|=)[*_]{0,2}\s{0,2}){1,2}(?:exactly\s)?", re.IGNORECASE
)


class GSM8K:
    """Exact match of the first number behind ``####``, as a number: 1,000.0 is 1000."""

    name = "gsm8k"

    def reference(self, response: str, meta: dict[str, Any]) -> Decimal:
        """The number in the example's own response."""
        found = strict(response)
        if found is None:
            raise DataError(
                "task gsm8k: a response has no number behind '####'. Is it another data set's?"
            )
        return found

    def score(self, generated: str, reference: Decimal) -> GradedAnswer:
        """Right where the numbers are equal."""
        said = lenient(generated)
        forgiven = said is not None and said == Fraction(reference)
        return GradedAnswer.compared(strict(generated), reference, lenient=forgiven)


def strict(text: str) -> Decimal | None:
    """The first number behind ``####``."""
    found = _ANSWER.search(text)
    return Decimal(found[1].replace(",", "").replace("$", "")) if found else None


def lenient(text: str) -> Fraction | None:
    """The number that ``text`` gives as its answer, however written; None where that is open."""
    # LaTeX's ways to write a thousands separator; and a box that is cut off has no whole number.
    text = text.replace("{,}", ",").replace(r"\,", "\u2009")
    for place, chosen in ((_MARK, 0), (_BOX, -1), (_PHRASE, -1)):
        there = (read_number(text, found.end()) for found in place.finditer(text))
        numbers: list[Read] = [number for number in there if number is not None]
        if numbers:
            return numbers[chosen].value
    return None
