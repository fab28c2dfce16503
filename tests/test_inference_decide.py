"""Whether a pause may come next in an answer: the rule of both engines, without a model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from pausedata.core.errors import UsageError
from pausedata.inference import Eligibility, PauseParams
from pausedata.inference.decide import PauseDecision, PauseState, is_unsure
from pausedata.inference.params import parse_params

P = "[PAUSE]"


def fed(params: PauseParams, pieces: Iterable[str | bytes]) -> PauseState:
    """An answer with these tokens."""
    answer = PauseState(params)
    for piece in pieces:
        if piece == P:
            answer.add_pause()
        else:
            answer.add_token(piece.encode() if isinstance(piece, str) else piece)
    return answer


def may(params: PauseParams, *pieces: str | bytes) -> bool:
    """Whether a pause may come after these tokens, where the model is unsure."""
    return fed(params, pieces).verdict is PauseDecision.IF_UNSURE


# The distribution


@pytest.mark.parametrize(
    ("params", "highest", "entropy", "unsure"),
    [
        ({}, 0.49, 9.0, True),
        ({}, 0.5, 9.0, False),  # strictly below, as in the reference code
        ({"threshold": 0}, 0.0, 9.0, False),  # nothing is below 0
        ({"threshold": 0, "entropy_threshold": 2.0}, 0.1, 2.0, False),
        ({"threshold": 0, "entropy_threshold": 2.0}, 0.1, 2.1, True),
        ({"threshold": 0.5, "entropy_threshold": 2.0}, 0.9, 2.1, True),  # either of them
        ({"threshold": 0.5, "entropy_threshold": 2.0}, 0.4, 1.0, True),
        ({"threshold": 1}, 0.999, 0.0, True),
    ],
)
def test_unsure_is_below_the_threshold_or_above_that_of_entropy(
    params: dict[str, Any], highest: float, entropy: float, unsure: bool
) -> None:
    assert is_unsure(PauseParams(**params), highest, entropy) is unsure


# The limits


def test_after_a_pause_comes_a_token() -> None:
    params = PauseParams()
    assert may(params)
    assert fed(params, [P]).verdict is PauseDecision.NEVER
    assert may(params, P, "a")


def test_a_pause_at_the_prompts_end_is_one() -> None:
    """But counts towards no budget and begins no cool-down."""
    answer = PauseState(PauseParams(max_pauses=1, cooldown=5), after_pause=True)
    assert answer.verdict is PauseDecision.NEVER
    answer.add_token(b"a")
    assert answer.verdict is PauseDecision.IF_UNSURE and answer.pauses == 0


def test_the_budget_of_an_answer() -> None:
    params = PauseParams(max_pauses=2)
    assert may(params, P, "a")
    assert not may(params, P, "a", P, "b")
    assert not may(PauseParams(max_pauses=0))


def test_the_cool_down_counts_tokens_after_the_last_pause() -> None:
    params = PauseParams(cooldown=3)
    assert may(params)  # none has come yet
    assert [may(params, P, *"abcd"[:n]) for n in range(5)] == [False, False, False, True, True]


def test_several_tokens_at_a_place_come_without_asking() -> None:
    params = PauseParams(tokens=3, max_pauses=5)
    verdicts = [fed(params, [P] * n).verdict for n in range(4)]
    assert verdicts == [
        PauseDecision.IF_UNSURE,
        PauseDecision.ALWAYS,
        PauseDecision.ALWAYS,
        PauseDecision.NEVER,
    ]
    # Two are left of the budget: too few for another place.
    assert not may(params, P, P, P, "a")


# Places


def test_none_after_the_mark_of_the_final_answer() -> None:
    params = PauseParams(never_after=["####", "\\boxed"])
    assert may(params, "so", "\n", "###")
    assert not may(params, "so", "\n", "####")
    assert not may(params, "so", "\n", "##", "##")  # across tokens
    assert not may(params, "so", "\n", "##", P, "##")  # and across a pause
    assert not may(params, "x####y", " ", "12", "\n", "more")  # to the end of the answer
    assert may(params, "##", " ", "##")


def test_none_inside_a_tool_call() -> None:
    params = PauseParams()  # so by default
    assert not may(params, "<tool_call>")
    assert not may(params, "<tool", "_call>", '{"a"', ": 1}")
    assert not may(params, "<tool_call>", "1", "</tool")
    assert may(params, "<tool_call>", "1", "</tool", "_call>")
    assert may(params, "<tool_call>1</tool_call>")
    assert not may(params, "<tool_call>1</tool_call><tool_call>")
    assert may(params, "</tool_call>")
    assert may(PauseParams(never_inside=[]), "<tool_call>")


def test_a_part_whose_two_ends_look_alike() -> None:
    params = PauseParams(never_inside=[("```", "```")])
    assert not may(params, "see ``", "`py")
    assert may(params, "see ``", "`py", "\n``", "`")
    assert not may(params, "```a```", " ```")


def test_parts_of_two_kinds_do_not_mix() -> None:
    params = PauseParams(never_inside=[("<a>", "</a>"), ("{", "}")])
    assert not may(params, "<a>{</a>x", "{")
    assert may(params, "<a>{</a>x")
    assert not may(params, "{<a>")
    assert may(params, "{<a>}")


def test_none_inside_a_character() -> None:
    """The bytes of one may be several tokens, between which a pause would break the text."""
    sausage = "🍖".encode()  # four bytes
    assert [may(PauseParams(), "a", sausage[:n]) for n in range(5)] == [
        True,
        False,
        False,
        False,
        True,
    ]
    assert not may(PauseParams(), b"\xc3")
    assert may(PauseParams(), b"\xc3", b"\xa9")
    assert may(PauseParams(), b"\xff")  # no beginning of anything


def test_a_group_without_pauses_gets_none() -> None:
    rule = Eligibility(groups={"sets": "no-pause"})
    assert not may(PauseParams(eligibility=rule, group="sets"))
    assert may(PauseParams(eligibility=rule, group="algebra"))
    assert may(PauseParams(eligibility=rule))


def slow_places(text: str, marks: list[str], parts: list[tuple[str, str]]) -> bool:
    """Whether a pause may follow ``text``, by looking at all of it."""
    if any(mark in text for mark in marks):
        return False
    while True:
        begins = [(text.index(a), a, b) for a, b in parts if a in text]
        if not begins:
            return True
        place, mark, close = min(begins)
        _, found, text = text[place + len(mark) :].partition(close)
        if not found:
            return False


@given(
    st.lists(st.text("<>/#a", max_size=4), max_size=12),
    st.lists(st.text("#a", min_size=1, max_size=3), max_size=2),
    st.lists(
        st.tuples(st.text("<a", min_size=1, max_size=3), st.text("/>", min_size=1, max_size=3)),
        max_size=2,
    ),
)
def test_places_are_those_of_the_whole_text(
    pieces: list[str], marks: list[str], parts: list[tuple[str, str]]
) -> None:
    params = PauseParams(never_after=marks, never_inside=parts)
    for n in range(len(pieces) + 1):
        expected = slow_places("".join(pieces[:n]), marks, parts)
        assert may(params, *pieces[:n]) is expected


@given(
    st.lists(st.booleans(), max_size=60),
    st.integers(1, 3),
    st.integers(0, 6) | st.none(),
    st.integers(0, 4),
)
def test_whatever_the_model_is_unsure_of_the_limits_hold(
    unsure: list[bool], tokens: int, most: int | None, cooldown: int
) -> None:
    if most:
        most = max(most, tokens)
    answer = PauseState(PauseParams(tokens=tokens, max_pauses=most, cooldown=cooldown))
    shape = ""
    for here in unsure:
        verdict = answer.verdict
        if verdict is PauseDecision.ALWAYS or (here and verdict is PauseDecision.IF_UNSURE):
            answer.add_pause()
            shape += "P"
        else:
            answer.add_token(b"x")
            shape += "x"
    assert most is None or shape.count("P") <= most
    runs = [run for run in shape.split("x") if run]
    assert all(len(run) == tokens for run in runs[:-1])  # the last may be cut off
    between = [run for run in shape.strip("x").split("P") if run]
    assert all(len(run) >= max(cooldown, 1) for run in between)


def test_a_copy_goes_its_own_way() -> None:
    answer = fed(PauseParams(never_after=["##"]), ["#"])
    other = answer.copy()
    answer.add_token(b"#")
    other.add_pause()
    assert (answer.verdict, answer.pauses) == (PauseDecision.NEVER, 0)
    other.add_token(b"a")
    assert (other.verdict, other.pauses) == (PauseDecision.IF_UNSURE, 1)


# Bad input


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"threshold": 1.5}, "threshold: should be at most 1, not 1.5"),
        ({"threshold": -0.1}, "threshold: should be at least 0"),
        ({"threshold": float("nan")}, "threshold: should be a finite number"),
        ({"threshold": "0.5"}, "threshold: should be a number, not '0.5'"),
        ({"threshold": True}, "threshold: should be a number"),
        ({"entropy_threshold": -1}, "entropy_threshold: should be at least 0"),
        ({"entropy_threshold": float("inf")}, "entropy_threshold: should be a finite number"),
        ({"max_pauses": -1}, "max_pauses: should be at least 0"),
        ({"max_pauses": 1.5}, "max_pauses: should be a whole number"),
        ({"max_pauses": 2, "tokens": 3}, "max_pauses 2 is less than tokens 3"),
        ({"cooldown": -2}, "cooldown: should be at least 0"),
        ({"tokens": 0}, "tokens: should be at least 1"),
        ({"never_after": "####"}, "never_after: should be a list, not '####'"),
        ({"never_after": [""]}, "never_after.0: give a text"),
        ({"never_inside": ["<a>"]}, "never_inside.0: should be a list"),
        ({"never_inside": [["<a>"]]}, "never_inside.0.1 is missing"),
        ({"group": "sets"}, "a group says nothing without eligibility"),
        ({"group": 7}, "group: should be text"),
        ({"eligibility": {"format": "x"}}, "It has to be 'pausedata-eligibility/1'"),
        ({"eligibility": 3}, "eligibility: should be"),
        ({"treshold": 0.2}, "unknown key 'treshold'. Did you mean 'threshold'?"),
    ],
)
def test_a_wrong_parameter_is_told_in_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as told:
        parse_params(values, "here")
    assert says in str(told.value) and "\n" not in str(told.value)


def test_the_page_tells_of_every_parameter() -> None:
    page = (ROOT / "docs" / "inference.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| `(\w+)` \| `?(.*?)`? \|", page, re.M)
    fields = PauseParams.model_fields
    assert [name for name, _ in shown] == list(fields)
    for name, default in shown:
        value = fields[name].default
        assert default == "none" if value is None else json.loads(default) == _as_lists(value)


def _as_lists(value: Any) -> Any:
    return [_as_lists(v) for v in value] if isinstance(value, tuple) else value


def test_parameters_travel_as_json() -> None:
    rule = Eligibility(groups={"sets": "no-pause"})
    params = PauseParams(threshold=0.3, never_inside=[("<a>", "</a>")], eligibility=rule)
    given = params.extra_args()["pauses"]
    assert set(given) == {"threshold", "never_inside", "eligibility"}
    assert parse_params(given, "here") == params
