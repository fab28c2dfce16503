"""What `pausedata sql` answers, how it writes it, and how it refuses."""

from __future__ import annotations

import csv
import io
import json
import random

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pausedata.cli.render.table import print_result
from pausedata.core.errors import DataError, UsageError
from pausedata.query.output import write
from pausedata.query.run import run
from pausedata.query.session import Limits, Session
from pausedata.query.statements import parse, reading
from pausedata.store.dataset import Table
from pausedata.store.tables import schema_of
from tests.small_dataset import SHARDS, VOCAB, make_dataset, resealed


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    # Quotes, wildcards and hive's `key=value` in the path are only characters.
    return make_dataset(tmp_path_factory.mktemp("d") / "it's [a]*?" / "k=v")


def rows(version, sql):
    return [row for batch in run(Session(version), sql).batches() for row in batch]


def columns(version, view):
    return [tuple(row[:2]) for row in rows(version, f"DESCRIBE {view}")]


TOKENS = [
    ("id", "VARCHAR"), ("split", "VARCHAR"), ("run", "VARCHAR"), ("pos", "INTEGER"),
    ("token_id", "INTEGER"), ("token", "VARCHAR"), ("char_start", "INTEGER"),
    ("char_end", "INTEGER"), ("logprob", "FLOAT"), ("rank", "INTEGER"), ("entropy", "FLOAT"),
]  # fmt: skip
PAUSES = [
    ("id", "VARCHAR"), ("split", "VARCHAR"), ("placement", "VARCHAR"), ("pos", "INTEGER"),
    ("count", "SMALLINT"), ("token", "VARCHAR"), ("logprob", "FLOAT"),
]  # fmt: skip


@pytest.mark.parametrize("runs", [True, False])
@pytest.mark.parametrize("placements", [True, False])
def test_every_view_has_its_columns_whatever_the_dataset_holds(tmp_path, runs, placements):
    version = make_dataset(tmp_path / "d", runs=runs, placements=placements)
    assert columns(version, "tokens") == TOKENS
    assert columns(version, "pauses") == PAUSES
    assert [n for n, _ in columns(version, "scores")] == [
        "id", "run", "n_tokens", "mean_logprob", "min_logprob", "logprob", "rank", "entropy",
    ]  # fmt: skip
    assert columns(version, "placements") == [
        ("id", "VARCHAR"), ("placement", "VARCHAR"), ("position", "INTEGER[]"),
        ("count", "SMALLINT[]"),
    ]  # fmt: skip
    assert len(rows(version, "FROM scores")) == (10 if runs else 0)
    assert len(rows(version, "FROM placements")) == (10 if placements else 0)
    assert bool(rows(version, "FROM pauses")) == placements


def test_examples_count_their_tokens(version):
    got = rows(version, "SELECT id, split, row, n_prompt, n_response FROM examples")
    assert got == [
        ("e1", "train", 0, 3, 5), ("e2", "train", 1, 3, 4), ("e3", "train", 0, 3, 2),
        ("e4", "train", 0, 3, 2), ("e5", "test", 0, 3, 2),
    ]  # fmt: skip


def test_tokens_are_one_row_for_each_token_and_run(version):
    assert rows(version, "FROM tokens WHERE id = 'e2' ORDER BY run, pos LIMIT 5") == [
        ("e2", "train", "base", 0, 7, " 🙂", 0, 2, -9.0, 500, 18.0),
        ("e2", "train", "base", 1, 8, "🙂(2)", 1, 2, -0.0625, 1, 0.125),
        ("e2", "train", "base", 2, 9, ".", 2, 3, -2.5, 4, 5.0),
        ("e2", "train", "base", 3, 0, "<eos>", 3, 3, -1.0, 1, 2.0),
        ("e2", "train", "other", 0, 7, " 🙂", 0, 2, -10.0, None, None),
    ]


def test_without_a_run_each_token_is_there_once(tmp_path):
    version = make_dataset(tmp_path / "d", runs=False)
    assert rows(version, "FROM tokens WHERE id = 'e4'") == [
        ("e4", "train", None, 0, 1, " The", 0, 4, None, None, None),
        ("e4", "train", None, 1, 10, " [bold]x", 4, 12, None, None, None),
    ]


def test_pauses_name_the_token_that_follows_in_the_run_that_placed_them(version):
    got = rows(version, "FROM pauses WHERE id IN ('e1', 'e3') ORDER BY placement, id, pos")
    assert got == [
        ("e1", "train", "fixed", 0, 3, " The", None),  # placed from no run
        ("e1", "train", "fixed", 5, 1, None, None),  # after the last token
        ("e3", "train", "fixed", 2, 4, None, None),
        ("e1", "train", "three", 1, 2, " sum", -3.0),
        ("e1", "train", "three", 3, 1, " 4", -1.5),
        ("e3", "train", "three", 0, 1, ' "ok"', -4.5),
    ]


def test_tables_that_are_sharded_differently_are_refused(tmp_path):
    (split, _, _, first), (_, _, _, second), (_, _, _, third), test = SHARDS
    other = [(split, 0, 2, [third[0], *second]), (split, 1, 2, first[::-1]), test]
    with pytest.raises(DataError, match="its shards are not those of tokens"):
        rows(make_dataset(tmp_path / "a", score_shards=other), "FROM tokens")
    swapped = [(split, 0, 3, first[::-1]), *SHARDS[1:]]
    version = make_dataset(tmp_path / "b", score_shards=swapped)
    for view in ("tokens", "pauses"):
        with pytest.raises(DataError, match="other examples than the shards beside it"):
            rows(version, f"SELECT token, logprob FROM {view}")


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """1,800 examples in three shards, each table with row groups of another size."""
    pick = random.Random(0)
    shards, expected = [], []
    for number in range(3):
        examples = []
        for k in range(600):
            id = f"{pick.getrandbits(48):012x}"
            n = pick.randint(0, 6)
            tokens = [
                (pick.randrange(len(VOCAB)), i, i + 1, -pick.randrange(1, 4000) / 128, 1 + i)
                for i in range(n)
            ] or [(0, 0, 0, -1.0, 1)]
            examples.append((id, f"p{k}", "x" * n, tokens))
            expected += [
                (id, i, t, VOCAB[t], lp, rank) for i, (t, _, _, lp, rank) in enumerate(tokens)
            ]
        shards.append(("train", number, 3, examples))
    version = make_dataset(tmp_path_factory.mktemp("many") / "d", placements=False, shards=shards)
    for size, table in ((64, "examples"), (97, "tokens"), (150, "scores/base")):
        for path in version.table(table).paths():
            whole = pq.read_table(path, partitioning=None)
            path.chmod(0o644)
            pq.write_table(whole, path, row_group_size=size, write_page_index=True)
    return resealed(version), expected


SELECT = "SELECT id, pos, token_id, token, logprob, rank FROM tokens WHERE run = 'base'"


@pytest.mark.parametrize("threads", [1, 4])
def test_tables_side_by_side_equal_joins_by_id(many, threads):
    """Filters, limits, sorting, semi-joins and samples, over shards and row groups."""
    version, expected = many
    connection = Session(version, limits=Limits(threads=threads)).connection

    def got(sql):
        return connection.execute(sql).fetchall()

    assert got(SELECT) == expected
    some = [expected[i] for i in (3, 2500, 4000)]
    ids = {row[0] for row in some}
    for row in some:
        assert got(f"{SELECT} AND id = '{row[0]}'") == [r for r in expected if r[0] == row[0]]
    assert got(f"{SELECT} AND logprob < -30") == [r for r in expected if r[4] < -30]
    assert got(f"{SELECT} AND rank = 6 AND token_id > 5") == [
        r for r in expected if r[5] == 6 and r[2] > 5
    ]
    assert got(f"{SELECT} AND token = '.'") == [r for r in expected if r[3] == "."]
    assert got(f"{SELECT} LIMIT 9 OFFSET 3001") == expected[3001:3010]
    by_logprob = sorted(expected, key=lambda r: (r[4], r[0], r[1]))
    assert got(f"{SELECT} ORDER BY logprob, id, pos LIMIT 7") == by_logprob[:7]
    listed = ", ".join(f"('{id}')" for id in ids)
    semi = f"{SELECT} AND id IN (SELECT q FROM (VALUES {listed}) AS v(q))"
    assert sorted(got(semi)) == sorted(r for r in expected if r[0] in ids)
    joined = f"FROM ({SELECT}) JOIN (VALUES {listed}) AS v(q) ON id = q ORDER BY id, pos"
    assert got(f"SELECT * EXCLUDE q {joined}") == sorted(r for r in expected if r[0] in ids)
    unaligned = "FROM tokens t JOIN (SELECT id AS e FROM examples) ON t.id = e"
    assert got(f"SELECT count(*) {unaligned}") == [(len(expected) * 2,)]
    sampled = got(f"SELECT * FROM ({SELECT}) USING SAMPLE 10% (system)")
    assert set(sampled) <= set(expected)


def test_a_top_n_over_examples_keeps_rows_together(many):
    version, expected = many
    lengths: dict[str, int] = {}
    for row in expected:
        lengths[row[0]] = lengths.get(row[0], 0) + 1
    wanted = sorted(lengths.items(), key=lambda item: (-item[1], item[0]))[:20]
    sql = "SELECT id, n_response FROM examples ORDER BY n_response DESC, id LIMIT 20"
    assert rows(version, sql) == wanted


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1", "  -- why\n WITH a AS (SELECT 1) FROM a;", "FROM tokens", "(SELECT 1)",
        "VALUES (1)", "DESCRIBE tokens", "SHOW TABLES", "SUMMARIZE examples", "EXPLAIN SELECT 1",
        "EXPLAIN ANALYZE /* x */ SELECT 1", "EXPLAIN (FORMAT json) SELECT 1", "EXPLAIN (SELECT 1)",
        "PIVOT pauses ON placement USING sum(count) GROUP BY id",
    ],
)  # fmt: skip
def test_what_reads_is_allowed(version, sql):
    assert run(Session(version), sql).columns


@pytest.mark.parametrize(
    "sql",
    [
        "COPY tokens TO 'x.csv'", "CREATE TABLE x AS SELECT 1", "INSERT INTO x VALUES (1)",
        "ATTACH 'x'", "SET threads = 1", "PRAGMA version", "INSTALL httpfs", "LOAD httpfs",
        "EXPORT DATABASE 'x'", "CALL pragma_version()", "DROP VIEW tokens", "CHECKPOINT",
        "EXPLAIN ANALYZE COPY tokens TO 'x.csv'", "EXPLAIN (ANALYZE) COPY tokens TO 'x.csv'",
        "CREATE TABLE x AS PIVOT pauses ON placement USING sum(count)",
        "/* SELECT */ EXPLAIN -- SELECT\n ANALYZE COPY tokens TO 'x.csv'",
    ],
)  # fmt: skip
def test_what_writes_is_refused(sql):
    with pytest.raises(UsageError):
        reading(parse(sql, duckdb))


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("", "The query is empty."),
        (" ; -- nothing", "The query is empty."),
        ("SELECT 1; SELECT 2", "Give one statement, not 2."),
        ("SELECT logprop FROM tokens", "No column 'logprop'. Did you mean 'logprob'?"),
        ("SELECT t.logprop FROM tokens t", "No column 'logprop'. Did you mean 'logprob'?"),
        ("SELECT logprob FROM examples", "it is in tokens, pauses, scores."),
        ("FROM tokns", "No view 'tokns'. Did you mean 'tokens'?"),
        ("FROM version", "No view 'version'."),  # not the Python variable of that name
        ("SELECT sum(token) FROM tokens", "No function matches"),
        ("SELECT coun(1)", "Did you mean"),
        ("SELECT 'a'::INTEGER", "Could not convert string 'a'"),
        ("SELECT ?", "parameters"),
        ("FROM 's3://bucket/x.parquet'", "sees the dataset alone"),
    ],
)
def test_a_wrong_query_is_told_in_three_lines_at_most(version, sql, said):
    with pytest.raises(UsageError) as error:
        rows(version, sql)
    assert said in str(error.value)
    assert len(str(error.value).splitlines()) <= 3


def test_a_syntax_error_points_at_its_place(version):
    with pytest.raises(UsageError) as error:
        run(Session(version), "SELECT *\nFROM tokens\nWHERE x x")
    assert str(error.value).splitlines() == [
        'syntax error at or near "x"', "LINE 3: WHERE x x", " " * 16 + "^",
    ]  # fmt: skip


def test_a_missing_shard_is_the_datas_fault(tmp_path):
    version = make_dataset(tmp_path / "d")
    version.table("scores/base").paths()[1].unlink()
    with pytest.raises(DataError, match="verify"):
        rows(version, "SELECT avg(logprob) FROM tokens")


MIXED = """SELECT 1 AS n, 'a,"b"' AS s, -1.2::FLOAT AS f, 'nan'::DOUBLE AS x, [0.1::FLOAT, 'inf'] AS l,
    '\\xFF'::BLOB AS b, DATE '2026-11-24' AS d, 1.50::DECIMAL(5, 2) AS m, sum(3) AS h, NULL AS z,
    {'k': true} AS o, 2 AS n"""  # noqa: E501


def written(version, sql, format, output=None):
    stream = io.StringIO()
    write(run(Session(version), sql), format, output, stream, print_result)
    return stream.getvalue()


def test_json_has_an_object_for_each_row_and_nothing_that_json_lacks(version):
    [row] = json.loads(written(version, MIXED, "json"))
    assert row == {
        "n": 1, "s": 'a,"b"', "f": -1.2, "x": None, "l": [0.1, None], "b": "/w==",
        "d": "2026-11-24", "m": "1.50", "h": 3, "z": None, "o": {"k": True}, "n_1": 2,
    }  # fmt: skip
    assert json.loads(written(version, "FROM tokens WHERE false", "json")) == []


def test_jsonl_has_one_object_a_line(version):
    text = written(version, "SELECT id, token FROM tokens WHERE run = 'base' AND pos = 2", "jsonl")
    assert [json.loads(line) for line in text.splitlines()] == [
        {"id": "e1", "token": "\n"}, {"id": "e2", "token": "."},
    ]  # fmt: skip


def test_csv_has_a_header_and_quotes_what_needs_it(version):
    header, row = csv.reader(io.StringIO(written(version, MIXED, "csv")))
    assert header == ["n", "s", "f", "x", "l", "b", "d", "m", "h", "z", "o", "n_1"]
    assert row == [
        "1", 'a,"b"', "-1.2", "nan", "[0.1, null]", "/w==", "2026-11-24", "1.50", "3", "",
        '{"k": true}', "2",
    ]  # fmt: skip


def test_parquet_needs_a_file_and_keeps_types(version, tmp_path):
    with pytest.raises(UsageError, match="-o FILE"):
        written(version, "FROM tokens", "parquet")
    path = tmp_path / "new" / "t.parquet"
    assert written(version, "FROM tokens", "parquet", path) == ""
    table = pq.read_table(path)
    assert table.num_rows == 30
    assert table.schema.field("logprob").type == pa.float32()
    written(version, "SELECT 1 AS a, 2 AS a -- twice", "parquet", path)
    assert pq.read_table(path).to_pylist() == [{"a": 1, "a_1": 2}]
    written(version, "FROM scores WHERE false;", "parquet", path)
    assert pq.read_table(path).num_rows == 0
    with pytest.raises(UsageError, match="Cast"):
        written(version, "SELECT INTERVAL 1 DAY AS i", "parquet", path)
    assert [p.name for p in path.parent.iterdir()] == ["t.parquet"]


def test_a_query_that_fails_midway_leaves_the_old_file(version, tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("old")
    sql = "SELECT CASE WHEN range < 9000 THEN '1' ELSE 'x' END::INTEGER AS n FROM range(9001)"
    with pytest.raises(UsageError, match="Could not convert"):
        written(version, sql, "csv", path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(UsageError, match="is a folder"):
        written(version, "SELECT 1", "csv", tmp_path)


def test_rows_of_a_view_are_the_stored_ones(version):
    first = json.loads(written(version, "FROM tokens_nested", "jsonl").splitlines()[0])
    stored = version.table("tokens").read(version.table("tokens").shards[0]).to_pylist()[0]
    assert first == stored
    assert [n for n, _ in columns(version, "vocab")] == schema_of("vocab").names


# A query reads only what it asks for


@pytest.fixture
def read(monkeypatch):
    """What is read of the shards meanwhile: ``(table, column)`` pairs."""
    seen = set()
    whole = Table.read

    def spy(table, shard, columns=None, **options):
        seen.update((table.name, column) for column in columns)
        return whole(table, shard, columns, **options)

    monkeypatch.setattr(Table, "read", spy)
    return seen


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT count(*) FROM examples", {}),
        ("SELECT count(*) FROM examples WHERE split = 'test'", {}),
        ("SELECT max(n_prompt) FROM examples", {"examples": "id", "tokens": "id prompt_ids"}),
        ("SELECT count(*) FROM tokens WHERE run = 'base'", {"scores/base": "id n_tokens"}),
        ("SELECT avg(logprob) FROM tokens WHERE run = 'base'",
         {"scores/base": "id n_tokens logprob"}),
        ("SELECT token, count(*) FROM tokens WHERE run = 'base' AND split = 'train' GROUP BY ALL",
         {"scores/base": "id n_tokens", "tokens": "id response_ids", "vocab": "token_id token"}),
        ("SELECT sum(count) FROM pauses WHERE placement = 'three'",
         {"placements/three": "id position count"}),
        ("SELECT mean_logprob FROM scores WHERE run = 'other'", {"scores/other": "mean_logprob"}),
    ],
)  # fmt: skip
def test_a_query_reads_the_columns_that_it_needs(version, read, sql, expected):
    assert rows(version, sql)
    wanted = {(table, name) for table, names in expected.items() for name in names.split()}
    assert read == wanted


def test_where_no_example_passes_nothing_else_is_read(version, read):
    assert rows(version, "SELECT logprob FROM tokens WHERE id = 'e0' AND run = 'base'") == []
    assert read == {("tokens", "id")}
    read.clear()
    assert rows(version, "SELECT token FROM tokens WHERE logprob < -99 AND run = 'base'") == []
    assert read == {("scores/base", "id"), ("scores/base", "n_tokens"), ("scores/base", "logprob")}


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT count(*) FROM examples WHERE n_response > 2", [(2,)]),
        ("SELECT count(*) FROM examples a, examples b WHERE a.n_response < b.n_response", [(7,)]),
        ("SELECT DISTINCT n_response FROM examples ORDER BY 1", [(2,), (4,), (5,)]),
        ("SELECT id FROM examples ORDER BY n_response DESC, id LIMIT 3",
         [("e1",), ("e2",), ("e3",)]),
        ("SELECT id FROM examples WHERE id IN (SELECT id FROM tokens WHERE logprob < -6) "
         "ORDER BY 1", [("e2",), ("e4",), ("e5",)]),
        ("SELECT count(*) FROM tokens WHERE entropy IS NULL", [(15,)]),
        ("SELECT count(*) FROM tokens WHERE logprob < -6 AND split = 'test' OR rank = 500",
         [(3,)]),
        ("SELECT count(*) FROM tokens WHERE id = 'e1' AND logprob > -1 AND run = 'base'", [(3,)]),
        ("SELECT id, pos FROM tokens WHERE token = ' sum' AND run = 'base'", [("e1", 1)]),
        ("SELECT sum(t.rank) FROM tokens t JOIN pauses p USING (id, pos) "
         "WHERE placement = 'three'", [(9 + 2 + 500 + 12 + 80 + 33,)]),
        ("SELECT count(*) FROM (FROM examples INTERSECT FROM examples)", [(5,)]),
        ("PIVOT examples ON split USING sum(n_response) GROUP BY row ORDER BY row",
         [(0, 2, 9), (1, None, 4)]),
        ("SELECT count(*) FROM scores WHERE rank IS NULL", [(5,)]),
        ("WITH RECURSIVE r AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM r, examples "
         "WHERE x < 3 AND n_response = 5) SELECT x FROM r ORDER BY x", [(1,), (2,), (3,)]),
    ],
)  # fmt: skip
def test_questions_over_several_views(version, sql, expected):
    assert rows(version, sql) == expected


def test_ids_that_the_vocabulary_lacks_have_no_text(tmp_path):
    strange = ("e9", "p", "x", [(len(VOCAB) + 3, 0, 1, -1.0, 1), (0, 1, 1, -2.0, 1)])
    version = make_dataset(tmp_path / "d", placements=False, shards=[("train", 0, 1, [strange])])
    sql = "SELECT token_id, token FROM tokens WHERE run = 'base'"
    assert rows(version, sql) == [(len(VOCAB) + 3, None), (0, "<eos>")]
