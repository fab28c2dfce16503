"""Whether a generated answer is right."""

from __future__ import annotations

import json
import re
import sys
import time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from conftest import SHARED
from hypothesis import given
from hypothesis import strategies as some

from pausedata.core.errors import DataError, UsageError
from pausedata.measure import answers
from pausedata.measure.answers import aqua, gsm8k
from pausedata.measure.answers.mbpp import Checks

DOCS = Path(__file__).parents[1] / "docs" / "gate.md"
NONE = "–"


def forms(task: str) -> list[tuple[str, str, str]]:
    """The rows of the table in docs/gate.md that is headed by ``task``: text, strict, lenient."""
    _, _, behind = DOCS.read_text("utf-8").partition(
        f"| {task} | strict | lenient |\n|---|---|---|\n"
    )
    rows = []
    for line in behind.splitlines():
        if not line.startswith("|"):
            break
        shown, strict, lenient = (cell.strip() for cell in line.strip("|").split("|"))
        text = shown.removeprefix("`").removesuffix("`").replace("⏎", "\n")
        if "```" in text:
            text = text[1:-1]  # a space on either side keeps the code span's ` from the fence's
        text = re.sub(r"\\u([0-9a-f]{4})", lambda found: chr(int(found[1], 16)), text)
        rows.append((text, strict, lenient))
    return rows


@pytest.mark.parametrize(("text", "strict", "lenient"), forms("gsm8k"))
def test_gsm8k_reads_the_forms_of_the_docs(text: str, strict: str, lenient: str) -> None:
    expected = [None if own == NONE else Fraction(own) for own in (strict, lenient)]
    found = gsm8k.strict(text)
    assert [found if found is None else Fraction(found), gsm8k.lenient(text)] == expected
    task = answers.get("gsm8k")
    for number in {own for own in expected if own is not None} | {Fraction(77)}:
        outcome = task.score(text, Decimal(number.numerator) / Decimal(number.denominator))
        assert outcome.right is (number == expected[0])
        assert outcome.lenient is (number in expected)


@pytest.mark.parametrize(("text", "strict", "lenient"), forms("aqua"))
def test_aqua_reads_the_forms_of_the_docs(text: str, strict: str, lenient: str) -> None:
    expected = [None if own == NONE else own for own in (strict, lenient)]
    assert [aqua.strict(text), aqua.lenient(text)] == expected
    for letter in "ABCDE":
        outcome = answers.get("aqua").score(text, letter)
        assert (outcome.right, outcome.lenient) == (letter == expected[0], letter in expected)


@pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is of Linux")
@pytest.mark.parametrize(("text", "strict", "lenient"), forms("mbpp"))
def test_mbpp_reads_the_forms_of_the_docs(text: str, strict: str, lenient: str) -> None:
    outcome = answers.get("mbpp").score(text, Checks("", ("assert f(2) == 4",)))
    assert (outcome.reason or "right") == strict == lenient
    assert outcome.right is outcome.lenient is (strict == "right")


def test_the_docs_have_forms_of_each_task() -> None:
    assert all(len(forms(task)) >= 20 for task in answers.TASKS)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("48/2 = <<48/2=24>>24\n#### 72", "72"),
        ("#### 1,234", "1234"),
        ("####1234.50 dollars", "1234.5"),
        ("#### $18.", "18"),
        ("#### -3", "-3"),
        ("#### $-3", "-3"),
        ("#### .5", "0.5"),
        ("#### 18\nQuestion: What is 5+5?\n#### 10", "18"),  # what runs on is not the answer
        ("The answer is 18", None),
        ("#### eighteen", None),
        ("", None),
    ],
)
def test_gsm8k_reads_the_number_behind_the_mark(text: str, number: str | None) -> None:
    task = answers.get("gsm8k")
    outcome = task.score(text, Decimal(number or "0"))
    assert outcome.right is (number is not None)
    assert outcome.reason == (None if number is not None else "no-answer")


def test_gsm8k_tells_a_wrong_number() -> None:
    outcome = answers.get("gsm8k").score("#### 17", Decimal(18))
    assert (outcome.right, outcome.answer, outcome.reason) == (False, "17", "wrong")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A is 5, B is 7.\n#### B", "B"),
        ("#### (C)", "C"),
        ("so we get 10. The answer is B.", "B"),
        ("Correct answer - A", "A"),
        ("Answer: (D)", "D"),
        ("The answer is option E", "E"),
        ("Answer B", "B"),
        ("The answer is a number. Answer: C", "C"),
        ("The answer is 12", None),
        ("A B C D E", None),
        ("The answer is Ambiguous", None),
    ],
)
def test_aqua_reads_the_letter(text: str, letter: str | None) -> None:
    outcome = answers.get("aqua").score(text, letter or "A")
    assert outcome.right is (letter is not None), outcome
    assert outcome.answer == letter


def test_references_come_from_the_example() -> None:
    assert answers.get("gsm8k").reference(" 5+5=10\n#### 10", {}) == 10
    assert answers.get("aqua").reference(" so\n#### B", {}) == "B"
    assert answers.get("aqua").reference(" so", {"correct": "D"}) == "D"
    for name in ("gsm8k", "aqua"):
        with pytest.raises(DataError, match="another data set's"):
            answers.get(name).reference(" nothing", {})


@pytest.mark.skipif(not (SHARED / "gsm8k_train.jsonl").is_file(), reason="no shared data")
def test_every_real_response_is_its_own_right_answer() -> None:
    for name, file, response in (
        ("gsm8k", "gsm8k_train.jsonl", lambda row: " " + row["answer"]),
        ("aqua", "aqua_dev.jsonl", lambda row: f" {row['rationale']}\n#### {row['correct']}"),
    ):
        task = answers.get(name)
        for line in (SHARED / file).read_text("utf-8").splitlines():
            row = json.loads(line)
            text = response(row)
            assert task.score(text, task.reference(text, row)).right, row


def test_an_unknown_task_is_told() -> None:
    with pytest.raises(UsageError, match=r"no 'gsm8'\. Did you mean 'gsm8k'"):
        answers.get("gsm8")


# What answers are made of, in any order.
PIECES = [
    *(
        "####",
        " ",
        "\n",
        "$",
        "-",
        "\u2212",
        "1",
        "23",
        "000",
        ",",
        ".",
        "/",
        "e",
        "**",
        "\\boxed{",
    ),
    *(
        "}",
        "The answer is ",
        "Answer: ",
        "option ",
        "A",
        "b",
        "(",
        ")",
        " or ",
        "Ans",
        "a fraction",
    ),
    "€",
]
TEXTS = some.lists(some.sampled_from(PIECES), max_size=12).map("".join)


@given(TEXTS)
def test_whatever_is_right_is_right_leniently(text: str) -> None:
    for name, read in (("gsm8k", gsm8k.strict), ("aqua", aqua.strict)):
        found: Any = read(text)
        if found is not None:
            outcome = answers.get(name).score(text, found)
            assert outcome.right and outcome.lenient


@given(some.integers(-(10**9), 10**9), some.sampled_from([" ", "\u00a0", "\u2009", "\u202f", ","]))
def test_thousands_are_read_whatever_parts_them(number: int, parted: str) -> None:
    written = f"{number:,}".replace(",", parted).replace("-", "\u2212")
    assert gsm8k.lenient(f"so\n#### {written}.") == number


@pytest.mark.parametrize(
    "text",
    [
        "#### " + "1" * 10**5,
        "#### 1" + " 000" * 10**5,
        "#### 1" + ",000" * 10**5,
        "#### " + " " * 10**5 + "x",
        "#### " + "*" * 10**5,
        "\\boxed{" * 10**4,
        "#### " * 10**4,
        "answer is " * 10**4,
        "ans - - -     " * 10**4,
        "answer" + " " * 10**5 + "x",
        "option: " * 10**4,
        " \n" * 10**5,
    ],
)
def test_no_text_keeps_the_readers(text: str) -> None:
    start = time.process_time()
    for read in (gsm8k.strict, gsm8k.lenient, aqua.strict, aqua.lenient):
        read(text)
    assert time.process_time() - start < 10  # quadratic it would be minutes


def test_numbers_too_long_are_not_read_leniently_and_still_compared() -> None:
    long = "#### " + "1" * 5000
    outcome = answers.get("gsm8k").score(long, Decimal("1" * 5000))
    assert outcome.right and outcome.lenient and gsm8k.lenient(long) is None


@pytest.mark.skipif(not (SHARED / "gsm8k_train.jsonl").is_file(), reason="no shared data")
def test_real_responses_are_read_alike_and_rationales_never_wrongly() -> None:
    for line in (SHARED / "gsm8k_train.jsonl").read_text("utf-8").splitlines():
        text = json.loads(line)["answer"]
        assert gsm8k.strict(text) == gsm8k.lenient(text) is not None, text
    read = {"strict": 0, "lenient": 0}
    for line in (SHARED / "aqua_dev.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        for name, own in (("strict", aqua.strict), ("lenient", aqua.lenient)):
            found = own(row["rationale"])  # written by people, without a mark
            assert found in (None, row["correct"]), row
            read[name] += found is not None
    assert read == {"strict": 218, "lenient": 239}  # of 254
