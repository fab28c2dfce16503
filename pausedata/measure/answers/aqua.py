"""AQuA-RAT: the letter of an option."""

from __future__ import annotations

import re
from typing import Any

from pausedata.core.errors import DataError
from pausedata.measure.answers import GradedAnswer

# Behind #### as our recipes and the paper's reference code write it, else in the phrase with which
# the data set's own rationales mostly end: "The answer is B", "Correct answer - A", "Answer: (C)".
_MARKED = re.compile(r"####\s*\(?([A-E])\b")
_PHRASE = re.compile(
    r"\b(?:answer|option|choice)\s*(?:is|:|-|–|=)*\s*(?:option\s*)?\(?([A-E])(?![A-Za-z])",
    re.IGNORECASE,
)


class AQuA:
    """Exact match of the option's letter."""

    name = "aqua"

    def reference(self, response: str, meta: dict[str, Any]) -> str:
        """The letter in the example's column ``correct`` if that was kept, else its response's."""
        given = meta.get("correct")
        found = given if given in tuple("ABCDE") else _read(response)
        if found is None:
            raise DataError(
                "task aqua: a response names no option (as in '#### B'), and its example has no "
                "column 'correct'. Is it another data set's?"
            )
        return found

    def score(self, generated: str, reference: str) -> GradedAnswer:
        """Right where the letters are equal."""
        return GradedAnswer.compared(_read(generated), reference)


def _read(text: str) -> str | None:
    """The letter: behind the first ``####``, else in the last phrase that names one."""
    marked = _MARKED.search(text)
    if marked:
        return marked[1]
    said = _PHRASE.findall(text)
    return said[-1].upper() if said else None
