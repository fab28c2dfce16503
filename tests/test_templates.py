"""How a row becomes an example: templates, conversations, ids and what is kept beside."""

from __future__ import annotations

import datetime
import decimal
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pausedata.core.errors import UsageError
from pausedata.sources import BadRow, Row, open_source
from pausedata.sources.spec import ChatPrompt, ColumnPrompt, Message, Source
from pausedata.sources.templates import RenderedRow, Renderer

SHARED = Path(__file__).parents[2] / "shared" / "data"


def chat(messages: list[dict[str, Any]]) -> str:
    """A chat template for tests, which like many real ones wants a user's turn first."""
    if not messages or messages[0]["role"] not in ("system", "user"):
        raise ValueError("a conversation begins with the user")
    return "".join(f"<{m['role']}>{m['content']}" for m in messages) + "<assistant>"


def renderer(prompt: Any = "{{ q }}", response: str | None = "{{ a }}", **source: Any) -> Renderer:
    return Renderer(prompt, response, Source(files=["rows.jsonl"], **source), chat)


def render(render_with: Renderer, *rows: dict[str, Any]) -> list[RenderedRow | BadRow]:
    return [
        result
        for n, columns in enumerate(rows)
        for result in render_with.render(Row("train", n, columns, f"rows.jsonl:{n + 1}"))
    ]


def one(render_with: Renderer, columns: dict[str, Any]) -> RenderedRow:
    (result,) = render(render_with, columns)
    assert isinstance(result, RenderedRow), result
    return result


def bad(render_with: Renderer, columns: dict[str, Any]) -> BadRow:
    (result,) = render(render_with, columns)
    assert isinstance(result, BadRow), result
    return result


GOOD = {"q": "question", "a": "answer"}


# --- text ------------------------------------------------------------------------------------


def test_a_row_becomes_an_example() -> None:
    made = renderer("Question: {{ q }}\nAnswer:", " {{ a }}\n")
    assert made.variables == {"q", "a"}
    assert one(made, GOOD | {"more": 1}) == RenderedRow(
        id=None,
        split="train",
        row=0,
        prompt="Question: question\nAnswer:",
        response=" answer\n",  # a final newline stays
        meta='{"more": 1}',
        where="rows.jsonl:1",
    )


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_text_passes_through_unchanged(text: str) -> None:
    made = one(renderer("[{{ q }}]", "[{{ a }}]"), {"q": text.replace("\0", ""), "a": "<&'\">"})
    assert made.prompt == f"[{text}]".replace("\0", "")
    assert made.response == "[<&'\">]", "nothing is escaped"


@pytest.mark.parametrize(
    ("template", "columns", "text"),
    [
        ("{{ n | string }}", {"n": 5}, "5"),
        ("{{ o.n }} {{ o['n'] }} {{ n + 1 }}", {"o": {"n": 5}, "n": 1}, "5 5 2"),
        ("{% for x in xs %}{{ loop.index }}{{ x }} {% endfor %}", {"xs": ["a", 7]}, "1a 27 "),
        ("{{ xs | join(', ') }}", {"xs": ["a", 7]}, "a, 7"),
        ("{{ n ~ '%' }}", {"n": 5}, "5%"),
        ("{% if n %}{{ q }}{% endif %}", {"n": True, "q": "x"}, "x"),
        ("{{ h | default('none') }}", {}, "none"),
        ("{% if h is defined %}{{ h }}{% else %}-{% endif %}", {}, "-"),
        ("{{ h | default('none', true) }}", {"h": None}, "none"),
        ("{% for x in range(2) %}{{ range }}{% endfor %}", {"range": "r"}, None),
        ("{{ dict }}", {"dict": "a column may be called so"}, "a column may be called so"),
        ("{% set t = q | trim %}{{ t }}", {"q": " x "}, "x"),
        ("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(q) }}", {"q": "x"}, "<x>"),
        ("{{ o | tojson }}", {"o": {"k": [1]}}, '{"k": [1]}'),
    ],
)
def test_what_a_template_may_do(template: str, columns: dict[str, Any], text: str | None) -> None:
    if text is None:  # a column hides Jinja's own function of that name, and is then no function
        with pytest.raises(UsageError, match="not callable"):
            render(renderer("p", template), columns)
    else:
        assert one(renderer("p", template), columns).response == text


# --- what would put `None`, `5` or `['a']` into training text ---------------------------------


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{{ a }}", None),
        ("{{ a | string }}", None),
        ("{{ a | trim | upper }}", None),
        ("x{{ 'y' ~ a }}", None),
        ("{{ a.b }}", {"b": None}),
        ("{{ a['b'] }}", {"b": None}),
        ("{% for x in a %}{{ x }}{% endfor %}", ["1", None]),
        ("{{ a | join }}", ["1", None]),
        ("{% set t = a | string %}{{ t }}", None),
    ],
)
def test_null(template: str, value: Any) -> None:
    row = bad(renderer("p", template), {"a": value})
    assert (row.reason, row.where, row.index) == ("null", "rows.jsonl:1", 0)
    assert row.detail.startswith("response: ")


def test_null_names_the_column() -> None:
    assert bad(renderer(), GOOD | {"q": None}).detail == "prompt: 'q' is null"
    nested = renderer("p", "{{ a.b.c }}")
    assert bad(nested, {"a": {"b": {"c": None}}}).detail == "response: 'a.b.c' is null"


@pytest.mark.parametrize(
    ("value", "kind", "advice"),
    [
        (5, "a number", "{{ a | string }}"),
        (2.5, "a number", "{{ a | string }}"),
        (True, "true or false", "{{ a | string }}"),
        (["x"], "a list", "{{ a | join(', ') }}"),
        ({"k": "v"}, "a mapping", "a loop"),
        (datetime.date(2026, 1, 1), "no text (date)", "{{ a | string }}"),
        (b"raw", "bytes", ""),
    ],
)
def test_not_text_says_what_to_write(value: Any, kind: str, advice: str) -> None:
    row = bad(renderer(), GOOD | {"a": value})
    assert row.reason == "not_text"
    assert f"'a' is {kind}" in row.detail
    assert advice in row.detail


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"a": ""}, "empty_response"),
        ({"a": " \n\t"}, "empty_response"),
        ({"a": "x\0y"}, "nul_character"),
        ({"q": "\0"}, "nul_character"),
        ({"q": "\ud800"}, "bad_utf8"),
        ({"kept": "\ud800"}, "bad_utf8"),
    ],
)
def test_texts_that_cannot_be_used(columns: dict[str, Any], reason: str) -> None:
    assert bad(renderer(), GOOD | columns).reason == reason


# --- what is wrong with the recipe is told at once, what is wrong with a row is counted --------


def test_a_variable_that_is_no_column() -> None:
    with pytest.raises(UsageError) as error:
        render(renderer("{{ question }}"), {"questions": "x", "a": "y"})
    assert str(error.value) == (
        "rows.jsonl:1: prompt: no column 'question'. Did you mean 'questions'? "
        "Columns: 'questions', 'a'."
    )
    later = render(renderer(), GOOD, {"q": "x"}, GOOD)
    assert isinstance(later[1], BadRow)
    assert later[1].reason == "missing_column"
    assert "no column 'a'" in later[1].detail
    assert isinstance(later[2], RenderedRow)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ 1 / n }}", "ZeroDivisionError"),
        ("{{ a | round }}", "TypeError"),
        ("{{ o.missing }}", "no attribute 'missing'"),
        ("{{ a.__class__.__mro__ }}", "unsafe"),
        ("{{ o.update({}) }}", "unsafe|not safely"),
        ("{% for x in range(10 ** 9) %}{% endfor %}", "OverflowError"),
        ("{% include 'other' %}", "loader"),
    ],
)
def test_a_template_that_fails(template: str, message: str) -> None:
    fails = {"a": "x", "n": 0, "o": {}}
    with pytest.raises(UsageError, match=message) as error:
        render(renderer("p", template), fails)
    assert str(error.value).startswith("rows.jsonl:1: response: ")
    row = render(renderer("p", "{% if not n %}" + template + "{% endif %}x"), {"n": 1}, fails)[1]
    assert isinstance(row, BadRow)
    assert row.reason == "template_error"


@pytest.mark.parametrize(
    ("prompt", "response", "where"),
    [
        ("{{ q ", "r", "prompt: line 1"),
        ("p", "\n{% for %}", "response: line 2"),
        ("{{ q | nofilter }}", "r", "prompt: line 1 of the template: No filter named 'nofilter'"),
        ("{{ q | random }}", "r", "No filter named 'random'"),  # would differ from build to build
        (
            ChatPrompt(
                messages=[Message(role="user", content="x"), Message(role="user", content="{%")]
            ),
            "r",
            "prompt.messages[1].content: line 1",
        ),
    ],
)
def test_a_template_that_is_none(prompt: Any, response: str, where: str) -> None:
    with pytest.raises(UsageError) as error:
        renderer(prompt, response)
    assert where in str(error.value)
    assert "\n" not in str(error.value)


# --- messages --------------------------------------------------------------------------------


def test_messages_go_through_the_chat_template_and_the_response_does_not() -> None:
    prompt = ChatPrompt(
        messages=[
            Message(role="system", content="Be brief."),
            Message(role="user", content="{{ q }}"),
        ]
    )
    made = one(renderer(prompt), GOOD)
    assert made.prompt == "<system>Be brief.<user>question<assistant>"
    assert made.response == "answer"
    with pytest.raises(UsageError, match="need a tokenizer that has a chat template"):
        Renderer(prompt, "r", Source(files=["x.jsonl"]), None)
    with pytest.raises(UsageError, match="the model's chat template: a conversation begins"):
        render(renderer(ChatPrompt(messages=[Message(role="tool", content="x")])), GOOD)


def turns(*pairs: str) -> list[dict[str, Any]]:
    """``turns("u:hello", "a:hi")`` as messages."""
    roles = {"u": "user", "a": "assistant", "s": "system"}
    return [{"role": roles[pair[0]], "content": pair[2:]} for pair in pairs]


def column(mode: Any = "last", **source: Any) -> Renderer:
    return renderer(ColumnPrompt(messages_column="messages", turns=mode), None, **source)


def test_the_last_assistant_turn_is_the_response() -> None:
    made = one(column(), {"messages": turns("u:1", "a:2", "u:3", "a:4", "u:thanks"), "n": 7})
    assert (made.prompt, made.response) == ("<user>1<assistant>2<user>3<assistant>", "4")
    assert made.meta == '{"n": 7}', "the conversation itself is not kept twice"
    assert column().variables == {"messages"}


def test_each_assistant_turn_can_be_an_example() -> None:
    row = {"id": "c1", "messages": turns("s:hi", "u:1", "a:2", "u:3", "a:4")}
    made = render(column("each", id="id"), row)
    assert [(m.id, m.row, m.prompt, m.response) for m in made if isinstance(m, RenderedRow)] == [
        ("c1", 0, "<system>hi<user>1<assistant>", "2"),
        ("c1-2", 0, "<system>hi<user>1<assistant>2<user>3<assistant>", "4"),
    ]
    # A row comes out whole or is counted once.
    (row_out,) = render(column("each"), {"messages": turns("u:1", "a:2", "u:3", "a: ")})
    assert isinstance(row_out, BadRow)
    assert row_out.reason == "empty_response"


def test_an_opening_assistant_turn_is_context() -> None:
    def greeting(messages: list[dict[str, Any]]) -> str:
        return "|".join(m["content"] for m in messages)

    source = Source(files=["x.jsonl"])
    each = Renderer(ColumnPrompt(messages_column="messages", turns="each"), None, source, greeting)
    made = one(each, {"messages": turns("a:hello", "u:1", "a:2")})
    assert (made.prompt, made.response) == ("hello|1", "2")


def test_nulls_that_parquet_fills_in_are_left_out_and_other_keys_reach_the_template() -> None:
    seen: list[Any] = []
    source = Source(files=["x.jsonl"])
    made = Renderer(
        ColumnPrompt(messages_column="m"), None, source, lambda m: seen.extend(m) or "p"
    )
    message = {"role": "user", "content": "x", "name": "Ann", "tool_calls": None}
    one(made, {"m": [message, *turns("a:y")]})
    assert seen == [{"role": "user", "content": "x", "name": "Ann"}]


@pytest.mark.parametrize(
    ("messages", "reason", "detail"),
    [
        (turns("u:1", "u:2"), "no_assistant_turn", "'messages' has none"),
        ([], "no_assistant_turn", ""),
        (turns("a:alone"), "bad_messages", "nothing stands before"),
        (None, "bad_messages", "null"),
        ("text", "bad_messages", "a str, not a list"),
        (["text"], "bad_messages", "'messages[0]' is a str"),
        ([{"from": "human", "value": "x"}], "bad_messages", "'messages[0].role'"),
        ([{"role": "user", "content": None}], "bad_messages", "'messages[0].content' is null"),
        ([{"role": "user", "content": [{"type": "text"}]}], "bad_messages", "a list, not text"),
        ([{"role": "tool", "content": "x"}, *turns("a:y")], "bad_messages", "chat template"),
    ],
)
def test_conversations_that_cannot_be_used(messages: Any, reason: str, detail: str) -> None:
    row = bad(column(), {"messages": messages})
    assert row.reason == reason
    assert detail in row.detail


def test_a_missing_messages_column() -> None:
    with pytest.raises(UsageError, match=r"no column 'messages'. Did you mean 'message'\?"):
        render(column(), {"message": []})
    later = render(column(), {"messages": turns("u:1", "a:2")}, {})[1]
    assert isinstance(later, BadRow)
    assert later.reason == "missing_column"


# --- ids -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "name"), [("x-1", "x-1"), (601, "601"), (0, "0"), (-1, "-1")])
def test_the_source_s_own_id(value: Any, name: str) -> None:
    made = one(renderer(id="key"), GOOD | {"key": value})
    assert made.id == name
    assert made.meta == "{}"


@pytest.mark.parametrize("value", [None, "", 1.0, True, ["x"]])
def test_ids_that_are_none(value: Any) -> None:
    row = bad(renderer(id="key"), GOOD | {"key": value})
    assert row.reason == "bad_id"
    assert "'key' is" in row.detail


def test_a_missing_id_column() -> None:
    with pytest.raises(UsageError, match=r"source\.id: no column 'kye'\. Did you mean 'key'\?"):
        render(renderer(id="kye"), GOOD | {"key": "x"})
    later = render(renderer(id="key"), GOOD | {"key": "x"}, GOOD)[1]
    assert isinstance(later, BadRow)
    assert later.reason == "bad_id"


# --- meta ------------------------------------------------------------------------------------


def test_meta_keeps_what_no_template_uses_in_the_source_s_order() -> None:
    made = one(renderer(), {"z": "é", "q": "x", "b": [1, None], "a": "y", "c": {"k": True}})
    assert made.meta == '{"z": "é", "b": [1, null], "c": {"k": true}}'
    assert one(renderer(keep=["q", "z"]), GOOD | {"z": 1}).meta == '{"q": "question", "z": 1}'
    assert one(renderer(keep=[]), GOOD | {"z": 1}).meta == "{}"


def test_meta_is_json_whatever_the_column_holds() -> None:
    made = one(
        renderer(),
        GOOD
        | {
            "nan": float("nan"),
            "list": [float("inf"), 0.1],
            "time": datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
            "price": decimal.Decimal("1.10"),
        },
    )
    meta = json.loads(made.meta, parse_constant=pytest.fail)
    assert meta == {
        "nan": None,
        "list": [None, 0.1],
        "time": "2026-01-02T03:04:05+00:00",
        "price": "1.10",
    }


def test_a_column_that_json_cannot_hold() -> None:
    image = {"image": {"bytes": b"raw"}}
    with pytest.raises(UsageError, match=r"source\.keep: rows\.jsonl:1: 'image' holds bytes"):
        render(renderer(), GOOD | image)
    assert one(renderer(keep=[]), GOOD | image).meta == "{}"


def test_keep_names_a_column_that_is_none() -> None:
    with pytest.raises(UsageError, match=r"source\.keep: no column 'lvl'.*'level'"):
        render(renderer(keep=["lvl"]), GOOD | {"level": 3})
    rows = render(renderer(keep=["level"]), GOOD | {"level": 3}, GOOD)
    assert [row.meta for row in rows if isinstance(row, RenderedRow)] == ['{"level": 3}', "{}"]


# --- real rows -------------------------------------------------------------------------------


def _real(name: str, prompt: str, response: str, **source: Any) -> Iterator[RenderedRow | BadRow]:
    if not (SHARED / name).exists():
        pytest.skip(f"{SHARED / name} is not here")
    given = Source(files=[name], **source)
    made = Renderer(prompt, response, given, None)
    for row in open_source(given, SHARED, None).rows("train"):
        assert isinstance(row, Row)
        yield from made.render(row)


@pytest.mark.parametrize(
    ("name", "prompt", "response", "source", "first"),
    [
        ("gsm8k_train.jsonl", "Question: {{ question }}\nAnswer:", " {{ answer }}", {}, None),
        (
            "aqua_dev.jsonl",
            "{{ question }}\n{% for option in options %}{{ option }}\n{% endfor %}",
            "{{ rationale }}",
            {},
            None,
        ),
        (
            "mbpp_train.jsonl",
            "{{ text }}\n{{ test_list | join('\n') }}",
            "{{ code }}",
            {"id": "task_id"},
            "601",
        ),
    ],
)
def test_real_rows(name: str, prompt: str, response: str, source: Any, first: Any) -> None:
    made = list(_real(name, prompt, response, **source))
    assert all(isinstance(example, RenderedRow) for example in made)
    assert isinstance(made[0], RenderedRow)
    assert made[0].id == first
