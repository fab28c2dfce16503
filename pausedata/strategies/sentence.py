"""Pauses before or after sentences."""

from __future__ import annotations

import re
from typing import Literal

import numpy as np
from pydantic import Field

from pausedata.strategies.base import Batch, Choosing, Placed, Strategy
from pausedata.strategies.places import choose_places
from pausedata.strategies.presets import CALCULATION, Where
from pausedata.strategies.sentences import holding, sentences


class Sentence(Choosing):
    """Before or after every sentence, or every one that calculates."""

    where: Where = Field(default="before", description="before or after the sentence")
    only: Literal["all", "calculating"] = Field(
        default="all", description="every sentence, or those that hold a calculation"
    )


def place(batch: Batch, parameters: Sentence) -> Placed:
    """The position before the token in which it begins, or after that in which it ends."""
    text = batch.text
    assert text is not None
    found = sentences(text)
    example, start, end = found.example, found.start, found.end
    if parameters.only == "calculating":
        # In all texts at once: no match reaches from one into the next.
        calculations = (match.start() for match in re.finditer(CALCULATION, text.joined))
        kept = holding(text, found, np.fromiter(calculations, np.int64))
        example, start, end = example[kept], start[kept], end[kept]
    after = parameters.where == "after"
    position = text.after(example, end) if after else text.before(example, start)
    return choose_places(batch, parameters, example, position, after=after)


STRATEGY = Strategy(
    "sentence",
    Sentence,
    place,
    frozenset({"text"}),
    source="the paper's reference code, there before every sentence as NLTK splits them",
    formula="A sentence ends after one or several of `.` `!` `?` `…` and the closing quotes and "
    "brackets that follow, where whitespace comes next; where the last of them is `。` `！` `？` "
    "or `｡`, whatever comes next; and at a line break (LF). Not after Mr. Mrs. Ms. Dr. St. vs. "
    "e.g. i.e. etc., after No. before a number, or after a single capital letter, unless the line "
    "ends there. The next one begins at the next character that is no whitespace. `calculating`: "
    "it holds a mark `<<…>>`, or an equals sign (`=` or `≈`) with a number on each side, as in "
    "`3 * 4 = 12`; a closing bracket and one space may stand before it, spaces, opening brackets, "
    "a sign and a currency sign after it.",
    worked=({}, {"where": "after"}, {"only": "calculating"}),
)
