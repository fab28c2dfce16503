"""Queries that DuckDB answers alone, without pyarrow: as a session does, and no others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pausedata.core.errors import DataError, UsageError
from pausedata.query.direct import Direct
from pausedata.query.run import run as run_sql
from pausedata.query.session import Limits, Session
from pausedata.query.statements import parse
from pausedata.store.dataset import Version, checked, open_version
from pausedata.store.files import sha256_of
from pausedata.store.opening import POINTER, read_opened
from tests.small_dataset import make_dataset, resealed
from tests.test_sandbox import ATTACKS, World

STORED = [
    "SELECT count(*) FROM examples",
    "FROM examples",
    "SELECT split, count(*), sum(n_response), max(n_prompt) FROM examples GROUP BY ALL ORDER BY 1",
    "SELECT e FROM examples AS e WHERE n_response > 2",
    "FROM scores",
    "SELECT run, avg(mean_logprob), sum(n_tokens) FROM scores GROUP BY run ORDER BY run",
    "SELECT id, logprob[1], rank FROM Scores WHERE run = 'base' AND len(logprob) > 3",
    "FROM placements",
    "FROM gates",
    "FROM vocab",
    "FROM tokens_nested",
    "WITH Hard AS (FROM scores WHERE min_logprob < -5) SELECT id, prompt FROM examples JOIN hard "
    "USING (id) WHERE run = 'base' ORDER BY id",
    "SELECT id FROM examples WHERE id IN (SELECT id FROM placements) UNION ALL SELECT '🙂' AS id",
    "SELECT e.id, s.id, i FROM examples e, scores s, range(2) t(i) WHERE e.id = s.id ORDER BY ALL",
    "SELECT DATE '2026-01-02' AS d, 1.50 AS x, [0.1::FLOAT] AS l, 2::HUGEINT AS h, {'a': [1]} AS s",
    "SELECT 1 AS a, 2 AS a, NULL AS n",
    "SELECT * FROM examples WHERE false",
]
OTHERS = [
    "FROM tokens", "FROM pauses", "DESCRIBE examples", "SUMMARIZE scores", "SHOW TABLES",
    "FROM duckdb_views()", "FROM information_schema.tables", "FROM main.examples",
    "SELECT context(id, 0, 1) FROM examples", "SELECT ppl(mean_logprob) FROM scores",
    "EXPLAIN SELECT 1", "PIVOT placements ON placement USING count(*)",
    "WITH examples AS (FROM tokens) FROM examples",
]  # fmt: skip


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return make_dataset(tmp_path_factory.mktemp("d") / "it's k=v")


@pytest.fixture
def made() -> list[Session]:
    """The sessions that were needed."""
    return []


@pytest.fixture
def direct(version: Version, made: list[Session]) -> Iterator[Direct]:
    with_session = opened(version.root, made)
    yield with_session
    with_session.close()


def opened(root: Path, made: list[Session]) -> Direct:
    found = read_opened(root)

    def session() -> Session:
        made.append(Session(checked(found)))
        return made[-1]

    return Direct(found, Limits(), session)


def answer(direct: Direct, sql: str, limit: int | None = None) -> tuple[object, ...]:
    result = direct.run(parse(sql, direct.connection), limit)
    rows = [row for batch in result.batches() for row in batch]
    return result.columns, list(map(str, result.types)), rows, result.more, result.done


@pytest.mark.parametrize("sql", STORED)
@pytest.mark.parametrize("limit", [None, 0, 1])
def test_what_reads_stored_tables_is_answered_alike_without_a_session(
    version: Version, direct: Direct, made: list[Session], sql: str, limit: int | None
) -> None:
    result = run_sql(Session(version), sql, limit)
    rows = [row for batch in result.batches() for row in batch]
    told = result.columns, list(map(str, result.types)), rows, result.more, result.done
    assert answer(direct, sql, limit) == told
    assert made == []


def test_several_queries_are_answered_one_after_the_other(
    direct: Direct, made: list[Session]
) -> None:
    counts = [answer(direct, f"SELECT count(*) FROM {view}")[2] for view in ("vocab", "examples")]
    first = direct.run(parse("FROM scores", direct.connection)).batches(2)
    assert len(next(first)) == 2  # whose other rows nobody asks for
    assert counts == [[(11,)], [(5,)]] and answer(direct, "SELECT 1")[2] == [(1,)]
    assert made == []


def test_only_the_shards_that_views_show_may_be_opened(direct: Direct) -> None:
    [[allowed]] = direct.connection.execute("SELECT current_setting('allowed_paths')").fetchall()
    assert {Path(path).suffix for path in allowed} == {".parquet"}
    assert not any("exports" in path for path in allowed)


def test_a_name_that_with_makes_opens_no_shard_of_that_path(direct: Direct) -> None:
    """It holds where it is made; outside of it DuckDB would take the name for a file's."""
    [[allowed]] = direct.connection.execute("SELECT current_setting('allowed_paths')").fetchall()
    inside = f'(WITH "{allowed[0]}" AS (SELECT 1) FROM "{allowed[0]}")'
    with pytest.raises(UsageError, match="a query sees the dataset alone"):
        answer(direct, f'SELECT count(*) FROM "{allowed[0]}" WHERE 1 IN {inside}')


def test_its_rows_come_as_arrow_too(version: Version, direct: Direct) -> None:
    for sql in STORED:
        told = run_sql(Session(version), sql).arrow(as_text=True).read_all()
        assert direct.run(parse(sql, direct.connection)).arrow(as_text=True).read_all() == told


@pytest.mark.parametrize("sql", OTHERS)
def test_whatever_else_a_query_names_is_left_to_the_session(
    direct: Direct, made: list[Session], sql: str
) -> None:
    answer(direct, sql)
    answer(direct, "FROM pauses")
    assert len(made) == 1  # for all that follows


@pytest.mark.parametrize("sql", ["SELECT nix FROM examples", "FROM exmples", "SELECT nix(1)"])
def test_what_is_wrong_with_a_query_is_told_as_ever(
    version: Version, direct: Direct, sql: str
) -> None:
    with pytest.raises(UsageError) as told:
        run_sql(Session(version), sql)
    with pytest.raises(UsageError) as said:
        answer(direct, sql)
    assert str(said.value) == str(told.value)


def test_no_way_out_is_open_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[Session]
) -> None:
    world = World(tmp_path)
    monkeypatch.chdir(tmp_path / "cwd")
    direct = opened(world.version.root, made)
    answer(direct, "FROM examples")
    before, spill = world.state(), direct._spill.path
    for attack in ATTACKS:
        with pytest.raises(UsageError):
            answer(direct, world.sql(attack, spill))
            pytest.fail(attack)
        assert world.state() == before, attack
    direct.close()
    world.server.close()
    assert not spill.exists()


def test_a_damaged_shard_is_left_to_the_session_that_says_what_is_wrong(
    tmp_path: Path, made: list[Session]
) -> None:
    shard = make_dataset(tmp_path / "d").table("vocab").paths()[0]
    whole = shard.read_bytes()
    shard.chmod(0o644)
    shard.write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
    direct = opened(tmp_path / "d", made)
    assert answer(direct, "SELECT count(*) FROM examples")[2] == [(5,)]
    with pytest.raises(DataError, match="sha256 is not the manifest's"):
        answer(direct, "SELECT count(*) FROM vocab")
    shard.unlink()
    with pytest.raises(DataError, match="missing"):
        answer(direct, "FROM vocab")
    assert len(made) == 1


def test_damage_to_a_table_that_the_session_need_not_read_stops_no_query(
    tmp_path: Path, made: list[Session]
) -> None:
    shard = make_dataset(tmp_path / "d").table("tokens").paths()[0]
    shard.unlink()
    direct = opened(tmp_path / "d", made)
    assert answer(direct, "SELECT count(*) FROM examples")[2] == [(5,)]


def test_a_link_out_of_the_dataset_is_not_followed(tmp_path: Path, made: list[Session]) -> None:
    shard = make_dataset(tmp_path / "d").table("vocab").paths()[0]
    shard.rename(tmp_path / "outside.parquet")
    shard.symlink_to(tmp_path / "outside.parquet")
    with pytest.raises(DataError, match="leads out of the dataset"):
        answer(opened(tmp_path / "d", made), "FROM vocab")


def test_examples_whose_tokens_are_others_are_damaged(tmp_path: Path, made: list[Session]) -> None:
    version = make_dataset(tmp_path / "d")
    path = version.table("tokens").paths()[0]
    rows = pq.read_table(path)
    ids = pa.array(["other", *rows.column("id").to_pylist()[1:]])
    path.chmod(0o644)
    pq.write_table(rows.set_column(0, rows.schema.field("id"), ids), path)
    resealed(version)
    direct = opened(version.root, made)
    with pytest.raises(DataError, match="has other examples than tokens"):
        answer(direct, "SELECT sum(n_response) FROM examples")


def test_a_path_that_looks_like_a_pattern_is_left_to_the_session(
    tmp_path: Path, made: list[Session]
) -> None:
    make_dataset(tmp_path / "a*[b]")
    assert answer(opened(tmp_path / "a*[b]", made), "SELECT count(*) FROM examples")[2] == [(5,)]
    assert len(made) == 1


def test_large_tables_are_left_to_the_session(
    direct: Direct, made: list[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads the columns and shards that a query needs, and hashes no others."""
    largest = sum(s.bytes for s in open_version(direct.opened.root).table("scores/base").shards)
    monkeypatch.setattr("pausedata.query.direct._MOST_BYTES", largest)
    answer(direct, "FROM vocab")
    assert made == []
    answer(direct, "FROM scores")  # two of them together are larger
    assert len(made) == 1


@pytest.mark.parametrize("shards", [5, "x", [{"path": "../../x", "bytes": 1}], [{"path": 1}]])
def test_a_manifest_that_is_none_is_not_believed(
    tmp_path: Path, made: list[Session], shards: object
) -> None:
    version = make_dataset(tmp_path / "d")
    path = version.folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["tables"]["vocab"]["shards"] = shards
    path.chmod(0o644)
    path.write_text(json.dumps(manifest), encoding="utf-8")
    pointer = json.loads((version.root / POINTER).read_text(encoding="utf-8"))
    pointer["sha256"] = sha256_of(path)
    (version.root / POINTER).write_text(json.dumps(pointer), encoding="utf-8")
    with pytest.raises(DataError, match=r"damaged: tables\.vocab\.shards"):
        answer(opened(version.root, made), "FROM vocab")
