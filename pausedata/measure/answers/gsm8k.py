"""GSM8K: the number behind ``####``."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from pausedata.core.errors import DataError
from pausedata.measure.answers import GradedAnswer

# As the data set's own code (openai/grade-school-math, dataset.py) and the strict match of
# lm-evaluation-harness read it; the currency that some models write before it is allowed.
_ANSWER = re.compile(r"####\s*\$?\s*(-?\$?[0-9][0-9,]*(?:\.[0-9]+)?|-?\.[0-9]+)")


class GSM8K:
    """Exact match of the first number behind ``####``, as a number: 1,000.0 is 1000."""

    name = "gsm8k"

    def reference(self, response: str, meta: dict[str, Any]) -> Decimal:
        """The number in the example's own response."""
        found = _read(response)
        if found is None:
            raise DataError(
                "task gsm8k: a response has no number behind '####'. Is it another data set's?"
            )
        return found

    def score(self, generated: str, reference: Decimal) -> GradedAnswer:
        """Right where the numbers are equal."""
        return GradedAnswer.compared(_read(generated), reference)


def _read(text: str) -> Decimal | None:
    found = _ANSWER.search(text)
    return Decimal(found[1].replace(",", "").replace("$", "")) if found else None
