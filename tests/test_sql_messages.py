"""What is said of a query that is wrong, or that asks for what is not there."""

from __future__ import annotations

import unicodedata

import pytest

from pausedata.core.errors import UsageError
from pausedata.query.notes import missing_names
from pausedata.query.run import run
from pausedata.query.session import Session
from pausedata.query.statements import Statement, is_complete, parse, statements
from tests.small_dataset import make_dataset


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    version = make_dataset(tmp_path_factory.mktemp("d") / "d")
    opened = Session(version, {"other": version})
    yield opened
    opened.close()


def said(session, sql):
    with pytest.raises(UsageError) as error:
        list(run(session, sql).batches())
    return str(error.value).splitlines()


@pytest.mark.parametrize(
    ("sql", "first"),
    [
        ("SELECT logprop FROM tokens", "No column 'logprop'. Did you mean 'logprob'?"),
        ("SELECT id FROM tokens ORDER BY logprop", "No column 'logprop'. Did you mean 'logprob'?"),
        ("FROM tokens t JOIN examples e ON t.id = e.idd", "No column 'idd'. Did you mean 'id'?"),
        ("SELECT tokns.id FROM tokens", "No view or alias 'tokns' in FROM. Did you mean 'tokens'?"),
        ("FROM tokns", "No view 'tokns'. Did you mean 'tokens'?"),
        ('FROM tokens WHERE run = "base"', 'No column "base": a text stands in single quotes'),
        (
            'FROM "scores/base"',
            "No view 'scores/base': FROM scores WHERE run = 'base'",
        ),
        ("FROM pauses WHERE run = 'base'", "No column 'run' here; it is in tokens, scores."),
        ("FROM other.tokns", "No view 'other.tokns'. Did you mean 'other.tokens'?"),
        ("FROM othr.tokens", "No dataset is attached as 'othr'. Did you mean 'other'?"),
        ("SELECT pplx(logprob) FROM tokens", "No function 'pplx'. Did you mean 'ppl'?"),
        ("SELECT arg_mxn(pos, rank) FROM tokens", "No function 'arg_mxn'. Did you mean 'arg_min'?"),
        ("SELECT id, pos FROM tokens GROUP BY id", 'column "pos" must appear in the GROUP BY'),
    ],
)
def test_the_first_line_names_what_is_near_and_the_others_the_place(session, sql, first):
    line, place, caret = said(session, sql)
    assert line.startswith(first)
    assert place == f"LINE 1: {sql}"
    assert set(caret.strip()) == {"^"}


@pytest.mark.parametrize(
    ("sql", "types"),
    [
        ("SELECT sum(token) FROM tokens", "(token is VARCHAR)"),
        ("SELECT pos + token FROM tokens", "(pos is INTEGER, token is VARCHAR)"),
        ("SELECT token > 5 FROM tokens", "(token is VARCHAR)"),
    ],
)
def test_a_type_error_names_the_columns(session, sql, types):
    assert said(session, sql)[0].endswith(types)


@pytest.mark.parametrize("before", ["", "'中🙂é', ", "'中',\t\t", "1,\t'" + "🙂é" * 60 + "', "])
def test_the_caret_stands_below_the_wrong_word(session, before):
    _, place, caret = said(session, f"SELECT {before}logprop FROM tokens")
    assert "\t" not in place
    left = place[: place.index("logprop")]
    columns = sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in left)
    assert caret == " " * columns + "^" * len("logprop")


def test_names_that_are_pausedatas_own_are_not_shown(session):
    shown = [row[0] for batch in run(session, "SHOW TABLES").batches() for row in batch]
    assert shown == [
        "examples", "gates", "pauses", "placements", "scores", "tokens", "tokens_nested", "vocab",
    ]  # fmt: skip
    assert "_scans" not in "".join(said(session, "SELECT id FROM other.tokens, examples"))
    described = [row[0] for batch in run(session, "DESCRIBE vocab").batches() for row in batch]
    assert described == ["token_id", "token", "bytes", "special"]
    [summary] = list(run(session, "SUMMARIZE vocab").batches())
    assert [row[0] for row in summary] == described


@pytest.mark.parametrize(
    ("sql", "notes"),
    [
        ("FROM tokens WHERE run = 'bsae'", ["run 'bsae'. Did you mean 'base'?"]),
        ("FROM tokens t WHERE 'bsae' = t.run", ["run 'bsae'. Did you mean 'base'?"]),
        ("FROM pauses WHERE placement <> 'thre'", ["placement 'thre'. Did you mean 'three'?"]),
        ("FROM examples WHERE split IN ('test', 'trian')", ["split 'trian'. Did you mean 'train'"]),
        ("WITH a AS (FROM tokens WHERE run = 'zz') FROM a WHERE id IN "
         "(SELECT id FROM examples WHERE split = 'qq')", ["split 'qq'.", "run 'zz'."]),
        ("SELECT pause_text(id, 'thre') FROM examples", ["placement 'thre'. Did you mean 'three'"]),
        ("SELECT pause_text(id, 'three') FROM examples", []),
        ("FROM tokens WHERE run = 'base' AND split = 'train'", []),
        ("FROM examples WHERE prompt = 'run' -- run = 'x'", []),
        ("FROM tokens WHERE run = id", []),
        ("SELECT 'run = ''x''' AS run", []),
        ("DESCRIBE tokens", []),
    ],
)  # fmt: skip
def test_runs_placements_and_splits_that_are_not_there_are_told(session, sql, notes):
    told = missing_names(parse(sql, session.connection), session.versions())
    assert len(told) == len(notes)
    for note in notes:
        assert any(line.startswith(f"There is no {note}") for line in told)


def test_statements_keep_the_numbers_of_their_lines(session):
    script = "SELECT 1;\n-- why\nSELECT ';\n';\n\nSELECT foo FROM tokens"
    first, second, third = statements(script, session.connection)
    assert list(run(session, first).batches()) == [[(1,)]]
    assert list(run(session, second).batches()) == [[(";\n",)]]
    assert said(session, third)[1] == "LINE 6: SELECT foo FROM tokens"
    with pytest.raises(UsageError, match="LINE 3: x y z"):
        statements("SELECT 1;\n\nx y z;", session.connection)
    [only] = statements(";\n;\n\nSELECT foo FROM tokens", session.connection)
    assert said(session, only)[1] == "LINE 4: SELECT foo FROM tokens"


def test_a_query_pasted_with_spaces_that_are_none_is_answered(session):
    pasted = "SELECT\u00a01,\u3000'\u00a0'; PIVOT\u00a0pauses ON placement USING sum(count)"
    first, second = statements(pasted, session.connection)
    assert list(run(session, first).batches()) == [[(1, "\u00a0")]]
    assert run(session, second).columns


def test_a_query_is_parsed_once_for_all_that_looks_at_it(session, monkeypatch):
    parses = []
    made = Statement.tree.func
    monkeypatch.setattr(Statement.tree, "func", lambda self: parses.append(1) or made(self))
    [asked] = statements("SELECT count(*) FROM tokens WHERE run = 'nope'", session.connection)
    assert list(run(session, asked).batches()) == [[(0,)]]
    assert len(missing_names(asked, session.versions())) == 1
    assert parses == [1]


@pytest.mark.parametrize(
    ("text", "complete"),
    [("SELECT 1;", True), ("SELECT 1; -- x", True), ("SELECT '🙂🙂;' ;", True), ("", False),
     ("SELECT 1", False), ("SELECT '🙂;", False), ("SELECT 1 -- ;", False), ("/* ;", False)],
)  # fmt: skip
def test_a_statement_is_complete_with_a_semicolon_of_its_own(text, complete):
    assert is_complete(text) == complete


def test_a_long_line_is_cut_around_its_caret(session):
    before, after = (
        "SELECT '" + "中" * 60 + "', ",
        ", " + ", ".join(f"{k} AS c{k}" for k in range(60)),
    )
    for sql in (
        before + "logprop" + after + " FROM tokens",
        "SELECT logprop" + after + " FROM tokens",
    ):
        _, place, caret = said(session, sql)
        columns = [2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in place]
        assert sum(columns) <= 79
        start = caret.index("^")
        under = [
            c for k, c in enumerate(place) if start <= sum(columns[:k]) < start + caret.count("^")
        ]
        assert "".join(under) == "logprop"


def test_a_column_of_meta_is_asked_for_as_json_is(session):
    [first, *_] = said(session, "SELECT meta.level FROM examples")
    assert first == "meta is JSON: meta->>'$.level' gives a column of it."


def test_what_ppl_does_not_take_is_told(session):
    [first, *_] = said(session, "SELECT ppl(logprob) FILTER (WHERE pos > 1) FROM tokens")
    assert "ppl(CASE WHEN" in first
