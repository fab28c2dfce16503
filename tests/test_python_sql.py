"""SQL from Python: relations of ``pausedata.open(…).sql``, connections of ``pausedata.connect``."""

from __future__ import annotations

import gc
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pausedata
from pausedata.core.errors import UsageError
from pausedata.dataset import Dataset
from pausedata.query.views import VIEWS
from pausedata.store import read_locks
from tests.small_dataset import SHARDS, make_dataset

# Tokens of each run, and the least log-probability of each example in run base.
COUNT = sum(len(tokens) for *_, examples in SHARDS for *_, tokens in examples)
LEAST = {id: min(t[3] for t in tokens) for *_, examples in SHARDS for id, _, _, tokens in examples}

# Relations of DuckDB before 2.0 do not keep their connection, and their class is not Python's.
own_relations = pytest.mark.skipif(
    not hasattr(duckdb.DuckDBPyRelation, "to_arrow_reader"), reason="DuckDB before 2.0"
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("d") / "it's a dataset").root


@pytest.fixture
def data(root: Path) -> Dataset:
    return pausedata.open(root)


def damage(root: Path, shard: str) -> None:
    path = root / "versions" / "0001" / shard
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(whole)


def held(root: Path) -> bool:
    """Whether ``gc`` would leave version 1 alone."""
    gc.collect()
    with read_locks.excluding(root / "versions" / "0001" / "manifest.json") as state:
        return state == "held"


# Dataset.sql


LEAST_QUERY = "SELECT id, min(logprob) AS least FROM tokens WHERE run = 'base' GROUP BY id"


def test_a_query_gives_a_relation(data: Dataset) -> None:
    relation = data.sql(LEAST_QUERY)
    assert isinstance(relation, duckdb.DuckDBPyRelation)
    assert relation.columns == ["id", "least"]
    assert dict(relation.fetchall()) == LEAST
    assert dict(relation.fetchall()) == LEAST  # worked out again


def test_a_relation_becomes_arrow_pandas_and_polars(data: Dataset) -> None:
    relation = data.sql(LEAST_QUERY)
    rows = [{"id": id, "least": least} for id, least in sorted(LEAST.items())]
    arrow = pa.table(relation.order("id"))  # what anything that reads Arrow does
    assert arrow.to_pylist() == rows
    pytest.importorskip("pandas")
    assert relation.order("id").df().to_dict("records") == rows
    pytest.importorskip("polars")
    assert relation.order("id").pl().to_dicts() == rows


def test_relations_take_further_steps_and_are_joined(data: Dataset) -> None:
    least = data.sql(LEAST_QUERY).filter("least < -5")
    texts = data.sql("SELECT id, response FROM examples")
    joined = least.join(texts, "id").project("id, response").order("id")
    assert joined.fetchall() == [("e2", " 🙂."), ("e4", " The [bold]x"), ("e5", " is")]
    assert least.aggregate("count(*) AS n").fetchall() == [(3,)]


def test_functions_of_the_command_line_are_there(data: Dataset) -> None:
    query = "SELECT surprisal(logprob) FROM tokens WHERE run = 'base' AND logprob = -0.5"
    assert data.sql(query).fetchall() == [(pytest.approx(0.7213475204444817),)]  # 0.5 / ln 2


def test_values_are_given_beside_the_query(data: Dataset) -> None:
    query = "SELECT count(*) FROM tokens WHERE run = ? AND token = ?"
    assert data.sql(query, ["base", " The"]).fetchall() == [(2,)]
    named = "SELECT count(*) FROM tokens WHERE id = $id"
    assert data.sql(named, {"id": "' OR 1=1 --"}).fetchall() == [(0,)]
    with pytest.raises(UsageError, match="Values were not provided"):
        data.sql(query)


@own_relations
def test_two_relations_are_alive_at_once(data: Dataset) -> None:
    """Also while the rows of one are being read, which DuckDB refuses of one connection."""
    tokens = data.sql("SELECT logprob FROM tokens").arrow(1)
    first = tokens.read_next_batch()
    assert data.sql("SELECT count(*) FROM vocab").fetchall() == [(11,)]
    assert first.num_rows + sum(batch.num_rows for batch in tokens) == 2 * COUNT


def test_threads_ask_at_the_same_time(data: Dataset) -> None:
    together = threading.Barrier(6)

    def ask(run: str) -> list[Any]:
        together.wait()  # all make the session at once
        query = "SELECT count(*), min(logprob) FROM tokens WHERE run = ?"
        return [data.sql(query, [run]).fetchall() for _ in range(10)]

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, ["base", "other"] * 3))
    expected = {"base": [(COUNT, -9.0)], "other": [(COUNT, -10.0)]}
    assert answers == [[expected[run]] * 10 for run in ["base", "other"] * 3]


@own_relations
def test_a_relation_outlives_its_dataset_and_keeps_the_version(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "d").root
    relation = pausedata.open(root).sql(LEAST_QUERY)
    assert held(root)
    assert dict(relation.fetchall()) == LEAST
    del relation
    assert not held(root)


def test_a_dataset_that_was_asked_can_be_sent_to_a_process(data: Dataset) -> None:
    data.sql("FROM vocab").fetchall()
    sent = pickle.loads(pickle.dumps(data))
    assert dict(sent.sql(LEAST_QUERY).fetchall()) == LEAST


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("SELECT tokn FROM tokens", "No column 'tokn'. Did you mean 'token'?"),
        ("FROM tokns", "No view 'tokns'. Did you mean 'tokens'?"),
        ("SELECT * FROM data", "No view 'data'"),  # a Python variable is none
        ("SELECT FROM WHERE", "LINE 1"),
        ("CREATE TABLE x AS FROM tokens", "CREATE is not a query"),
        ("COPY tokens TO 'x.csv'", "COPY is not a query"),
        ("FROM read_csv('/etc/passwd')", "a query sees the dataset alone"),
        ("SELECT 1; SELECT 2", "Give one statement"),
    ],
)
def test_what_is_wrong_with_a_query_is_said_at_once(data: Dataset, query: str, told: str) -> None:
    with pytest.raises(UsageError) as error:
        data.sql(query)
    assert told in str(error.value)


def test_an_error_in_fetching_is_duckdbs_and_says_the_same(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "d").root
    damage(root, "tokens/test-00000-of-00001.parquet")  # the last: some rows have come before
    data = pausedata.open(root)
    relation = data.sql("SELECT id, token FROM tokens WHERE token IS NOT NULL")
    with pytest.raises(duckdb.Error, match=r"test-00000-of-00001.parquet: its sha256"):
        relation.fetchall()
    assert data.sql("SELECT count(*) FROM vocab").fetchall() == [(11,)]
    with pytest.raises(duckdb.Error, match="file system operations are disabled"):
        data.sql("SELECT 1").write_csv(str(tmp_path / "never.csv"))
    assert not (tmp_path / "never.csv").exists()


def test_a_run_that_is_not_there_is_warned_of(data: Dataset) -> None:
    with pytest.warns(UserWarning, match="There is no run 'bsae'. Did you mean 'base'"):
        assert data.sql("FROM tokens WHERE run = 'bsae'").fetchall() == []


def test_a_missing_shard_is_met_only_by_who_asks_for_it(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "d").root
    damage(root, "scores/other/train-00001-of-00003.parquet")
    assert dict(pausedata.open(root).sql(LEAST_QUERY).fetchall()) == LEAST


# pausedata.connect


@pytest.mark.parametrize("safe", [False, True])
def test_a_connection_has_the_views_and_functions(root: Path, safe: bool) -> None:
    connection = pausedata.connect(root, safe=safe)
    assert isinstance(connection, duckdb.DuckDBPyConnection)
    assert {name for (name,) in connection.execute("SHOW TABLES").fetchall()} == set(VIEWS)
    assert dict(connection.execute(LEAST_QUERY).fetchall()) == LEAST
    assert connection.execute("SELECT ppl(ln(0.5))").fetchall() == [(2.0,)]


def test_a_connection_makes_tables_and_attaches_databases(root: Path, tmp_path: Path) -> None:
    """As dbt and others have it: what is wanted goes into a file of DuckDB's, once."""
    connection = pausedata.connect(root)
    connection.execute("CREATE TABLE hard AS SELECT id, pos, token FROM tokens WHERE rank > 30")
    assert connection.execute("SELECT count(*) FROM hard").fetchall() == [(3,)]  # 500, 80, 33
    connection.execute(f"ATTACH '{tmp_path}/corpus.duckdb' AS corpus")
    connection.execute("CREATE TABLE corpus.tokens AS FROM tokens")
    connection.execute("DETACH corpus")
    with duckdb.connect(str(tmp_path / "corpus.duckdb"), read_only=True) as alone:
        assert dict(alone.execute(LEAST_QUERY).fetchall()) == LEAST


def test_a_connection_reads_and_writes_files_and_python_variables(
    root: Path, tmp_path: Path
) -> None:
    connection = pausedata.connect(root)
    connection.execute(f"COPY ({LEAST_QUERY}) TO '{tmp_path}/least.parquet'")
    assert pq.read_table(tmp_path / "least.parquet").num_rows == 5
    marks = pa.table({"id": ["e2", "e9"], "mark": [7, 8]})
    query = "SELECT id, mark, min(logprob) FROM tokens JOIN marks USING (id) GROUP BY ALL"
    assert connection.execute(query).fetchall() == [("e2", 7, -10.0)]
    assert marks.num_rows == 2


@pytest.mark.parametrize(
    "query",
    [
        "COPY tokens TO '{}/x.parquet'",
        "ATTACH '{}/x.duckdb'",
        "FROM read_csv('{}/x.csv')",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "FROM marks",
    ],
)
def test_a_safe_connection_reaches_nothing_else(root: Path, tmp_path: Path, query: str) -> None:
    marks = pa.table({"id": ["e2"]})
    (tmp_path / "x.csv").write_text("a\n1\n", encoding="utf-8")
    connection = pausedata.connect(root, safe=True)
    with pytest.raises(duckdb.Error):
        connection.execute(query.format(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]
    assert marks.num_rows == 1


def test_cursors_and_threads_see_the_views(root: Path) -> None:
    connection = pausedata.connect(root, threads=2)

    def ask(cursor: duckdb.DuckDBPyConnection) -> Any:
        return [cursor.execute(f"SELECT count(*) FROM {view}").fetchone() for view in VIEWS]

    expected = ask(connection)
    with ThreadPoolExecutor(4) as pool:
        cursors = [connection.cursor() for _ in range(8)]
        assert list(pool.map(ask, cursors)) == [expected] * 8
    assert ask(cursors[0].cursor()) == expected


def test_a_cursor_outlives_the_connection(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "d").root
    cursor = pausedata.connect(root).cursor()
    assert held(root)
    assert dict(cursor.execute(LEAST_QUERY).fetchall()) == LEAST
    cursor.close()
    assert not held(root)


def test_nothing_is_left_of_connections_that_are_dropped(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "d").root
    spill = tmp_path / "spill"
    spill.mkdir()
    for number in range(10):
        connection = pausedata.connect(root, spill=spill)
        connection.execute("SELECT token FROM tokens").fetchone()  # not to its end
        if number % 2:
            connection.close()
        assert len(list(spill.iterdir())) >= 1 - number % 2
    del connection
    assert not held(root)
    assert list(spill.iterdir()) == []


def test_what_does_not_fit_into_memory_spills_where_it_should(root: Path, tmp_path: Path) -> None:
    connection = pausedata.connect(root, memory="60MB", threads=1, spill=tmp_path)
    connection.execute("SELECT hash(range) AS h, range FROM range(8_000_000) ORDER BY h")
    spilled = [path for path in tmp_path.glob("pausedata-sql-*/**/*") if path.is_file()]
    assert spilled
    del connection
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_other_datasets_are_attached_by_path_or_as_they_were_opened(tmp_path: Path) -> None:
    first = make_dataset(tmp_path / "a")
    make_dataset(first.root, three={"e1": [(0, 1)]}, base=first)  # version 2, current
    make_dataset(tmp_path / "b", placements=False)
    before = pausedata.open(first.root, version=1)
    attached = {"bare": tmp_path / "b", "before": before}
    connection = pausedata.connect(first.root, attached=attached)

    def pauses(name: str) -> int:
        query = f"SELECT count(*) FROM {name} WHERE placement = 'three'"
        [(count,)] = connection.execute(query).fetchall()
        return count

    assert [pauses(name) for name in ("pauses", "bare.pauses", "before.pauses")] == [1, 0, 6]
    connection = pausedata.connect(first.root, 1)
    assert pauses("pauses") == 6


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"version": 7}, "no version 7"),
        ({"memory": "lots"}, "give a number and a unit"),
        ({"threads": 0}, "a number from 1 to"),
        ({"spill": "/no/such/folder"}, "nothing can be written there"),
        ({"attached": {"tokens": "."}}, "not a pausedata dataset"),
    ],
)
def test_a_wrong_option_is_said(root: Path, options: Any, told: str) -> None:
    with pytest.raises(UsageError) as error:
        pausedata.connect(root, **options)
    assert told in str(error.value)


def test_a_name_that_is_taken_is_not_attached(root: Path) -> None:
    with pytest.raises(UsageError, match="cannot name an attached dataset"):
        pausedata.connect(root, attached={"_scans": root})


# Other tools, where they are installed


def test_polars_reads_from_a_connection(root: Path) -> None:
    polars = pytest.importorskip("polars")
    found = polars.read_database(LEAST_QUERY, pausedata.connect(root))
    assert dict(found.iter_rows()) == LEAST


def test_a_cell_of_marimo_asks_a_connection(root: Path) -> None:
    marimo = pytest.importorskip("marimo")
    connection = pausedata.connect(root)
    found = marimo.sql(LEAST_QUERY, engine=connection, output=False)
    assert dict(found.iter_rows()) == LEAST


def test_ibis_builds_queries_over_a_connection(root: Path) -> None:
    ibis = pytest.importorskip("ibis")
    try:
        ibis.duckdb.connect().sql("SELECT 1 AS a").execute()
    except Exception as error:  # Ibis 12 calls what DuckDB 2.0 no longer has
        pytest.skip(f"this Ibis cannot use this DuckDB: {error}")
    there = ibis.duckdb.from_connection(pausedata.connect(root))
    assert set(there.list_tables()) == set(VIEWS)
    tokens, examples = there.table("tokens"), there.table("examples")
    base = tokens.filter(tokens.run == "base")
    least = base.group_by("id").agg(least=base.logprob.min())
    assert dict(least.execute().itertuples(index=False)) == LEAST
    joined = least.join(examples, "id").filter(lambda rows: rows.split == "test")
    assert joined.select("prompt", "least").execute().to_dict("records") == [
        {"prompt": "y", "least": -6.5}
    ]
