"""What a query cannot do: each way out is tried, and judged by its effects as well."""

from __future__ import annotations

import hashlib
import socket
import threading
from contextlib import suppress

import duckdb
import pytest

from pausedata.core.errors import DataError, UsageError
from pausedata.query.run import run as run_sql
from pausedata.query.session import Limits, Session
from pausedata.query.statements import parse, reading, statements
from pausedata.store.dataset import open_version
from tests.small_dataset import make_dataset

# @S a shard of the dataset, @D its folder, @O a file beside it, @T where DuckDB spills, @P a port.
ATTACKS = """
COPY tokens TO '@O'
COPY tokens TO '@S'
COPY (SELECT 1) TO '/dev/stdout'
COPY (SELECT 1) TO '@T/x.csv'
COPY tokens FROM '@S'
EXPORT DATABASE '@O'
IMPORT DATABASE '@D'
ATTACH '@O'
ATTACH '@D/new.db' AS n
ATTACH '@S' AS s (READ_ONLY)
ATTACH ':memory:' AS m
ATTACH 'http://127.0.0.1:@P/x.db' AS h
ATTACH '@O' AS q (TYPE sqlite)
USE temp
DETACH memory
CREATE TABLE t AS SELECT 1
CREATE OR REPLACE VIEW tokens AS SELECT 1
CREATE MACRO f(x) AS x
CREATE PERSISTENT SECRET s (TYPE s3)
CREATE TYPE t AS ENUM ('a')
CREATE SEQUENCE s
DROP VIEW tokens
INSERT INTO tokens VALUES (1)
UPDATE tokens SET pos = 1
DELETE FROM tokens
MERGE INTO tokens USING pauses USING (id) WHEN MATCHED THEN DELETE
SET threads = 1
SET enable_external_access = true
RESET lock_configuration
PRAGMA enable_profiling
PRAGMA profiling_output = '@O'
PRAGMA import_database('@D')
CALL enable_logging(storage = 'file', storage_path = '@O')
FROM enable_logging(storage = 'file', storage_path = '@O')
FROM enable_profiling(format = 'json', save_location = '@O', coverage = 'all')
LOAD httpfs
INSTALL httpfs
FORCE INSTALL httpfs
FROM read_csv('/etc/passwd')
FROM read_parquet('@S')
FROM '@S'
FROM read_json('@D/pausedata.json')
FROM read_text('/proc/self/environ')
FROM read_blob('@S')
FROM glob('@D/*')
FROM glob('@T/*')
FROM sniff_csv('/etc/passwd')
FROM parquet_metadata('@S')
FROM parquet_schema('@S')
FROM parquet_kv_metadata('@S')
FROM read_text('http://127.0.0.1:@P/x')
FROM 's3://bucket/x.parquet'
FROM 'https://127.0.0.1:@P/x.csv'
SELECT getenv('HOME')
SELECT current_setting('temp_directory')
FROM duckdb_settings()
FROM system.main.duckdb_settings()
FROM pg_catalog.pg_settings
SHOW temp_directory
FROM query('SELECT 1')
FROM query('COPY (SELECT 1) TO ''@O''')
FROM query_table('@S')
SELECT 1; COPY (SELECT 1) TO '@O'
/* SELECT */ COPY (SELECT 1) TO '@O'
EXPLAIN ANALYZE COPY (SELECT 1) TO '@O'
PREPARE p AS COPY (SELECT 1) TO '@O'
EXECUTE p
WITH x AS (INSERT INTO tokens VALUES (1) RETURNING *) FROM x
WITH x AS (COPY (SELECT 1) TO '@O') FROM x
WITH x AS (COPY (SELECT 1) TO '@T/x.csv') FROM x
FROM (WITH x AS (COPY (SELECT 1) TO '@T/x.csv') FROM x)
WITH x AS (COPY (SELECT 1) TO '@T/x.csv') PIVOT x ON Count
PIVOT (FROM "glob"('@T/*')) ON file
EXPLAIN ANALYZE WITH x AS (COPY (SELECT 1) TO '@T/x.csv') FROM x
VACUUM
CHECKPOINT
FROM checkpoint()
FROM force_checkpoint()
FROM duckdb_secrets()
FROM which_secret('s3://x', 's3')
FROM arrow_scan(NULL, NULL, NULL)
FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))
SELECT json_serialize_plan('SELECT 1')
SELECT (SELECT count(*) FROM read_csv('/etc/passwd'))
FROM frame
.import
""".strip().splitlines()
frame = "a Python variable in scope"


class World:
    """A dataset, an empty current folder, home and spill folder, and a server that counts."""

    def __init__(self, folder):
        self.folder = folder
        self.version = make_dataset(folder / "dataset")
        for name in ("cwd", "home", "spill"):
            (folder / name).mkdir()
        self.limits = Limits(spill=folder / "spill")
        self.connections = 0
        self.server = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._count, daemon=True).start()

    def _count(self):
        while True:
            try:
                self.server.accept()[0].close()
            except OSError:
                return
            self.connections += 1

    def sql(self, attack, spill):
        """The attack, aimed at this world."""
        places = {
            "@S": self.version.table("tokens").paths()[0], "@D": self.version.root,
            "@O": self.folder / "out", "@T": spill, "@P": self.server.getsockname()[1],
        }  # fmt: skip
        for mark, place in places.items():
            attack = attack.replace(mark, str(place))
        return attack

    def state(self):
        """Every file with its bytes, every folder, and how often the server was reached."""
        return self.connections, {
            str(p): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else ""
            for p in self.folder.rglob("*")
        }


@pytest.fixture
def world(tmp_path, monkeypatch):
    world = World(tmp_path)
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    yield world
    world.server.close()


def spill_of(session):
    return session.connection.execute("SELECT current_setting('temp_directory')").fetchone()[0]


def test_no_way_out_is_open(world):
    before = world.state()
    session = Session(world.version, limits=world.limits)
    during, spill = world.state(), spill_of(session)
    for attack in ATTACKS:
        with pytest.raises(UsageError):
            list(run_sql(session, world.sql(attack, spill)).batches())
            pytest.fail(attack)
        assert world.state() == during, attack
    session.close()
    assert world.state() == before


def test_duckdb_is_shut_off_even_where_the_check_of_statements_is_not_asked(world):
    before = world.state()
    for attack in ATTACKS:
        session = Session(world.version, limits=world.limits)
        with suppress(duckdb.Error):
            session.connection.execute(world.sql(attack, spill_of(session))).fetchall()
        session.close()
        assert world.state() == before, attack


def test_the_command_line_refuses_the_same(world, run):
    for attack in ATTACKS[::4]:
        ended = run("sql", world.version.root, world.sql(attack, world.folder / "spill"))
        assert (ended.status, ended.out) == (2, ""), attack
        assert ended.err.startswith("error: ")


def test_the_settings_show_nothing_of_the_environment(world, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://someone:hunter2@127.0.0.1:1")
    session = Session(world.version, limits=world.limits)
    shown = str(session.connection.execute("FROM duckdb_settings()").fetchall())
    session.close()
    assert "hunter2" not in shown
    assert str(world.folder / "home") not in shown


def test_an_unsafe_session_runs_scripts_each_statement_once(world):
    out = world.folder / "out.csv"
    session = Session(world.version, limits=Limits("500MB", 1, world.folder / "spill"), unsafe=True)
    assert run_sql(session, "CREATE TABLE t (a INTEGER)").columns == []
    assert list(run_sql(session, "INSERT INTO t VALUES (1)").batches()) == [[(1,)]]
    script = f"INSERT INTO t VALUES (2); COPY t TO '{out}'; SELECT sum(a), count(*) FROM '{out}'"
    *_, last = [list(run_sql(session, one).batches()) for one in statements(script, duckdb)]
    assert last == [[(3, 2)]]
    for one in statements(
        f"ATTACH '{world.folder / 'new.db'}' AS n; CREATE TABLE n.t AS FROM tokens", duckdb
    ):
        run_sql(session, one)
    assert list(run_sql(session, "SELECT count(*) FROM n.t").batches()) == [[(30,)]]
    session.close()


@pytest.mark.parametrize("memory", ["lots", "5", "-1GB", "1kB", "0GB", 4])
def test_memory_is_a_number_and_a_unit(memory):
    with pytest.raises(UsageError, match="'4GB' or '500MiB'"):
        Limits(memory=memory)


@pytest.mark.parametrize("threads", [0, -1, 5000, True, "2"])
def test_threads_are_a_number(threads):
    with pytest.raises(UsageError, match="from 1 to 1024"):
        Limits(threads=threads)


def test_a_query_larger_than_memory_is_refused_and_a_sort_spills(world):
    session = Session(world.version, limits=Limits("50MB", 1, world.folder / "spill"))
    with pytest.raises(Exception, match="more memory than there is"):
        list(
            run_sql(session, "SELECT len(list(a.range)) FROM range(3000) a, range(3000)").batches()
        )
    numbers = "SELECT hash(range)::VARCHAR AS a FROM range(600000)"
    ordered = f"SELECT max(v) FROM (SELECT lag(a) OVER (ORDER BY a) AS v FROM ({numbers}))"
    [[(last,)]] = run_sql(session, ordered).batches()
    plain = duckdb.connect().execute(numbers).fetchall()
    assert last == sorted(a for (a,) in plain)[-2]
    session.close()
    assert list((world.folder / "spill").iterdir()) == []


def test_a_spill_folder_that_is_none_is_named(world):
    with pytest.raises(UsageError, match="nothing can be written there"):
        Session(world.version, limits=Limits(spill=world.version.root / "pausedata.json"))


def test_links_out_of_a_dataset_are_not_followed(tmp_path):
    version = make_dataset(tmp_path / "d")
    shard = version.table("examples").paths()[0]
    shard.rename(tmp_path / "outside.parquet")
    shard.symlink_to(tmp_path / "outside.parquet")
    with pytest.raises(DataError, match="leads out of the dataset"):
        list(run_sql(Session(version), "FROM examples").batches())
    version.folder.rename(tmp_path / "elsewhere")
    version.folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="leads out of the dataset"):
        open_version(tmp_path / "d")


def test_what_no_tree_is_made_of_is_checked_by_its_words():
    reading(
        parse("PIVOT (SELECT 'glob(' AS \"copy\", 'é' AS b) ON \"copy\" USING count(b)", duckdb)
    )
    with pytest.raises(UsageError, match="'glob'"):
        reading(parse("PIVOT (SELECT 'é', file FROM \"GLOB\"('*')) ON file", duckdb))


@pytest.mark.parametrize(
    "sql",
    [
        # What ends EXPLAIN's options for a pattern does not for DuckDB.
        "EXPLAIN (ANALYZE /* ) SELECT 1 -- */ ) CREATE OR REPLACE VIEW tokens AS FROM vocab",
        "EXPLAIN (ANALYZE, FORMAT json -- ) SELECT 1 /*\n ) CREATE TABLE evil AS SELECT 1 -- */",
        "EXPLAIN ANALYZE --\r CREATE TABLE evil AS --\n SELECT 1",
        "EXPLAIN ANALYZE /* /* */ CREATE TABLE evil AS SELECT 1 /* */ */ SELECT 1",
        # Spaces for the parser, letters for the tokenizer.
        "PIVOT (SELECT name, value FROM\u00a0duckdb_settings()) ON name USING first(value)",
        "PIVOT (SELECT run,\u3000current_setting('temp_directory') AS x) ON x USING max(run)",
        "WITH c AS (\u2003COPY tokens TO 'b.csv') PIVOT tokens ON run USING count(*)",
        "PIVOT (SELECT run,\u200bgetenv('HOME') AS x FROM tokens) ON run USING max(x)",
    ],
)
def test_spaces_and_comments_hide_nothing(world, sql):
    session = Session(world.version)
    try:
        with pytest.raises(UsageError):
            list(run_sql(session, sql).batches())
        assert list(run_sql(session, "SELECT count(*) FROM tokens").batches()) == [[(30,)]]
        with pytest.raises(UsageError, match="No view 'evil'"):
            run_sql(session, "FROM evil")
    finally:
        session.close()


def test_what_slips_by_the_check_can_change_nothing(world, monkeypatch):
    """Nothing does, as far as is known: so the check is taken away."""
    monkeypatch.setattr("pausedata.query.run.reading", lambda statement: statement)
    session = Session(world.version)
    for sql in ("CREATE OR REPLACE VIEW tokens AS SELECT 1", "CREATE TABLE evil AS SELECT 1"):
        with pytest.raises(UsageError, match="read-only"):
            list(run_sql(session, sql).batches())
    assert list(run_sql(session, "SELECT count(*) FROM tokens").batches()) == [[(30,)]]
    session.close()
