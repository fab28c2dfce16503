"""From characters to tokens and back, and which tokens are whitespace, punctuation, EOS."""

from __future__ import annotations

import itertools
import re
import unicodedata

import numpy as np
import pytest
from texts import Span, batch_of, characters, generated, pieces, spans_of

from pausedata.strategies.text import ResponseTexts

ALPHABET = ["a", "b", "7", " ", "\n", "\t", ".", ",", "…", "$", "🙂", "数", "。", "é", "\u3000"]


def text_of(*examples: tuple[str, list[Span]]) -> ResponseTexts:
    text = batch_of(examples).text
    assert text is not None
    return text


def before(text: ResponseTexts, example: int, char: int) -> int:
    return int(text.before(np.array([example]), np.array([char]))[0])


def after(text: ResponseTexts, example: int, char: int) -> int:
    return int(text.after(np.array([example]), np.array([char]))[0])


def slow_before(spans: list[Span], length: int, char: int) -> int:
    """The first token that ends behind the character; at the end, the first that begins there."""
    for k, (start, end) in enumerate(spans):
        if (end > char) if char < length else (start >= length):
            return k
    return len(spans)


def slow_after(spans: list[Span], end: int) -> int:
    """The first token that begins where the match has ended, with all of them after it."""
    for k in range(len(spans)):
        if max(start for start, _ in spans[: k + 1]) >= end:
            return k
    return len(spans)


def test_a_character_is_found_in_its_token_and_none_is_split() -> None:
    #                     0    1   2     3   4: EOS
    text = text_of(pieces("The| 12|34 is| x|"), pieces(" y| z"))
    assert [before(text, 0, char) for char in range(13)] == [0] * 3 + [1] * 3 + [2] * 5 + [3] * 2
    # What ends at 4 ends with the space before 12: in token 1, after which comes token 2.
    assert [after(text, 0, end) for end in (3, 4, 6, 7, 11, 13)] == [1, 2, 2, 3, 3, 4]
    # At the end of the text stands EOS; the other example has none, and its text begins anew.
    assert before(text, 0, 13) == 4
    assert (before(text, 1, 0), before(text, 1, 4), after(text, 1, 4)) == (0, 2, 2)


def test_a_character_of_several_tokens_is_one_place() -> None:
    #  "a🙂b": a, three tokens of the emoji, the last of which has the b too, EOS
    text = text_of(("a🙂b", [(0, 1), (1, 2), (1, 2), (1, 3), (3, 3)]))
    assert [before(text, 0, char) for char in range(4)] == [0, 1, 3, 4]
    assert [after(text, 0, end) for end in (1, 2, 3)] == [1, 4, 4]


def test_a_truncated_text_ends_with_its_tokens() -> None:
    text = text_of(("abcdef", [(0, 2), (2, 4)]), ("xyz", []))
    assert text.covered == ["abcd", ""]
    assert before(text, 0, 4) == after(text, 0, 4) == 2
    assert before(text, 1, 0) == after(text, 1, 0) == 0
    assert [column.tolist() for column in text.matches("[a-z]+$")] == [[0], [0], [4]]
    assert not text.is_eos.any()


@pytest.mark.parametrize("seed", range(4))
def test_places_are_those_of_the_slow_version_in_400_examples_each(seed: int) -> None:
    batch = generated(seed, 400, ALPHABET)
    text = batch.text
    assert text is not None
    for example, covered in enumerate(text.covered):
        spans = spans_of(batch, example)
        assert covered == text.responses[example][: spans[-1][1] if spans else 0]
        chars = np.arange(len(covered) + 1)
        here = np.full(len(chars), example)
        assert text.before(here, chars).tolist() == [
            slow_before(spans, len(covered), char) for char in chars
        ]
        assert text.after(here, chars).tolist() == [slow_after(spans, char) for char in chars]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("pattern", [r"[a-z]+ ", r"\W", r"(?=a)", r"\A.|.\Z"])
def test_kinds_of_tokens_are_those_of_the_slow_version(seed: int, pattern: str) -> None:
    batch = generated(seed, 400, ALPHABET)
    text = batch.text
    assert text is not None
    rows = []
    for example, covered in enumerate(text.covered):
        whole = len(text.responses[example])
        spans = [match.span() for match in re.finditer(pattern, covered)]
        for start, end in spans_of(batch, example):
            token = covered[start:end]
            inked = [c for c in token if not c.isspace()]
            rows.append(
                (
                    start == end == whole,
                    token.isspace(),
                    bool(inked) and all(unicodedata.category(c).startswith("P") for c in inked),
                    any(max(start, a) < min(end, b) for a, b in spans),
                )
            )
    columns = [text.is_eos, text.is_whitespace, text.is_punctuation, text.inside(pattern)]
    assert [tuple(row) for row in np.array(columns).T.tolist()] == rows


def test_kinds_by_hand() -> None:
    #                     0    1   2   3    4   5    6: EOS
    text = text_of(pieces("Why|? |\n |he…|“”|$.|"), pieces(" "))
    assert np.flatnonzero(text.is_whitespace).tolist() == [2, 7]
    assert np.flatnonzero(text.is_punctuation).tolist() == [1, 4]  # a currency sign is a symbol
    assert np.flatnonzero(text.is_eos).tolist() == [6]
    # Each text is matched alone: what stands in front of the second is no part of it.
    assert np.flatnonzero(text.inside(r"y\?|\A ")).tolist() == [0, 1, 7]


def test_a_selection_of_examples_is_the_text_of_these_alone() -> None:
    batch = generated(7, 30, ALPHABET)
    chosen = np.array([0, 3, 4, 17, 29])
    part = batch.of(chosen).text
    assert batch.text is not None and part is not None
    assert part.covered == [batch.text.covered[k] for k in chosen]
    tokens = np.concatenate(
        [np.arange(a, b) for a, b in np.array(list(itertools.pairwise(batch.offsets)))[chosen]]
    )
    assert part.inside("[ab]").tolist() == batch.text.inside("[ab]")[tokens].tolist()


def test_no_example_at_all() -> None:
    text = text_of()
    assert text.joined == "" and text.covered == []
    assert len(text.is_space) == len(text.is_punctuation) == len(text.inside(".")) == 0
    assert len(text.before(np.zeros(0, int), np.zeros(0, int))) == 0


def test_the_joined_text_leads_back_to_example_and_character() -> None:
    text = text_of(characters("ab"), characters(""), characters("c\nd"))
    assert text.joined == "ab\n\nc\nd\n"
    assert [pair.tolist() for pair in text.locate(np.array([1, 2, 4, 6]))] == [
        [0, 0, 2, 2],
        [1, 2, 0, 2],
    ]
