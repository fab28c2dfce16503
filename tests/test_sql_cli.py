"""`pausedata sql` on the command line: where the query comes from and where the rows go."""

from __future__ import annotations

import csv
import io
import json
import math
import signal
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from conftest import start, until_busy, wait_until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pausedata.cli.render.table import print_result
from pausedata.query.output import write
from pausedata.query.run import run as query
from pausedata.query.session import Session
from pausedata.query.values import short_float
from tests.small_dataset import make_dataset


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("d") / "d").root


@pytest.fixture(scope="module")
def session(root):
    from pausedata.store.dataset import open_version

    opened = Session(open_version(root))
    yield opened
    opened.close()


def piped(root, text, *options, **more):
    command = [sys.executable, "-c", "from pausedata.cli import main; main()", "sql", root]
    return subprocess.run(
        [*map(str, command), *options], input=text, capture_output=True, text=True, **more
    )


def test_the_query_comes_from_an_argument_a_file_or_standard_input(run, root, tmp_path):
    file = tmp_path / "q.sql"
    file.write_text("-- two\nSELECT 1 AS a;\nSELECT 2 AS a", encoding="utf-8")
    assert run("sql", root, "SELECT 1 AS a; SELECT 2 AS a", "--format", "jsonl").out == (
        '{"a": 1}\n{"a": 2}\n'
    )
    assert run("sql", root, "-f", file, "--format", "jsonl").out == '{"a": 1}\n{"a": 2}\n'
    for options in ([], ["-"]):
        done = piped(root, "SELECT 3 AS a;\nSELECT 4 AS a;", *options, "--format", "csv")
        assert (done.stdout, done.stderr) == ("a\n3\na\n4\n", "")
    refused = run("sql", root, "SELECT 1", "-f", file)
    assert (refused.status, "not both" in refused.err) == (2, True)
    assert "cannot be read" in run("sql", root, "-f", tmp_path / "none.sql").err
    two = run("sql", root, "-f", file, "--json")
    assert (two.status, two.out) == (2, "")
    assert "takes one statement, not 2" in two.err


def test_limit_says_that_more_rows_were_there(run, root, tmp_path):
    one = "SELECT id FROM examples ORDER BY id"
    done = run("sql", root, one, "--json", "--limit", 2)
    assert json.loads(done.out) == [{"id": "e1"}, {"id": "e2"}]
    assert "There are more rows: --limit 2" in done.err
    done = run("sql", root, one, "--json", "--limit", 5)
    assert (len(json.loads(done.out)), done.err) == (5, "")
    path = tmp_path / "x.parquet"
    done = run("sql", root, "FROM range(100000)", "--limit", 70000, "-o", path)
    assert pq.read_table(path).column(0).to_pylist() == list(range(70000))
    assert "70,000 rows" in done.err
    assert json.loads(run("sql", root, one, "--limit", 0, "--json").out) == []


def test_another_dataset_is_attached_by_name_at_a_version(run, root, tmp_path):
    other = make_dataset(tmp_path / "it's@1", runs=False).root
    count = "SELECT count(*) AS n, count(logprob) AS scored FROM o.tokens"
    for place in (other, f"{other}@1"):
        done = run("sql", root, count, "--attach", f"o={place}", "--json")
        assert json.loads(done.out) == [{"n": 15, "scored": 0}]
    for words, said in [
        ([f"o={other}@9"], "version"), (["o"], "NAME=PATH"), (["tokens=x"], "cannot name"),
        ([f"o={other}", f"O={other}"], "twice"), ([f"_scans={other}"], "cannot name"),
    ]:  # fmt: skip
        options = [word for one in words for word in ("--attach", one)]
        refused = run("sql", root, "SELECT 1", *options)
        assert refused.status in (1, 2)
        assert said in refused.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--memory", "4"], "a number and a unit"), (["--format", "cvs"], "Did you mean 'csv'?"),
        (["--json", "--format", "csv"], "leave out"), (["--spill", "/no/such"], "/no/such"),
        (["--format", "parquet"], "-o FILE"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(run, root, options, said):
    done = run("sql", root, "SELECT 1", *options)
    assert (done.status, done.out) == (2, "")
    assert said in done.err


def test_a_query_stays_within_its_memory(run, root, tmp_path):
    big = "SELECT count(*) AS n FROM (SELECT range, random() AS r FROM range(3000000) ORDER BY r)"
    limits = ["--memory", "40MB", "--threads", 1, "--spill", tmp_path]
    assert json.loads(run("sql", root, big, *limits, "--json").out) == [{"n": 3000000}]
    assert list(tmp_path.iterdir()) == []
    held = run("sql", root, "SELECT list(range || 'x') FROM range(9000000)", *limits)
    assert held.status == 1
    assert "--memory" in held.err


def test_a_missing_run_is_noted_and_no_error(run, root):
    done = run("sql", root, "SELECT count(*) AS n FROM tokens WHERE run = 'bsae'", "--json")
    assert (done.status, json.loads(done.out)) == (0, [{"n": 0}])
    assert "There is no run 'bsae'. Did you mean 'base'? There: 'base', 'other'." in done.err


def test_a_reader_that_goes_away_ends_it_quietly(root):
    command = [sys.executable, "-c", "from pausedata.cli import main; main()", "sql", str(root)]
    with subprocess.Popen(
        [*command, "FROM range(9000000000)", "--format", "csv"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout and process.stderr
        assert process.stdout.readline() == "range\n"
        process.stdout.close()
        assert process.stderr.read() == ""


def test_unsafe_statements_that_give_no_rows_print_none(run, root, tmp_path):
    sql = f"COPY (SELECT 1 AS a) TO '{tmp_path}/x.csv'; FROM '{tmp_path}/x.csv'"
    assert run("sql", root, sql, "--format", "csv").status == 2
    assert run("sql", root, sql, "--format", "csv", "--unsafe").out.endswith("a\n1\n")


# Formats


def texts(session, sql, format):
    stream = io.StringIO()
    write(query(session, sql), format, None, stream, print_result)
    return stream.getvalue()


def literal(text):
    return "'" + text.replace("'", "''") + "'"


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
VALUES = st.lists(
    st.tuples(
        st.none() | TEXT,
        st.none() | st.floats(width=32),
        st.none() | st.floats(),
        st.none() | st.integers(-(2**62), 2**62),
        st.none() | st.lists(st.floats(width=32), max_size=3),
    ),
    min_size=1,
    max_size=5,
)


def number(value, kind):
    return "NULL" if value is None else f"'{value!r}'::{kind}"


def rows_of(values):
    listed = []
    for text, short, long, whole, many in values:
        items = "NULL" if many is None else "[" + ", ".join(number(v, "FLOAT") for v in many) + "]"
        listed.append(
            f"({'NULL' if text is None else literal(text)}, {number(short, 'FLOAT')}, "
            f"{number(long, 'DOUBLE')}, {number(whole, 'BIGINT')}, {items}::FLOAT[])"
        )
    return f"FROM (VALUES {', '.join(listed)}) AS v(t, f, d, i, l)"


def finite(value):
    return value if value is not None and math.isfinite(value) else None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(values=VALUES)
def test_every_value_is_read_back_as_it_was(session, values):
    sql = rows_of(values)
    expected = [
        {
            "t": text, "f": short_float(short), "d": finite(long), "i": whole,
            "l": None if many is None else [short_float(v) for v in many],
        }
        for text, short, long, whole, many in values
    ]  # fmt: skip
    assert json.loads(texts(session, sql, "json")) == expected
    assert [json.loads(x) for x in texts(session, sql, "jsonl").split("\n")[:-1]] == expected
    _, *read = csv.reader(io.StringIO(texts(session, sql, "csv"), newline=""))
    for row, (text, short, long, whole, many) in zip(read, values, strict=True):
        assert row[0] == (text or "")
        for cell, value in ((row[1], short), (row[2], long)):
            same = cell == "" if value is None else repr(float(cell)) == repr(float(value))
            assert same or float(cell) == short_float(value)
        assert row[3] == ("" if whole is None else str(whole))
        assert row[4] == ("" if many is None else json.dumps([short_float(v) for v in many]))


def test_types_that_json_lacks_are_texts_and_large_integers_numbers(session):
    [row] = json.loads(
        texts(
            session,
            "SELECT DATE '2026-01-02' AS d, TIMESTAMP '2026-01-02 03:04:05' AS t, "
            "INTERVAL 3 DAY AS i, 1.50::DECIMAL(5, 2) AS m, 170141183460469231731::HUGEINT AS h, "
            "{'x': [DATE '2026-01-02'], 'n': 1::HUGEINT} AS s, MAP {'k': 1.5::FLOAT} AS p, "
            "'a'::ENUM ('a') AS e, '{\"k\": 1}'::JSON AS j, "
            "TIMESTAMP_NS '2026-01-02 03:04:05.1' AS n",
            "json",
        )
    )
    assert row == {
        "d": "2026-01-02", "t": "2026-01-02 03:04:05", "i": "3 days", "m": "1.50",
        "h": 170141183460469231731, "s": {"x": ["2026-01-02"], "n": 1}, "p": {"k": 1.5},
        "e": "a", "j": '{"k": 1}', "n": "2026-01-02 03:04:05.1",
    }  # fmt: skip


def test_a_row_of_one_empty_text_is_a_line_of_its_own(session):
    assert texts(session, "SELECT '' AS a UNION ALL SELECT NULL", "csv") == 'a\n""\n""\n'
    assert texts(session, 'SELECT 1 AS "a,b"', "csv") == '"a,b"\n1\n'


# Tables


def table(session, sql, width=None, **options):
    stream = io.StringIO()
    print_result(query(session, sql), stream, width, **options)
    return stream.getvalue().splitlines()


def test_a_pipe_gets_every_row_whole(session):
    lines = table(session, "SELECT range AS n, repeat('long ', 60) || 'end' AS t FROM range(3000)")
    assert len(lines) == 3002
    assert all(line.endswith("end") for line in lines[2:])
    assert table(session, "SELECT 1 AS a WHERE false") == ["a", "─"]


def test_columns_that_do_not_fit_become_lines(session):
    lines = table(session, "FROM tokens WHERE id = 'e4' AND run = 'base' ORDER BY pos", 40)
    assert lines[0].startswith("── 1 ──")
    assert lines[1:7] == [
        "id          e4", "split       train", "run         base", "pos         0",
        "token_id    1", "token        The",
    ]  # fmt: skip
    assert lines[12].startswith("── 2 ──")
    assert all(len(line) <= 40 for line in lines)


def test_wide_characters_take_two_columns_and_controls_are_shown(session):
    lines = table(session, "SELECT '中🙂' AS a, 1 AS b UNION ALL SELECT E'\\x1b[31m', 22", 60)
    assert lines == ["a       b", "─────────", "中🙂    1", "␛[31m  22"]
    lines = table(session, "SELECT repeat('中', 40) AS a, 1 AS b", 20)
    assert lines[2] == "中" * 8 + "…  1"


@pytest.mark.processes
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_a_query_and_leaves_nothing(root, tmp_path, sent, status):
    endless = "SELECT sum(a.range * b.range) FROM range(1_000_000_000) a, range(1_000_000_000) b"
    process = start("sql", root, endless, "--spill", tmp_path)
    wait_until(lambda: list(tmp_path.glob("*/in-use")), process)  # the session is made
    until_busy(process.pid)
    process.send_signal(sent)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (status, "")
    assert err.startswith("error: ") and len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "said"), [("a.parqet", "Did you mean 'parquet'?"), ("a.tsv", "--format")]
)
def test_an_ending_that_is_no_format_is_refused(run, root, tmp_path, name, said):
    done = run("sql", root, "SELECT 1", "-o", tmp_path / name)
    assert done.status == 2 and said in done.err
    assert not list(tmp_path.iterdir())


def test_a_pipe_gets_long_values_whole(session):
    stream = io.StringIO()
    print_result(query(session, "SELECT range(300) AS l, repeat('x', 5000) || 'END' AS t"), stream)
    row = stream.getvalue().splitlines()[2]
    assert row.startswith("[0, 1,") and "299]" in row and row.endswith("xEND")


def test_columns_that_many_rows_have_no_room_for_are_named(session):
    stream = io.StringIO()
    print_result(query(session, "FROM tokens"), stream, 50)
    *rows, note = stream.getvalue().splitlines()
    assert max(map(len, rows)) <= 50 and rows[0].startswith("id  split  run")
    assert note.startswith("too narrow for") or rows[-1].startswith("too narrow for")


def test_a_query_that_is_no_text_is_refused(run, root):
    done = run("sql", root, "SELECT '\udcff'")
    assert (done.status, done.err) == (2, "error: The query is not text in UTF-8.\n")
    assert run("sql", root, "SELECT 1", "--memory", "999999999999TB").status == 2
