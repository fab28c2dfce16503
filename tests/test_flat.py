"""A flat copy of the tokens in the cache: quicker, and never another answer."""

from __future__ import annotations

import pytest

from pausedata.core.errors import UsageError
from pausedata.query.run import run
from pausedata.query.session import Session
from pausedata.store.dataset import Table
from tests.small_dataset import SHARDS, make_dataset

EVERYTHING = "FROM tokens ORDER BY ALL"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "it's a [cache]*?" / "k=v"
    monkeypatch.setenv("PAUSEDATA_CACHE", str(folder))
    return folder


def rows(session, sql=EVERYTHING):
    return [row for batch in run(session, sql).batches() for row in batch]


def copies(cache):
    return {p.relative_to(cache).parts[1] for p in cache.glob("flat/*/*.parquet")}


@pytest.mark.parametrize("runs", [True, False])
def test_the_rows_are_the_same(tmp_path, cache, runs):
    version = make_dataset(tmp_path / "d", runs=runs)
    assert rows(Session(version, flat=True)) == rows(Session(version))
    assert len(copies(cache)) == (2 if runs else 1)
    described = "DESCRIBE tokens"
    assert rows(Session(version, flat=True), described) == rows(Session(version), described)


def test_a_copy_is_made_once_and_the_shards_are_not_read_again(tmp_path, cache, monkeypatch):
    version = make_dataset(tmp_path / "d")
    expected = rows(Session(version, flat=True))
    monkeypatch.setattr(Table, "read", None)
    assert rows(Session(version, flat=True)) == expected


def test_other_scores_get_a_copy_of_their_own(tmp_path, cache):
    version = make_dataset(tmp_path / "d")
    Session(version, flat=True)
    before = copies(cache)
    (split, number, of, [first, *rest]), *others = SHARDS
    id, prompt, response, [(token, start, end, logprob, rank), *tokens] = first
    changed = (id, prompt, response, [(token, start, end, logprob - 1, rank), *tokens])
    shards = [(split, number, of, [changed, *rest]), *others]
    other = make_dataset(tmp_path / "other", shards=shards)
    assert rows(Session(other, flat=True)) == rows(Session(other)) != rows(Session(version))
    assert len(copies(cache)) == 2 * len(before)


def test_a_damaged_copy_is_made_again(tmp_path, cache):
    version = make_dataset(tmp_path / "d")
    expected = rows(Session(version, flat=True))
    for path in cache.glob("flat/*/*.parquet"):
        path.write_bytes(path.read_bytes()[:-9])
    for path in cache.glob("flat/*/done.json"):
        assert path.is_file()
    assert rows(Session(version, flat=True)) == expected
    next(cache.glob("flat/*/done.json")).write_text("{")
    assert rows(Session(version, flat=True)) == expected
    assert not [p for p in (cache / "flat").iterdir() if p.name.startswith(".")]


def test_where_the_cache_cannot_be_written_it_says_so(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PAUSEDATA_CACHE", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="PAUSEDATA_CACHE"):
        Session(make_dataset(tmp_path / "d"), flat=True)


def test_a_query_may_read_no_other_file(tmp_path, cache):
    version = make_dataset(tmp_path / "d")
    session = Session(version, flat=True)
    (beside,) = list(cache.glob("flat/*/done.json"))[:1]
    shard = version.table("tokens").paths()[0]
    for path in (beside, shard):
        with pytest.raises(UsageError, match="sees the dataset alone"):
            rows(session, f"SELECT * FROM read_text('{str(path).replace(chr(39), chr(39) * 2)}')")


def test_datasets_attached_have_their_own(tmp_path, cache):
    one, two = make_dataset(tmp_path / "a"), make_dataset(tmp_path / "b", runs=False)
    session = Session(one, attached={"other": two}, flat=True)
    assert rows(session) == rows(Session(one))
    assert rows(session, "FROM other.tokens ORDER BY ALL") == rows(Session(two))
