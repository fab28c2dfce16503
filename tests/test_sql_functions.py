"""The functions of `pausedata sql`: their values by hand, and by plain Python over the tables."""

from __future__ import annotations

import math

import pytest
from conftest import in_ci
from hypothesis import given, settings
from hypothesis import strategies as st

from pausedata.query.macros import FUNCTIONS
from pausedata.query.session import Session
from pausedata.store.dataset import Table
from tests.small_dataset import FIXED, SHARDS, THREE, VOCAB, make_dataset, resealed

EXAMPLES = {example[0]: example for *_, examples in SHARDS for example in examples}
PLACEMENTS = {"three": THREE, "fixed": FIXED}


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("functions") / "d")


@pytest.fixture(scope="module")
def ask(version):
    session = Session(version, attached={"other": version})
    yield lambda sql: session.connection.execute(sql).fetchall()
    session.close()


def one(ask, expression):
    [(value,)] = ask(f"SELECT {expression}")
    return value


# By hand


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("context('e1', 1, 1)", " The⟦ sum⟧\n"),
        ("context('e1', 1, 0)", "⟦ sum⟧"),
        ("context('e1', 1, 2)", " The⟦ sum⟧\n 4"),  # cut at the beginning
        ("context('e1', 3, 2147483647)", " The sum\n⟦ 4⟧"),
        ("context('e1', 4, 1)", " 4⟦<eos>⟧"),  # an EOS has no characters: its name
        ("context('e2', 0, 1)", "⟦ 🙂⟧"),  # two tokens share the emoji: it is there once,
        ("context('e2', 1, 1)", " ⟦🙂⟧."),  # and whole
        ("context('e2', 2, 1)", "🙂⟦.⟧"),
        ("context('e3', 0, 1)", '⟦ "ok"⟧'),
        ("context('e4', 1, 1)", " The⟦ [bold]x⟧"),
        ("token_at('e2', 1)", "🙂(2)"),
        ("token_at('e1', 2)", "\n"),
        ("token_at('e1', 4)", "<eos>"),
        ("pause_text('e1', 'three')", " The[PAUSE][PAUSE] sum\n[PAUSE] 4"),
        ("pause_text('e1', 'fixed')", "[PAUSE][PAUSE][PAUSE] The sum\n 4[PAUSE]"),
        ("pause_text('e2', 'three')", "[PAUSE] 🙂."),
        ("pause_text('e2', 'fixed')", " 🙂."),  # no pause
        ("pause_text('e5', 'three')", " is[PAUSE]"),  # before an EOS
        ("surprisal(-ln(8))", 3.0),
        ("surprisal(0)", 0.0),
    ],
)
def test_values(ask, expression, expected):
    assert one(ask, expression) == expected


@pytest.mark.parametrize(
    "expression",
    [
        "context('e1', 5, 1)", "context('e1', -1, 1)", "context('e1', 0, -1)",
        "context('e0', 0, 1)", "context(NULL, 0, 1)", "context('e1', NULL, 1)",
        "context('e1', 0, NULL)", "token_at('e1', 5)", "token_at('e1', -1)", "token_at('', 0)",
        "token_at(NULL, 0)", "token_at('e1', NULL)", "pause_text('e0', 'three')",
        "pause_text('e1', 'nothing')", "pause_text(NULL, 'three')", "pause_text('e1', NULL)",
        "surprisal(NULL)",
    ],
)  # fmt: skip
def test_what_is_not_there_is_null(ask, expression):
    assert one(ask, expression) is None


def test_ppl_is_an_aggregate(ask):
    got = ask(
        "SELECT id, ppl(logprob) FROM tokens WHERE run = 'base' AND id IN ('e3', 'e4') "
        "GROUP BY id ORDER BY id"
    )
    [(e3, first), (e4, second)] = got
    assert (e3, e4) == ("e3", "e4")
    assert first == pytest.approx(math.exp((4.5 + 0.75) / 2))
    assert second == pytest.approx(math.exp((1.0 + 7.0) / 2))
    assert one(ask, "ppl(logprob) FROM tokens WHERE false") is None


def test_functions_of_an_attached_dataset(tmp_path, version):
    changed = {**THREE, "e1": [(4, 1)]}
    other = make_dataset(tmp_path / "other", three=changed)
    session = Session(version, attached={"later": other})
    sql = (
        "SELECT later.pause_text('e1', 'three'), main.pause_text('e1', 'three'), "
        "later.context('e1', 1, 0), later.token_at('e1', 0), later.ppl(-1), later.surprisal(-1)"
    )
    [row] = session.connection.execute(sql).fetchall()
    assert row[:4] == (
        " The sum\n 4[PAUSE]", " The[PAUSE][PAUSE] sum\n[PAUSE] 4", "⟦ sum⟧", " The",
    )  # fmt: skip
    assert row[4:] == pytest.approx((math.e, 1 / math.log(2)))


def test_a_dataset_without_placements_has_no_text_with_pauses(tmp_path):
    bare = make_dataset(tmp_path / "d", runs=False, placements=False)
    connection = Session(bare).connection
    sql = "SELECT pause_text('e1', 'three'), context('e1', 1, 0), token_at('e1', 1)"
    assert connection.execute(sql).fetchall() == [(None, "⟦ sum⟧", " sum")]


def test_a_token_that_the_vocabulary_lacks(tmp_path):
    strange = ("e9", "p", "x", [(len(VOCAB) + 3, 0, 1, -1.0, 1), (len(VOCAB) + 4, 1, 1, -2.0, 1)])
    made = make_dataset(tmp_path / "d", placements=False, shards=[("train", 0, 1, [strange])])
    connection = Session(made).connection
    sql = "SELECT token_at('e9', 0), context('e9', 0, 1), context('e9', 1, 1)"
    assert connection.execute(sql).fetchall() == [(None, "⟦x⟧", "x⟦⟧")]


def test_several_added_tokens_have_their_own_names(tmp_path):
    two = ("e9", "p", " 4", [(4, 0, 2, -1.0, 1), (9, 2, 2, -1.0, 1), (0, 2, 2, -1.0, 1)])
    none = ("e8", "p", "", [(0, 0, 0, -1.0, 1)])
    shards = [("train", 0, 1, [two, none])]
    made = make_dataset(tmp_path / "d", placements=False, shards=shards)
    connection = Session(made).connection
    sql = (
        "SELECT context('e9', 0, 2), context('e9', 1, 1), context('e9', 2, 2), context('e8', 0, 3)"
    )
    assert connection.execute(sql).fetchall() == [("⟦ 4⟧", " 4⟦.⟧", " 4⟦<eos>⟧", "⟦<eos>⟧")]


# In queries


@pytest.mark.parametrize("name", ["id", "pos", "n", "response", "char_start", "count", "example"])
def test_columns_of_the_query_keep_their_meaning_whatever_they_are_called(ask, name):
    got = ask(
        f"SELECT context(x.a, b, 0), pause_text({name}, 'three'), token_at({name}, {name}_2) "
        f"FROM (VALUES ('e1', 1, 'e2', 0), ('e4', 1, 'e3', 0)) x(a, b, {name}, {name}_2)"
    )
    assert got == [("⟦ sum⟧", "[PAUSE] 🙂.", " 🙂"), ("⟦ [bold]x⟧", '[PAUSE] "ok"', ' "ok"')]


@pytest.mark.parametrize("alias", ["vocab", "examples", "tokens_nested", "x"])
def test_so_do_tables(ask, alias):
    got = ask(
        f"SELECT context({alias}.id, {alias}.pos, 0), token_at({alias}.id, {alias}.pos), "
        f"pause_text({alias}.id, {alias}.name) FROM (VALUES ('e1', 1, 'three')) "
        f"{alias}(id, pos, name)"
    )
    assert got == [("⟦ sum⟧", " sum", " The[PAUSE][PAUSE] sum\n[PAUSE] 4")]


def test_an_argument_is_worked_out_once(ask):
    """`random()` in it does not give the two ends of a span from two tokens."""
    got = ask(
        "SELECT DISTINCT context('e1', (random() * 3 + k)::INTEGER - k, 0) FROM range(200) x(k)"
    )
    assert {text for (text,) in got} == {"⟦ The⟧", "⟦ sum⟧", "⟦\n⟧", "⟦ 4⟧"}


def test_every_row_keeps_its_own_value(ask):
    """Repeated ids, NULL ids, and rows of all placements at once."""
    got = ask(
        "SELECT k, pause_text(id, placement), context(id, k, 0) FROM (VALUES (0, 'e1', 'fixed'), "
        "(1, 'e1', 'three'), (1, 'e1', 'three'), (2, NULL, 'three'), (3, 'e5', 'fixed')) "
        "x(k, id, placement) ORDER BY k"
    )
    three = (1, " The[PAUSE][PAUSE] sum\n[PAUSE] 4", "⟦ sum⟧")
    assert got == [
        (0, "[PAUSE][PAUSE][PAUSE] The sum\n 4[PAUSE]", "⟦ The⟧"), three, three,
        (2, None, None), (3, "[PAUSE][PAUSE][PAUSE] is", None),
    ]  # fmt: skip


def test_only_texts_and_spans_are_read(version, monkeypatch):
    seen = set()
    whole = Table.read

    def spy(table, shard, columns=None, **options):
        seen.update((table.name, column) for column in columns or [])
        return whole(table, shard, columns, **options)

    monkeypatch.setattr(Table, "read", spy)
    connection = Session(version).connection
    spans = {("tokens", c) for c in ("id", "char_start", "char_end", "response_ids")}
    text = {("examples", "id"), ("examples", "response")}
    vocab = {("vocab", "token_id"), ("vocab", "token")}
    connection.execute("SELECT context('e1', 0, 1)").fetchall()
    assert seen == spans | text | vocab
    seen.clear()
    connection.execute("SELECT pause_text('e1', 'three')").fetchall()
    assert seen == text | {("tokens", "id"), ("tokens", "char_start")} | {
        ("placements/three", c) for c in ("id", "position", "count")
    }
    seen.clear()
    connection.execute("SELECT token_at('e1', 0)").fetchall()
    assert seen == {("tokens", "id"), ("tokens", "response_ids")} | vocab
    seen.clear()
    connection.execute("SELECT pause_text('e1', 'nothing')").fetchall()
    assert seen == set()


def test_a_damaged_shard_is_not_read(tmp_path):
    made = make_dataset(tmp_path / "d", three={**THREE, "e1": [(9, 1)]})
    session = Session(resealed(made))
    with pytest.raises(Exception, match="a position lies beyond its response"):
        session.connection.execute("SELECT pause_text('e1', 'three')").fetchall()


# By plain Python


def plain_context(id, pos, n):
    """Character by character: which belong to the token, and which to its neighbours."""
    if id not in EXAMPLES or not 0 <= pos < len(EXAMPLES[id][3]):
        return None
    _, _, response, tokens = EXAMPLES[id]
    own = set(range(tokens[pos][1], tokens[pos][2]))
    before, after = set(), set()
    for k, (_, start, end, *_) in enumerate(tokens):
        if pos - n <= k < pos:
            before |= set(range(start, end))
        if pos < k <= pos + n:
            after |= set(range(start, end))
    # A character that several tokens share is shown once: in the one asked for.
    before, after = sorted(before - own), sorted(after - own)
    left, right = ("".join(response[c] for c in part) for part in (before, after))
    middle = "".join(response[c] for c in sorted(own)) or VOCAB[tokens[pos][0]]
    return f"{left}⟦{middle}⟧{right}"


def plain_pause_text(id, placement):
    """Token by token."""
    if id not in EXAMPLES or placement not in PLACEMENTS:
        return None
    _, _, response, tokens = EXAMPLES[id]
    starts = [start for _, start, *_ in tokens] + [len(response)]
    text, done = "", 0
    for position, count in PLACEMENTS[placement][id]:
        while done < starts[position]:
            text += response[done]
            done += 1
        text += count * "[PAUSE]"
    return text + response[done:]


ids = st.sampled_from([*EXAMPLES, "e0"])
questions = st.lists(st.tuples(ids, st.integers(-2, 6), st.integers(0, 6)), max_size=20)


@settings(deadline=None, max_examples=in_ci(60))
@given(questions)
def test_context_and_token_at_equal_plain_python(ask, asked):
    rows = [*asked, ("e1", 0, 0)]
    listed = ", ".join(f"({k}, '{id}', {pos}, {n})" for k, (id, pos, n) in enumerate(rows))
    got = ask(
        "SELECT context(id, pos, n), token_at(id, pos) "
        f"FROM (VALUES {listed}) x(k, id, pos, n) ORDER BY k"
    )
    tokens = {id: dict(enumerate(example[3])) for id, example in EXAMPLES.items()}
    texts = [VOCAB[tokens[i][p][0]] if p in tokens.get(i, {}) else None for i, p, _ in rows]
    assert got == [(plain_context(*row), text) for row, text in zip(rows, texts, strict=True)]


@settings(deadline=None, max_examples=in_ci(40))
@given(st.lists(st.tuples(ids, st.sampled_from(["three", "fixed", "nothing"])), max_size=12))
def test_pause_text_equals_plain_python(ask, asked):
    rows = [*asked, ("e1", "three")]
    listed = ", ".join(f"({k}, '{id}', '{placement}')" for k, (id, placement) in enumerate(rows))
    got = ask(
        f"SELECT pause_text(id, placement) FROM (VALUES {listed}) x(k, id, placement) ORDER BY k"
    )
    assert got == [(plain_pause_text(*row),) for row in rows]


def test_every_function_says_what_it_takes_and_gives(ask):
    made = ask(
        "SELECT DISTINCT function_name, array_to_string(parameters, ', ') FROM duckdb_functions() "
        "WHERE schema_name = 'other' AND function_type = 'macro'"
    )
    assert dict(made) == {name: function.parameters for name, function in FUNCTIONS.items()}
    assert all(function.gives for function in FUNCTIONS.values())
