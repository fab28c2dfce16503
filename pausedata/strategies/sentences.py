"""Where sentences begin and end: one rule, spelled out, the same on every machine.

A sentence begins at a character that is no whitespace. It ends

- after ``.``, ``!``, ``?`` or ``…``, one or several, with the closing quotes and brackets that
  follow, where whitespace or the end of the text comes next;
- likewise where the last of these is ``。``, ``！``, ``？`` or ``｡``, whatever comes next;
- before a line break, and at the end of the text.

No sentence ends after a full stop that belongs to an abbreviation (Mr. Mrs. Ms. Dr. St. vs. e.g.
i.e. etc., and No. before a number) or to an initial (one capital letter), unless a line break or
the end of the text follows. The stop in 3.5 has no whitespace after it and so ends nothing.
Whitespace between sentences belongs to none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from pausedata.strategies.text import Bool, Int, ResponseTexts

_STOPS = ".!?…"
_CJK_STOPS = "。！？｡"
_CLOSERS = r"\"'”’»›)\]}）］｝」』】》〉"
_ABBREVIATIONS = ["Mr", "Mrs", "Ms", "Dr", "St", "vs", "e.g", "i.e", "etc"]
_NOT_AFTER = "".join(rf"(?<!\b{re.escape(word)}\.)" for word in _ABBREVIATIONS)
# In a text with a newline after it, so that the end of the text is whitespace too. A line break
# is an end as well: it is found apart, without a regular expression.
_END = re.compile(
    rf"[{_STOPS}{_CJK_STOPS}][{_STOPS}{_CJK_STOPS}]*+"  # led by one character: found faster
    rf"(?:(?<=[{_CJK_STOPS}])|{_NOT_AFTER}(?<!\b[A-Z]\.)(?!(?<=\bNo\.)\s*\d)"
    rf"(?=[{_CLOSERS}]*+\s))[{_CLOSERS}]*+"
)


@dataclass(frozen=True)
class Sentences:
    """Sentences in the order of the text: [sentences] each."""

    example: Int
    start: Int  # its first character, in the example's text
    end: Int  # one past its last


def sentences(text: ResponseTexts) -> Sentences:
    """The sentences of every text."""
    ends = np.fromiter((match.end() for match in _END.finditer(text.joined)), np.int64)
    breaks = np.flatnonzero(text.codes == ord("\n")) + 1
    cuts = np.union1d(ends, breaks)
    marks = np.flatnonzero(~text.is_space)
    # Between two cuts: the first and the last character that is no whitespace, where there is one.
    first = np.searchsorted(marks, np.concatenate([[0], cuts[:-1]])[: len(cuts)])
    last = np.searchsorted(marks, cuts) - 1
    some = first <= last
    example, start = text.locate(marks[first[some]])
    return Sentences(example, start, marks[last[some]] + 1 - text.base[example])


def holding(text: ResponseTexts, found: Sentences, places: Int) -> Bool:
    """Which sentences hold one of these places of the joined text, ascending: [sentences]."""
    base = text.base[found.example]
    return np.searchsorted(places, base + found.end) > np.searchsorted(places, base + found.start)
