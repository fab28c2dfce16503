"""Strategies that read the response's text: words, sentences, patterns and their presets."""

from __future__ import annotations

import functools
import itertools
import json
import random
import re
from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
import pytest
from conftest import SHARED
from texts import generated, insert, pieces, place, shown, spans_of

from pausedata import strategies
from pausedata.core.errors import UsageError
from pausedata.models.tokenizer import Tokenizer
from pausedata.models.tokens import TokenBuilder, Tokenized, TokenRules, begins_character
from pausedata.strategies import Batch, Placed
from pausedata.strategies.presets import CALCULATION, PRESETS, Name
from pausedata.strategies.sentences import sentences
from pausedata.strategies.text import ResponseTexts

P = "[PAUSE]"
ALPHABET = [
    *"abM7..!?, \n",
    " ",
    "\n",
    "…",
    '"',
    ")",
    "Dr",
    "No. 7",
    "e.g.",
    "。",
    "！",
    "」",
    "🙂",
]


# every_word


def test_after_every_word_the_last_one_too() -> None:
    assert shown("every_word", "He has\n 12 more.", " a", "   ", "") == [
        "He[PAUSE] has[PAUSE]\n 12[PAUSE] more.[PAUSE]",
        " a[PAUSE]",
        "   ",
        "",
    ]


def test_a_word_that_ends_inside_a_token_gets_its_pause_after_the_whole_token() -> None:
    assert shown("every_word", "He ha|s 12| more", "a b c| d|e", spans=pieces) == [
        "He ha[PAUSE]s 12[PAUSE] more[PAUSE]",  # `He` ends in `He ha`, `has` and 12 in `s 12`
        "a b c[PAUSE] de[PAUSE]",  # three words end in the first token: one place
    ]


def test_after_every_n_tokens_the_last_one_too() -> None:
    text = "a|b|c|d|e|"  # six tokens with EOS
    found = [
        shown("every_word", text, spans=pieces, every_n_tokens=n)[0] for n in (1, 2, 3, 4, 6, 7)
    ]
    assert found == [
        "a[PAUSE]b[PAUSE]c[PAUSE]d[PAUSE]e[PAUSE]<eos>[PAUSE]",
        "ab[PAUSE]cd[PAUSE]e<eos>[PAUSE]",
        "abc[PAUSE]de<eos>[PAUSE]",
        "abcd[PAUSE]e",
        "abcde<eos>[PAUSE]",
        "abcde",
    ]


def slow_words(text: str, spans: list[tuple[int, int]]) -> set[int]:
    found = set()
    for k, character in enumerate(text):
        if not character.isspace() and (k + 1 == len(text) or text[k + 1].isspace()):
            found.add(slow_after(spans, k + 1))
    return found


def slow_after(spans: list[tuple[int, int]], end: int) -> int:
    """The first token with no character before ``end``; where there is none, after the last."""
    return next((k for k, (start, _) in enumerate(spans) if start >= end), len(spans))


def slow_before(spans: list[tuple[int, int]], char: int) -> int:
    """The first token that ends behind the character."""
    return next(k for k, (_, end) in enumerate(spans) if end > char)


def allowed(batch: Batch, example: int) -> list[bool]:
    """Which positions of an example may have a pause; that after the last token may."""
    a, b = batch.offsets[example : example + 2]
    return [*batch.begins_character[a:b].tolist(), True]


def covered(batch: Batch) -> list[str]:
    """The texts as far as their tokens go."""
    assert batch.text is not None
    ends = [spans_of(batch, k)[-1][1] if n else 0 for k, n in enumerate(batch.lengths)]
    return [text[:end] for text, end in zip(batch.text.responses, ends, strict=True)]


@pytest.mark.parametrize("seed", range(3))
def test_every_word_is_as_the_slow_version_in_500_examples_each(seed: int) -> None:
    batch = generated(seed, 500, ALPHABET)
    expected = [
        sorted(k for k in slow_words(text, spans_of(batch, e)) if allowed(batch, e)[k])
        for e, text in enumerate(covered(batch))
    ]
    assert place("every_word", batch) == expected
    for n in (1, 3):
        assert place("every_word", batch, every_n_tokens=n) == [
            [k for k in range(n, length + 1, n) if allowed(batch, e)[k]]
            for e, length in enumerate(batch.lengths)
        ]


# sentence


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("He has 3.5 kg. She has 2! And you?", ["He has 3.5 kg.", "She has 2!", "And you?"]),
        ("  One.  \n\n Two\n#### 7", ["One.", "Two", "#### 7"]),
        ("Dr. Lee saw Mr. and Mrs. Ng vs. St. Ives. Ok.",
         ["Dr. Lee saw Mr. and Mrs. Ng vs. St. Ives.", "Ok."]),
        ("Take fruit, e.g. apples, i.e. some, etc. Then go.",
         ["Take fruit, e.g. apples, i.e. some, etc. Then go."]),
        ("J. K. Rowling wrote it. It is good.", ["J. K. Rowling wrote it.", "It is good."]),
        ("The answer is A.\nB is wrong.", ["The answer is A.", "B is wrong."]),
        ("See No. 5 here. No. It is not.", ["See No. 5 here.", "No.", "It is not."]),
        ("Let it be x. Then x = 5. So", ["Let it be x.", "Then x = 5.", "So"]),
        ('He said "Go!" (Loudly.) Then… "Why?!" so',
         ['He said "Go!"', "(Loudly.)", "Then…", '"Why?!"', "so"]),
        ("Wait... what? Visit a.com now.", ["Wait...", "what?", "Visit a.com now."]),
        ("他有三个。她说“好！”然后？对", ["他有三个。", "她说“好！”", "然后？", "对"]),
        ("🙂 Yes. 🙂🙂", ["🙂 Yes.", "🙂🙂"]),
        (".5 is half. ?", [".5 is half.", "?"]),
        ("", []),
        (" \n ", []),
    ],
)  # fmt: skip
def test_the_rule_for_sentences(text: str, found: list[str]) -> None:
    here = ResponseTexts([text, text], np.array([0, 1, 2]), np.zeros(2, int), np.full(2, len(text)))
    result = sentences(here)
    spans = list(zip(result.example, result.start, result.end, strict=True))
    assert [text[start:end] for example, start, end in spans if example == 0] == found
    assert [text[start:end] for example, start, end in spans if example == 1] == found


def test_before_or_after_every_sentence() -> None:
    text = "He has 2. She has 3.\nSo 5!"
    assert shown("sentence", text) == ["[PAUSE]He has 2. [PAUSE]She has 3.\n[PAUSE]So 5!"]
    assert shown("sentence", text, where="after") == [
        "He has 2.[PAUSE] She has 3.[PAUSE]\nSo 5![PAUSE]"
    ]
    # A token with the end of one sentence and the beginning of the next is not split.
    assert shown("sentence", "He| is.| A|.\nSo| go.|", spans=pieces) == [
        "[PAUSE]He is.[PAUSE] A[PAUSE].\nSo go."
    ]


@pytest.mark.parametrize(
    ("sentence", "calculates"),
    [
        ("So 3 * 4 = 12.", True),
        ("So 3 boxes at $4 = $12.", True),
        ("It is <<3*4=12>>12.", True),
        ("(3 + 4) = 7", True),
        ("20% of $50 is 0.2*50=$10", True),
        ("That is 10% = .1", True),
        ("5 - 8 = -3", True),
        ("1/3 ≈ 0.33", True),
        ("He has 3 * 4 of them.", False),
        ("x = 12", False),
        ("3x = 12", False),
        ("12 = x", False),
        ("There are 12.", False),
        ("12 <= 15", False),
        ("a << b", False),
    ],
)
def test_which_sentences_calculate(sentence: str, calculates: bool) -> None:
    text = f"One of 2. {sentence}\nThree = 3"
    expected = f"One of 2. {P if calculates else ''}{sentence}\nThree = 3"
    assert shown("sentence", text, only="calculating") == [expected]
    assert not any("\n" in match for match in re.findall(CALCULATION, "1 =\n1\n= 1 <<\n>>"))


STOPS, CJK_STOPS, CLOSERS = ".!?…。！？｡", "。！？｡", "\"'”’»›)]}）］｝」』】》〉"


def slow_sentences(text: str) -> list[tuple[int, int]]:
    """The rule, character by character."""
    found: list[tuple[int, int]] = []
    begin = k = 0
    while k < len(text):
        end = k + 1
        if text[k] == "\n":
            closes = True
        elif text[k] in STOPS:
            while end < len(text) and text[end] in STOPS:
                end += 1
            upto, last, rest = text[:end], text[end - 1], text[end:].lstrip()
            while end < len(text) and text[end] in CLOSERS:
                end += 1
            closes = last in CJK_STOPS or (
                (end == len(text) or text[end].isspace())
                and not re.search(r"\b(Mr|Mrs|Ms|Dr|St|vs|e\.g|i\.e|etc|[A-Z])\.$", upto)
                and not (re.search(r"\bNo\.$", upto) and rest[:1].isdecimal())
            )
            if not closes:
                end = len(upto)
        else:
            closes = False
        if closes:
            found += [(begin, end)]
            begin = end
        k = end
    found.append((begin, len(text)))
    trimmed = [(a + len(text[a:b]) - len(text[a:b].lstrip()), a + len(text[a:b].rstrip()))
               for a, b in found]  # fmt: skip
    return [(a, b) for a, b in trimmed if a < b]


@pytest.mark.parametrize("seed", range(3))
def test_sentences_are_as_the_slow_version_in_500_examples_each(seed: int) -> None:
    batch = generated(10 + seed, 500, ALPHABET)
    for where in ("before", "after"):
        expected = []
        for example, text in enumerate(covered(batch)):
            spans = spans_of(batch, example)
            places = {
                slow_before(spans, start) if where == "before" else slow_after(spans, end)
                for start, end in slow_sentences(text)
            }
            expected.append(sorted(k for k in places if allowed(batch, example)[k]))
        assert place("sentence", batch, where=where) == expected


# hardest_sentence


def test_the_hardest_sentence_by_hand() -> None:
    response, spans = pieces(" He| has| 2.| She| has| 3.\n|So| 5.|")
    logprob = np.array([-1, -2, -3, -1, -1, -8.5, -0.5, -3, -4], np.float32)
    # Means: -6 / 3 = -2, -10.5 / 3 = -3.5, and of the last with EOS -7.5 / 3 = -2.5.
    batch = Batch(
        ["x"], np.array([0, 9]), np.ones(9, bool), logprob=logprob,
        text=ResponseTexts([response], np.array([0, 9]), *np.array(spans).T),
    )  # fmt: skip
    found = [place("hardest_sentence", batch, positions=m)[0] for m in range(5)]
    assert found == [[], [3], [3, 6], [0, 3, 6], [0, 3, 6]]
    second = {"positions": 1, "eligible": {"inside": "So"}}
    assert place("hardest_sentence", batch, **second) == [[6]]
    assert place("hardest_sentence", batch, positions=3, max_positions=1) == [[3]]


def test_what_no_model_gives_spoils_no_other_sentence() -> None:
    """The least that a float32 holds, as of a masked logit, in the second of two sentences."""
    text, spans = pieces("a|.| |b|.|c")
    scores = np.array([-1, -1, -1, -3.4e38, -1, -1] + [-1] * 6, np.float32)
    offsets = np.array([0, 6, 12])
    batch = Batch(
        ["x", "y"], offsets, np.ones(12, bool), logprob=scores,
        text=ResponseTexts([text] * 2, offsets, *np.array(spans * 2).T),
    )  # fmt: skip
    assert place("hardest_sentence", batch, positions=1) == [[3], [0]]


def test_of_sentences_with_the_same_mean_the_earlier_is_the_harder() -> None:
    response, spans = pieces("A.\n|B.\n|C.|")
    third = np.float32(-1 / 3)
    batch = Batch(
        ["x"], np.array([0, 4]), np.ones(4, bool), logprob=np.array([third] * 4, np.float32),
        text=ResponseTexts([response], np.array([0, 4]), *np.array(spans).T),
    )  # fmt: skip
    assert [place("hardest_sentence", batch, positions=m) for m in (1, 2)] == [[[0]], [[0, 1]]]


@pytest.mark.parametrize("seed", range(3))
def test_the_hardest_are_as_the_slow_version_in_500_examples_each(seed: int) -> None:
    batch = generated(20 + seed, 500, ALPHABET)
    assert batch.logprob is not None
    for most in (1, 3):
        expected = []
        for example, text in enumerate(covered(batch)):
            spans = spans_of(batch, example)
            scores = batch.logprob[slice(*batch.offsets[example : example + 2])].tolist()
            firsts = sorted({slow_before(spans, start) for start, _ in slow_sentences(text)})
            means = []
            for first, last in itertools.pairwise([*firsts, len(spans)]):
                units = [round(score * 2**24) for score in scores[first:last]]
                means.append((sum(units) / len(units), first))
            eligible = [pair for pair in sorted(means) if allowed(batch, example)[pair[1]]]
            expected.append(sorted(first for _, first in eligible[:most]))
        assert place("hardest_sentence", batch, positions=most) == expected


# regex


def test_before_or_after_each_match_of_a_pattern() -> None:
    text = "x = 12, y = 345"
    assert shown("regex", text, pattern=r"\d+") == ["x = [PAUSE]12, y = [PAUSE]345"]
    assert shown("regex", text, pattern=r"\d+", where="after") == ["x = 12[PAUSE], y = 345[PAUSE]"]


def test_a_match_that_begins_or_ends_inside_a_token_leaves_it_whole() -> None:
    text = "x =| 1|2, y| = 345|"
    assert shown("regex", text, spans=pieces, pattern=r"\d+") == ["x =[PAUSE] 12, y[PAUSE] = 345"]
    assert shown("regex", text, spans=pieces, pattern=r"\d+", where="after") == [
        "x = 12, y[PAUSE] = 345[PAUSE]"
    ]


def test_empty_matches_count_and_each_text_is_matched_alone() -> None:
    texts, last = ["ab", "", "b"], {"pattern": r"\Z"}
    assert shown("regex", *texts, pattern=r"^|(?=b)") == ["[PAUSE]a[PAUSE]b", "[PAUSE]", "[PAUSE]b"]
    assert shown("regex", *texts, **last) == ["ab[PAUSE]", "[PAUSE]", "b[PAUSE]"]
    assert shown("regex", *texts, **last, where="after") == ["ab[PAUSE]", "[PAUSE]", "b[PAUSE]"]
    # Without EOS only a strategy that places after something has a place there.
    assert shown("regex", "a|b", spans=pieces, **last) == ["ab"]
    assert shown("regex", "a|b", spans=pieces, **last, where="after") == ["ab[PAUSE]"]


def test_the_common_options_apply() -> None:
    text = "1 2 3 4 5"
    assert shown("regex", text, pattern=r"\d", min_gap=3) == ["[PAUSE]1 2 [PAUSE]3 4 [PAUSE]5"]
    options: dict[str, Any] = {"max_positions": 2, "eligible": {"without": ["first"]}}
    assert shown("regex", text, pattern=r"\d", **options) == ["1 [PAUSE]2 [PAUSE]3 4 5"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "x: strategy 'regex': give either pattern or preset."),
        (
            {"pattern": "a", "preset": "both"},
            "x: strategy 'regex': give either pattern or preset.",
        ),
        ({"pattern": "(a"}, "x.pattern: not a regular expression: missing ), unterminated "
         "subpattern, at character 0 (given: '(a')."),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_parameters_is_said(
    parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        strategies.parse(strategies.get("regex"), parameters, "x")
    assert str(caught.value) == message


# Presets. Each text is written with the pauses that it should get, one token a character.


@pytest.mark.parametrize("name", PRESETS)
def test_the_example_of_a_preset_is_what_it_gives(name: Name) -> None:
    example = PRESETS[name].example
    assert shown("regex", example.replace(P, ""), preset=name) == [example]


def test_every_preset_can_be_asked_for_and_is_explained() -> None:
    assert set(get_args(Name)) == set(PRESETS)
    for preset in PRESETS.values():
        assert preset.explanation.endswith(".") and P in preset.example


FRONT_1 = [
    "Natalia sold [PAUSE]48/2 = <<48/2=24>>24 clips in May.\n"
    "She sold [PAUSE]48+24 = <<48+24=72>>72 clips altogether.\n#### 72",
    # A whole expression is one, with its currency signs and brackets.
    "He gave [PAUSE]$100 - $50 - 30 = $<<100-50-30=20>>20 and [PAUSE](1,000 + 2.5) * 3 = "
    "<<(1000+2.5)*3=3007.5>>3,007.5",
    "So 20% is [PAUSE]0.2 x 50 = $<<0.2*50=10>>10, or [PAUSE]20% × €50=10.",
    "[PAUSE]9 ÷ 3 is 3; [PAUSE]220 – 22 and [PAUSE]5 − 2; [PAUSE].5*$.20; [PAUSE]2X3.",
    "Juniors:[PAUSE]500(.40)=200",
    # Results are not expressions, nor are single numbers, words, dates of letters, variables.
    "It costs $5, 20% off, on July 4 at 7:30; 3 apples - 2; the x-axis; 3-year-old; 2x + 5.",
    "y - 5 + 3, E*2+4 and <<3*4=12>>12 - x",
    "- [PAUSE]5 + 3 = 8 in a list, [PAUSE]12-x... no, 12-x".replace("[PAUSE]12-x", "12-x"),
    "#### 5/8",
    # Nor what goes on behind an operator, a bracket, a root sign or the colon of a time.
    "Hers - 1) x 2 = 15, A+((A+2)+3)=19, √(144) = 12 and 7:50 + 30 minutes are none.",
]


@pytest.mark.parametrize("text", FRONT_1)
def test_math_front_ver1_stands_before_arithmetic_in_the_running_text(text: str) -> None:
    assert shown("regex", text.replace(P, ""), preset="math_front_ver1") == [text]


FRONT_2 = [
    "Weng earns 12/60 = [PAUSE]$<<12/60=0.2>>0.2 per minute.\nSo 0.2 x 50 = "
    "[PAUSE]$<<0.2*50=10>>10.\n#### 10",
    "There are 3*4=[PAUSE]<<3*4=12>>12, [PAUSE]€<<5=5>>5 and [PAUSE]$ <<1+1=2>>2, or $3 < $4.",
]


@pytest.mark.parametrize("text", FRONT_2)
def test_math_front_ver2_stands_before_a_mark(text: str) -> None:
    assert shown("regex", text.replace(P, ""), preset="math_front_ver2") == [text]


def test_both_are_the_two_together() -> None:
    text = "So [PAUSE]12/60 = [PAUSE]$<<12/60=0.2>>0.2, and 6 less is [PAUSE]<<20-6=14>>14 or $14."
    assert shown("regex", text.replace(P, ""), preset="both") == [text]


def test_behind_math_stands_after_the_mark() -> None:
    text = "So 48/2 = <<48/2=24>>[PAUSE]24, and 0.2 x 50 = $<<0.2*50=10>>[PAUSE]10.\n#### 34"
    assert shown("regex", text.replace(P, ""), preset="behind_math") == [text]


def test_behind_math_ver2_stands_after_the_number_behind_the_mark() -> None:
    text = (
        "<<1>>1,148[PAUSE] and <<1>>0.25[PAUSE]. Then <<1>>20%[PAUSE] of <<1>>$5.50[PAUSE], "
        "<<1>>-3[PAUSE], <<1>>2/3[PAUSE], <<1>>15[PAUSE]/week, <<1>>.5[PAUSE] and <<1>> no number"
    )
    assert shown("regex", text.replace(P, ""), preset="behind_math_ver2") == [text]


AQUA = [
    "In a day 1⁄23 + 9x × 115⁄100 = 5175[PAUSE], then 12C3 = 220[PAUSE] and 4√3/2[PAUSE].",
    "250 - 22% = rs 195[PAUSE] is left",
    "To calculate the equivalent of miles\n0.6 kilometers = 1[PAUSE] mile\n"
    "900 kilometers = (0.6)*900 = 540[PAUSE] miles\nIn 1 hour there are 60 minutes\n"
    "Speed in miles/minutes = 60 * 540 = 32400[PAUSE]\nCorrect answer - A",
    "850 + 705 + X = 820 * 3[PAUSE]\n=> 1555 + X = 2460[PAUSE]\n=> X = 905[PAUSE].\nAnswer: B",
    "30 bricks at $1 each = 30*$1.00 = $30[PAUSE].\n40 bricks at ($1 - $0.20)[PAUSE] each",
    "200x >= 2600[PAUSE]\nx >= 2600/200[PAUSE]",
    "3x + 4(270) = 7(222)[PAUSE]",
    "210×6= 1260[PAUSE], 9 ÷ 3[PAUSE] and 2.7 – 0.04x = 2.34[PAUSE]",
    "Rs.19 × 2 = Rs.38[PAUSE] in 1,20,000 rupees",
    "R+8=32[PAUSE]\nTherefore, R=24[PAUSE]",
    "n = 1,2,3[PAUSE]...; so 60 = 50%[PAUSE] and 2^3 * 3 * 5 = 120[PAUSE] and 4! = 24[PAUSE]",
    # Neither bare numbers, nor words, nor the line with the answer.
    "$5 (18) 20% and 7; a 3-year-old, the x-axis, x = y, A - B, either/or. Answer: D) 109 rolls",
    "#### 1/2",
]


@pytest.mark.parametrize("text", AQUA)
def test_aqua_behind_math_stands_after_runs_of_arithmetic(text: str) -> None:
    assert shown("regex", text.replace(P, ""), preset="aqua_behind_math") == [text]


def test_aqua_behind_math_can_stand_before_them_as_in_the_reference_code() -> None:
    text = "So [PAUSE]x = (5 * 12) / 3 and [PAUSE]3/4 of the total [PAUSE]= $20."
    assert shown("regex", text.replace(P, ""), preset="aqua_behind_math", where="before") == [text]


def test_reasoning_stands_before_or_after_sentences_with_a_mark() -> None:
    plain = "Dr. Lee has 5. He pays 2*3 = $<<2*3=6>>6 now. So what?\nThen <<5+6=11>>11\n#### 11"
    assert shown("regex", plain, preset="reasoning_front") == [
        "Dr. Lee has 5. [PAUSE]He pays 2*3 = $<<2*3=6>>6 now. So what?\n"
        "[PAUSE]Then <<5+6=11>>11\n#### 11"
    ]
    assert shown("regex", plain, preset="reasoning_behind") == [
        "Dr. Lee has 5. He pays 2*3 = $<<2*3=6>>6 now.[PAUSE] So what?\n"
        "Then <<5+6=11>>11[PAUSE]\n#### 11"
    ]


# Real data


def real(name: str, column: str) -> list[str]:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"no {path.name} here")
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)[column] for line in lines]


def test_presets_on_gsm8k() -> None:
    answers = real("gsm8k_train.jsonl", "answer")[::5]
    marks = sum(answer.count("<<") for answer in answers)
    plain = 0
    for name in ("math_front_ver1", "math_front_ver2", "both", "behind_math", "behind_math_ver2"):
        found = shown("regex", *answers, preset=name)
        assert [text.replace(P, "") for text in found] == answers
        joined = "\n".join(found)
        assert not re.search(r"<<[^>]*\[PAUSE\]", joined)  # nothing inside a mark
        if name in ("math_front_ver1", "both"):
            # Where the very expression of a mark stands before it, a pause stands before that.
            for answer, text in zip(answers, found, strict=True):
                for left, right in re.findall(r"(?<= )(\d+)\*(\d+) ?= ?\$?<<\1\*\2=", answer):
                    plain += 1
                    assert re.search(rf"\[PAUSE\]{left}\*{right} ?=", text), text
            assert not re.search(r"\d\[PAUSE\]\d|[*/+]\[PAUSE\](?![$€]?<<)", joined)
        if name == "math_front_ver2":
            assert len(re.findall(r"\[PAUSE\](?:[$€] ?)?<<", joined)) == joined.count(P) == marks
        if name == "behind_math":
            assert joined.count(">>[PAUSE]") == marks
        if name == "behind_math_ver2":
            assert joined.count(P) == marks  # a number follows every one
            assert not re.search(r"\[PAUSE\](\d|[.,]\d|%)", joined)
    assert plain > 200


def test_reasoning_on_gsm8k() -> None:
    answers = real("gsm8k_train.jsonl", "answer")[::5]
    front = shown("regex", *answers, preset="reasoning_front")
    behind = shown("regex", *answers, preset="reasoning_behind")
    for answer, before, after in zip(answers, front, behind, strict=True):
        held = [answer[a:b] for a, b in slow_sentences(answer) if ">>" in answer[a:b]]
        assert before.count(P) == after.count(P) == len(held)
        assert all(P + sentence in before and sentence + P in after for sentence in held)


def test_aqua_behind_math_on_aqua() -> None:
    rationales = real("aqua_dev.jsonl", "rationale")
    found = shown("regex", *rationales, preset="aqua_behind_math")
    assert [text.replace(P, "") for text in found] == rationales
    assert sum(P in text for text in found) > 0.9 * len(found)
    for text in found:
        for line in text.split("\n"):
            *runs, _ = line.split(P)
            for run in runs:  # ends with an operand, and an operator or bracket is not far
                assert re.search(r"[^\W_²³][!²³]*[ )\]}%]*%?$", run), (run, line)
                assert re.search(r"[-+*/xX×÷=<>≤≥≠≈⇒^·⋅∗−–(\[{]", run), (run, line)
        assert not re.search(r"\d\[PAUSE\](\d|[.,]\d)", text)


# Emoji and CJK, in real tokenizers


TEXTS = [
    " She has 3 🙂 and 4 🎉🎉.\nSo 3 + 4 = <<3+4=7>>7 😀!\n#### 7",
    "他有3个苹果🍎，又买了12个。3 + 12 = <<3+12=15>>15个！所以答案是15。",
    " 太郎は5個の🍊を持っています。花子は8個です。合わせて5+8=13個。 👩‍👩‍👧‍👦 was here.",
    "한국어 문장입니다. 7 × 6 = 42개! 🏳️‍🌈 Ünïcödé naïve café",
    "👍🏽👍🏽👍🏽",
]
# Parameters with which each strategy has something to do. A strategy without an entry fails.
PARAMETERS: dict[str, list[dict[str, Any]]] = {
    "lowest_logprob": [{"positions": 5}, {"fraction": 0.5}],
    "random": [{"positions": 5}],
    "append": [{"tokens": 4}],
    "none": [{}],
    "every_word": [{}, {"every_n_tokens": 1}, {"every_n_tokens": 3, "min_gap": 4}],
    "regex": [
        {"pattern": "."},
        {"pattern": ".", "where": "after"},
        {"pattern": r"[^\x00-\x7f]", "min_gap": 2},
        *({"preset": name} for name in PRESETS),
    ],
    "sentence": [{}, {"where": "after"}, {"only": "calculating"}],
    "hardest_sentence": [{"positions": 2}],
    "threshold": [{}, {"rank": 2}, {"logprob": -1.0, "positions": 4}],
    "highest_entropy": [{"positions": 5}],
    "surprisal_spike": [{"window": 4, "z": 0.5}],
    "sampled": [{"positions": 5}],
    "budget": [{"per_100": 30.0}],
    "excess": [{"reference": "other", "positions": 5}],
    "combine": [{"of": ["a", "b"]}],
}


def byte_level() -> Tokenizer:
    """Byte-level BPE, as GPT-2's and Llama 3's; some of its merges reach over characters."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, trainers

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["</s>"],
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS * 2, trainer)
    return wrapped(backend)


def sentence_piece() -> Tokenizer:
    """SentencePiece's unigram model: ▁ for spaces, and bytes for what it has no token for."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers

    vocabulary = [("<unk>", 0.0), ("</s>", 0.0)]
    vocabulary += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    words = "▁ ▁She ▁has ▁and ▁So ▁was ▁here. 0 1 2 3 4 5 6 7 8 9 + * = < << >> > # #### ▁+ ▁= , ."
    vocabulary += [(word, -5.0) for word in [*words.split(), *"她他有个苹果。です，！持しを"]]
    backend = Backend(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return wrapped(backend)


def wrapped(backend: Any) -> Tokenizer:
    import transformers

    return Tokenizer(
        transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    )


@functools.cache
def tokenized(make: Any) -> tuple[Tokenizer, Batch, list[list[int]]]:
    """The texts as ``make``'s tokenizer cuts them, whole and truncated, with all columns.

    The third value: the ids of each response. The bytes within a character have the worst scores.
    """
    tokenizer = make()
    responses, rows = [], []
    for length in (2048, 30, 41):
        builder = TokenBuilder(tokenizer, TokenRules(max_length=length, overlong="truncate"))
        for text, row in zip(TEXTS, builder.encode(["Q:"] * len(TEXTS), TEXTS), strict=True):
            assert isinstance(row, Tokenized)
            responses.append(text)
            rows.append(row)
    offsets = np.cumsum([0, *(len(row.response_ids) for row in rows)])
    start = np.concatenate([row.char_start for row in rows])
    end = np.concatenate([row.char_end for row in rows])
    begins = begins_character(start, end, offsets)
    draw = random.Random(0)
    logprob = np.array([-draw.random() - (0 if b else 9) for b in begins], np.float32)
    tokens = len(begins)
    batch = Batch(
        ids=[f"row-{k}" for k in range(len(rows))],
        offsets=offsets,
        begins_character=begins,
        logprob=logprob,
        rank=np.where(begins, 1, 9999),
        entropy=-logprob,
        reference=np.full(tokens, -0.5, np.float32),
        text=ResponseTexts(responses, offsets, start, end),
        special=np.concatenate([row.response_ids == tokenizer.eos_id for row in rows]),
    )
    return tokenizer, batch, [row.response_ids.tolist() for row in rows]


CASES = [
    pytest.param(make, name, k, id=f"{make.__name__}-{name}-{k}")
    for make in (byte_level, sentence_piece)
    for name in strategies.names()
    for k in range(len(PARAMETERS.get(name, [{}])))
]


@pytest.mark.parametrize(("make", "name", "k"), CASES)
def test_no_strategy_splits_a_character_of_real_text(make: Any, name: str, k: int) -> None:
    strategy = strategies.get(name)
    parameters = strategies.parse(strategy, PARAMETERS[name][k], "test")
    tokenizer, batch, ids = tokenized(make)
    batch = with_what_it_reads(strategy, parameters, batch)
    placed, kept_off = strategies.place(strategy, batch, parameters)
    for example, positions in enumerate(by_example(placed, batch)):
        parts = [part for part in cut(ids[example], positions) if part]
        if ids[example][-1] != tokenizer.eos_id:
            parts.pop()  # what a truncated response ends with may be half a character
        assert not any("�" in tokenizer.backend.decode(part) for part in parts)
    # What it would have chosen inside characters, had that been allowed, is what it was kept off.
    wanted = by_example(strategy.place(batch.allowing_all(), parameters), batch)
    inside = [
        (example, position)
        for example, positions in enumerate(wanted)
        for position in positions
        if position < batch.lengths[example]
        and not batch.begins_character[batch.offsets[example] + position]
    ]
    assert kept_off == len(inside)


def with_what_it_reads(strategy: Any, parameters: Any, batch: Batch) -> Batch:
    """The batch with the placements that the parameters name, and what the strategy's fit gives."""
    import dataclasses

    everywhere = strategies.get("every_word")
    asked = strategies.parse(everywhere, {"every_n_tokens": 2}, "test")
    placed = {name: everywhere.place(batch, asked) for name in parameters.placements}
    batch = dataclasses.replace(batch, placed=placed)
    if strategy.fit is None:
        return batch
    return dataclasses.replace(batch, fitted=strategy.fit(lambda: [batch], parameters))


def by_example(placed: Placed, batch: Batch) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in batch.ids]
    for example, position in zip(placed.example, placed.positions, strict=True):
        found[example].append(int(position))
    return found


def cut(ids: list[int], positions: list[int]) -> Iterator[list[int]]:
    """The ids between the pauses."""
    for start, end in itertools.pairwise([0, *positions, len(ids)]):
        yield ids[start:end]


@pytest.mark.parametrize("make", [byte_level, sentence_piece])
def test_these_texts_have_characters_that_a_strategy_could_split(make: Any) -> None:
    tokenizer, batch, ids = tokenized(make)
    assert (~batch.begins_character).sum() > 50
    split = [cut(ids[0], [k]) for k in range(1, len(ids[0]))]
    assert any("�" in tokenizer.backend.decode(piece) for pair in split for piece in pair if piece)
    for name in ("lowest_logprob", "every_word"):
        strategy = strategies.get(name)
        parameters = strategies.parse(strategy, PARAMETERS[name][-1], "test")
        assert strategies.place(strategy, batch, parameters)[1] > 0


def test_a_pause_beside_an_emoji_stands_beside_the_whole_emoji() -> None:
    _, batch, _ = tokenized(byte_level)
    assert batch.text is not None
    found = place("regex", batch, pattern="🎉", where="after")
    text = insert(TEXTS[0], spans_of(batch, 0), found[0])
    assert text == " She has 3 🙂 and 4 🎉[PAUSE]🎉[PAUSE].\nSo 3 + 4 = <<3+4=7>>7 😀!\n#### 7"
