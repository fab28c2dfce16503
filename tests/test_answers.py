"""Whether a generated answer is right."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from conftest import SHARED

from pausedata.core.errors import DataError, UsageError
from pausedata.measure import answers


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
