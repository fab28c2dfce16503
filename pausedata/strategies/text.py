"""Responses as characters, and the way from a character to a token and back."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

Int = np.ndarray[Any, np.dtype[np.int64]]
Bool = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class ResponseTexts:
    """Responses and the spans of their tokens, in Unicode code points.

    The response of example i is ``responses[i]``; its tokens are those of the batch, ``offsets[i]``
    to ``offsets[i + 1]``. A truncated example's tokens cover the beginning of its response alone:
    that beginning, ``covered[i]``, is its text here.

    All texts are worked on at once as ``joined``, each with a newline after it, so that the end of
    one is not the beginning of the next. A *place* is an index into that; a *char* is an index
    into the text of one example, from 0 to its length.
    """

    responses: Sequence[str]  # [examples]
    offsets: Int  # [examples + 1], as the batch's
    char_start: Int  # [tokens]
    char_end: Int  # [tokens]

    def of(self, examples: Int, tokens: Int) -> ResponseTexts:
        """The responses of some examples: ``examples`` are their indices, ``tokens`` those of their
        tokens, both ascending.
        """
        lengths = np.diff(self.offsets)[examples]
        return ResponseTexts(
            [self.responses[int(k)] for k in examples],
            np.concatenate([[0], np.cumsum(lengths)]),
            self.char_start[tokens],
            self.char_end[tokens],
        )

    @cached_property
    def covered(self) -> list[str]:
        """Each response as far as its tokens go: [examples]."""
        return [response[:end] for response, end in zip(self.responses, self.lengths, strict=True)]

    @cached_property
    def lengths(self) -> Int:
        """Characters that each example's tokens cover: [examples]."""
        lengths = np.zeros(len(self.offsets) - 1, np.int64)
        some = np.diff(self.offsets) > 0
        lengths[some] = self.char_end[self.offsets[1:][some] - 1]
        return lengths

    @cached_property
    def base(self) -> Int:
        """The place at which each example's text begins: [examples]."""
        return np.cumsum(self.lengths + 1) - (self.lengths + 1)

    @cached_property
    def joined(self) -> str:
        """All texts, a newline after each."""
        return "".join(f"{text}\n" for text in self.covered)

    @cached_property
    def codes(self) -> np.ndarray[Any, np.dtype[np.uint32]]:
        """The code points of ``joined``: [places]."""
        return np.frombuffer(self.joined.encode("utf-32-le"), "<u4")

    @cached_property
    def is_space(self) -> Bool:
        """Which code points of ``joined`` are whitespace, as ``str.isspace`` says: [places]."""
        return self._which(str.isspace)

    def locate(self, places: Int) -> tuple[Int, Int]:
        """The example of each place, and the character in that example's text."""
        example = np.searchsorted(self.base, places, side="right") - 1
        return example, places - self.base[example]

    def before(self, example: Int, char: Int) -> Int:
        """The position right before the token that contains the character.

        A token that begins earlier and contains it is not split. At the end of the text it is the
        position before what was appended (EOS), or after the last token.
        """
        place = self.base[example] + char
        token = np.searchsorted(self._end, place, side="right")
        token = np.where(
            char < self.lengths[example], token, np.searchsorted(self._start, place, side="left")
        )
        return token - self.offsets[example]

    def after(self, example: Int, char: Int) -> Int:
        """The position right after the token in which what ends at ``char`` ends.

        ``char`` is one past its last character. Where no token follows, it is after the last.
        """
        # Where no token of this text follows, it is the first of the next one with tokens.
        token = np.searchsorted(self._start, self.base[example] + char, side="left")
        return token - self.offsets[example]

    def matches(self, pattern: str) -> tuple[Int, Int, Int]:
        """Matches of a regular expression in each text alone: example, first char, end.

        In the order of the text; empty ones too.
        """
        find = re.compile(pattern).finditer
        found = [
            (k, *match.span())
            for k, matches in enumerate(map(find, self.covered))
            for match in matches
        ]
        columns = np.array(found, np.int64).reshape(-1, 3)
        return columns[:, 0], columns[:, 1], columns[:, 2]

    @cached_property
    def is_eos(self) -> Bool:
        """The tokens added after the text (EOS, the end of a turn): [tokens]."""
        whole = np.fromiter(map(len, self.responses), np.int64, len(self.responses))
        return self.char_start >= whole[self._example]

    @cached_property
    def is_whitespace(self) -> Bool:
        """The tokens that are whitespace and nothing else: [tokens]."""
        spaces = self._count(self.is_space)
        return (spaces > 0) & (spaces == self._characters)

    @cached_property
    def is_punctuation(self) -> Bool:
        """The tokens that are punctuation (Unicode P*), with whitespace or without: [tokens]."""
        marks = self._count(self._which(lambda c: unicodedata.category(c)[0] == "P"))
        return (marks > 0) & (marks + self._count(self.is_space) == self._characters)

    def inside(self, pattern: str) -> Bool:
        """The tokens that share a character with a match of ``pattern``: [tokens]."""
        example, first, end = self.matches(pattern)
        size = len(self.codes) + 1
        begins = np.bincount(self.base[example] + first, minlength=size)
        ends = np.bincount(self.base[example] + end, minlength=size)
        return self._count(np.cumsum(begins - ends)[:-1] > 0) > 0

    @cached_property
    def _example(self) -> Int:
        return np.repeat(np.arange(len(self.lengths)), np.diff(self.offsets))

    @cached_property
    def _end(self) -> Int:
        """Where each token ends, as a place: [tokens], never falling."""
        return self.base[self._example] + self.char_end

    @cached_property
    def _start(self) -> Int:
        """Where each token begins, as a place: [tokens].

        It may fall inside a character; for a search the greatest so far stands for it.
        """
        return np.maximum.accumulate(self.base[self._example] + self.char_start)

    @property
    def _characters(self) -> Int:
        return self.char_end.astype(np.int64) - self.char_start

    @cached_property
    def _used(self) -> Int:
        """The code points that ``joined`` has, ascending."""
        return np.flatnonzero(np.bincount(self.codes, minlength=1))

    def _which(self, test: Callable[[str], bool]) -> Bool:
        """For which code points of ``joined`` the test holds: [places]. Each is tested once."""
        table = np.zeros(self._used.max(initial=0) + 1, np.bool_)
        table[self._used] = [test(chr(code)) for code in self._used]
        return table[self.codes]

    def _count(self, flags: Bool) -> Int:
        """How many of its characters are flagged, for each token; ``flags`` is [places]."""
        running = np.concatenate([[0], np.cumsum(flags)])
        base = self.base[self._example]
        return running[base + self.char_end] - running[base + self.char_start]
