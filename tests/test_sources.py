"""Where rows come from: files of each format, and datasets laid out as on the Hub."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pausedata.core.errors import DataError, UnreachableError, UsageError
from pausedata.sources import BadRow, OpenSource, Row, open_source
from pausedata.sources.records import is_local_hub
from pausedata.sources.spec import Source

SHARED = Path(__file__).parents[2] / "shared" / "data"


def files(folder: Path, *names: str, **settings: Any) -> OpenSource:
    return open_source(Source(files=list(names), **settings), folder, None)


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def good(rows: Any) -> list[dict[str, Any]]:
    """The columns of all rows, none of which may be bad."""
    listed = list(rows)
    assert all(isinstance(row, Row) for row in listed), listed
    return [row.columns for row in listed]


def only_bad(source: OpenSource) -> BadRow:
    (bad,) = [row for row in source.rows("train") if isinstance(row, BadRow)]
    return bad


ROWS = [{"q": "one", "a": "1"}, {"q": "two, 二", "a": ""}, {"q": 'thr"ee\nlines', "a": "3"}]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)
CUT_OFF = gzip.compress(JSONL.encode(), mtime=0)[:-9]
CSV = 'q,a\none,1\n"two, 二",\n"thr""ee\nlines",3\n'


# --- every format gives the same rows ---------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", JSONL),
        ("rows.ndjson", JSONL.rstrip("\n")),
        ("ROWS.JSONL", JSONL.replace("\n", "\r\n")),
        ("rows.json", json.dumps(ROWS)),
        ("pretty.json", json.dumps(ROWS, indent=2, ensure_ascii=False) + "\n\n"),
        ("rows.csv", CSV),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_text_formats(tmp_path: Path, name: str, content: str, packed: bool, bom: bytes) -> None:
    data = bom + content.encode()
    write(tmp_path / name, data)
    if packed:
        name += ".gz"
        write(tmp_path / name, gzip.compress(data))
    assert good(files(tmp_path, name).rows("train")) == ROWS


def test_parquet(tmp_path: Path) -> None:
    write_parquet(tmp_path / "rows.parquet", ROWS * 400)  # several batches
    source = files(tmp_path, "rows.parquet")
    assert good(source.rows("train")) == ROWS * 400
    assert source.count("train") == 1200
    assert files(tmp_path, "rows.parquet", limit=5).count("train") == 5


def test_several_files_continue_one_index_and_limit_stops_it(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", '{"x": 0}\n\n  \n{"x": 1}\n')
    write(tmp_path / "b.csv", "x\n2\n3\n")
    write_parquet(tmp_path / "c.parquet", [{"x": 4}])
    source = files(tmp_path, "a.jsonl", "b.csv", "c.parquet", split="dev")
    rows = list(source.rows("dev"))
    assert [(row.split, row.index, row.where) for row in rows] == [
        ("dev", 0, "a.jsonl:1"),
        ("dev", 1, "a.jsonl:4"),  # blank lines are no rows, and the line number stays true
        ("dev", 2, "b.csv:2"),
        ("dev", 3, "b.csv:3"),
        ("dev", 4, "c.parquet[0]"),
    ]
    limited = files(tmp_path, "a.jsonl", "b.csv", limit=3)
    assert [row.index for row in limited.rows("train")] == [0, 1, 2]
    assert source.columns("dev") == ["x"]
    assert source.count("dev") is None, "lines are not counted ahead: that would read the file"


def test_paths_are_relative_to_the_recipe_and_stay_out_of_provenance(tmp_path: Path) -> None:
    write(tmp_path / "data" / "rows.jsonl", JSONL)
    (tmp_path / "recipes").mkdir()
    source = files(tmp_path / "recipes", "../data/rows.jsonl")
    expected = hashlib.sha256(JSONL.encode()).hexdigest()
    assert source.provenance() == {
        "files": [{"name": "rows.jsonl", "sha256": expected, "bytes": len(JSONL.encode())}]
    }
    assert good(source.rows("train")) == ROWS


def test_an_array_is_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pausedata.sources.readers.CHUNK", 1)
    write(tmp_path / "rows.json", json.dumps([*ROWS, {"n": 12345, "t": "x" * 999}], indent=1))
    rows = good(files(tmp_path, "rows.json").rows("train"))
    assert rows == [*ROWS, {"n": 12345, "t": "x" * 999}]
    write(tmp_path / "rows.json", " [ ] ")
    assert good(files(tmp_path, "rows.json").rows("train")) == []


# --- a row that cannot be read is counted, and the rest are read ------------------------------


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (b'{"q": "x"', "bad_json", "column 10: Expecting ',' delimiter"),
        (b'{"q": ' + b"9" * 5000 + b"}", "bad_json", "column 1: Exceeds the limit"),
        (b'{"q": ' + b"[" * 100_000, "bad_json", "column"),
        (b'{"q": "caf\xe9"}', "bad_utf8", "byte 11 of the line"),
        (b"[1, 2]", "not_an_object", "not an array"),
        (b"null", "not_an_object", "not null"),
        (b'{"q": "\\ud800"}', "bad_utf8", "surrogate"),
        (b'{"q": [{"\\uDFFF": 1}]}', "bad_utf8", "surrogate"),
    ],
)
def test_bad_lines(tmp_path: Path, line: bytes, reason: str, detail: str) -> None:
    write(tmp_path / "rows.jsonl", b'{"q": 0}\n\n' + line + b'\n{"q": 1}\n')
    source = files(tmp_path, "rows.jsonl")
    assert [row.index for row in source.rows("train")] == [0, 1, 2]
    bad = only_bad(source)
    assert (bad.where, bad.index, bad.reason) == ("rows.jsonl:3", 1, reason)
    assert detail in bad.detail


def test_what_json_tolerates_is_tolerated(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", '{"a": 1, "a": NaN, "b": -Infinity, "c": "\\ud83d\\ude00"}')
    (row,) = good(files(tmp_path, "rows.jsonl").rows("train"))
    assert row["a"] != row["a"]
    assert row["b"] == -float("inf")
    assert row["c"] == "😀"


def test_bad_elements_of_an_array(tmp_path: Path) -> None:
    write(tmp_path / "rows.json", b'[{"q": "caf\xe9"}, 7, {"q": "\\udc00"}, {"q": "ok"}]')
    rows = list(files(tmp_path, "rows.json").rows("train"))
    reasons = [row.reason if isinstance(row, BadRow) else "" for row in rows]
    assert reasons == ["bad_utf8", "not_an_object", "bad_utf8", ""]
    assert rows[1].where == "rows.json[1]"


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (b"only one", "ragged", "1 cells, and the header has 2"),
        (b"a,b,c", "ragged", "3 cells"),
        (b"caf\xe9,1", "bad_utf8", "UTF-8"),
        (b'"a"b,1', "bad_csv", "expected after"),
    ],
)
def test_bad_csv_lines(tmp_path: Path, line: bytes, reason: str, detail: str) -> None:
    write(tmp_path / "rows.csv", b'q,a\n"two\nlines",1\n' + line + b"\nx,y\n")
    source = files(tmp_path, "rows.csv")
    bad = only_bad(source)
    assert (bad.where, bad.index, bad.reason) == ("rows.csv:4", 1, reason)
    assert detail in bad.detail
    assert len(list(source.rows("train"))) == 3


def test_a_quote_that_never_closes_names_the_row_where_it_opens(tmp_path: Path) -> None:
    write(tmp_path / "rows.csv", 'q,a\nx,1\n"y,2\nz,3\n')
    bad = only_bad(files(tmp_path, "rows.csv"))
    assert (bad.where, bad.reason) == ("rows.csv:3", "bad_csv")


def test_parquet_strings_that_are_not_utf8(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    raw = pa.array([b"fine", b"caf\xe9", b"too"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    pq.write_table(pa.table({"q": text}), tmp_path / "rows.parquet")
    source = files(tmp_path, "rows.parquet")
    assert len(list(source.rows("train"))) == 3
    assert (only_bad(source).where, only_bad(source).reason) == ("rows.parquet[1]", "bad_utf8")


# --- a file that cannot be read ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl.gz", CUT_OFF, "x.jsonl.gz: broken or cut off gzip"),
        ("x.jsonl.gz", b"no gzip", "x.jsonl.gz: broken or cut off gzip"),
        ("x.parquet", b"PAR1 is not enough PAR1", "x.parquet: not readable as Parquet"),
        ("x.json", '{"q": 1}\n{"q": 2}', "one object a line, name it .jsonl"),
        ("x.json", '[{"q": 1},\n{"q" 2}]', "x.json:2: broken JSON"),
        ("x.json", '[{"q": 1},\n]', "x.json:2: broken JSON"),
        ("x.json", "[", "x.json:1: broken JSON"),
        ("x.json", '[{"q": 1}', "expected ',' or ']'"),
        ("x.json", "[1] 2", "something follows the array"),
        ("x.json", "", "array of objects"),
        ("x.csv", "", "begins with a line of column names"),
        ("x.csv", "a,b,a\n1,2,3\n", "names 'a' twice"),
    ],
)
def test_broken_files(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    write(tmp_path / name, content)
    with pytest.raises(DataError, match="x") as error:
        list(files(tmp_path, name).rows("train"))
    assert message in str(error.value)
    assert str(tmp_path) not in str(error.value)


def test_a_missing_file_names_the_one_most_like_it(tmp_path: Path) -> None:
    write(tmp_path / "problems.jsonl", JSONL)
    with pytest.raises(UsageError, match=r"no file 'problem\.jsonl'.*mean 'problems\.jsonl'"):
        files(tmp_path, "problem.jsonl")
    with pytest.raises(UsageError, match="there is no folder"):
        files(tmp_path, "nowhere/problems.jsonl")
    with pytest.raises(UsageError, match="is a folder"):
        files(tmp_path, ".")


@pytest.mark.parametrize("name", ["rows.txt", "rows", "rows.parquet.gz", "rows.jsonl.zst"])
def test_an_unknown_format_names_those_there_are(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, JSONL)
    with pytest.raises(UsageError, match=r"\.jsonl.*\.csv.*\.parquet"):
        files(tmp_path, name)


# --- datasets of the Hub, here as a local folder ----------------------------------------------

CARD = """---
configs:
- config_name: main
  data_files:
  - {split: train, path: main/train-*}
  - {split: test, path: main/test-*}
- config_name: socratic
  data_files:
  - {split: train, path: socratic/train-*}
---
"""
TRAIN = [{"question": f"q{n}", "answer": f"a{n}"} for n in range(5)]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder laid out as openai/gsm8k is, and a cache of `datasets` of its own."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "hub" / "gsm8k"
    write(folder / "README.md", CARD)
    for name in ("main/train", "main/test", "socratic/train"):
        rows = TRAIN if name == "main/train" else TRAIN[:2]
        write_parquet(folder / f"{name}-00000-of-00001.parquet", rows)
    return folder


def local(folder: Path, /, **settings: Any) -> OpenSource:
    given = {"hub": "./gsm8k", "config": "main"} | settings
    return open_source(Source(**given), folder.parent, None)


def test_a_folder_laid_out_like_a_hub_dataset(hub: Path) -> None:
    source = local(hub, split=["train", "test"])
    assert good(source.rows("train")) == TRAIN
    assert [row.where for row in source.rows("test")] == ["gsm8k test[0]", "gsm8k test[1]"]
    assert (source.count("train"), source.count("test")) == (5, 2)
    assert source.columns("train") == ["question", "answer"]
    provenance = source.provenance()
    assert (provenance["hub"], provenance["config"]) == ("gsm8k", "main")
    assert [file["name"] for file in provenance["files"]] == [
        "main/train-00000-of-00001.parquet",
        "main/test-00000-of-00001.parquet",
    ]
    assert str(hub.parent) not in json.dumps(provenance)
    limited = local(hub, limit=2, split=["train", "test"])
    assert good(limited.rows("train")) == TRAIN[:2]
    assert limited.count("train") == 2


def test_a_replaced_file_is_read_anew_even_with_the_same_time(hub: Path) -> None:
    """The cache of `datasets` would give the old rows, under the new file's sha256."""
    import os

    assert good(local(hub).rows("train")) == TRAIN
    path = hub / "main/train-00000-of-00001.parquet"
    time = path.stat().st_mtime_ns
    write_parquet(path, [{"question": "new", "answer": "new"}])
    os.utime(path, ns=(time, time))
    assert good(local(hub).rows("train")) == [{"question": "new", "answer": "new"}]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"config": None}, r"config: 'gsm8k' has several: give one of 'main', 'socratic'"),
        ({"config": "sokratic"}, r"no config 'sokratic'. Did you mean 'socratic'\? Configs: 'm"),
        ({"split": "trian"}, r"no split 'trian'. Did you mean 'train'\? Splits: 'train', 'test'"),
        ({"hub": "./gsm8"}, r"no folder './gsm8': .* Did you mean 'gsm8k'\?"),
        ({"hub": "json", "config": None}, "'json' is a file format"),
        ({"hub": "https://huggingface.co/datasets/x/y"}, "no dataset id. Write ORG/NAME"),
    ],
)
def test_what_is_missing_is_named(hub: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        local(hub, **settings)


def test_a_folder_without_data_and_a_broken_file(hub: Path) -> None:
    (hub.parent / "empty").mkdir()
    with pytest.raises(UsageError, match="no data that can be read"):
        local(hub, hub="./empty", config=None)
    write(hub / "main/train-00000-of-00001.parquet", b"PAR1junkPAR1")
    with pytest.raises(DataError, match="'gsm8k' cannot be read"):
        list(local(hub).rows("train"))


def test_images_are_handed_on_undecoded(hub: Path) -> None:
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    features = datasets.Features({"q": datasets.Value("string"), "image": datasets.Image()})
    row = {"q": "x", "image": {"bytes": b"no picture", "path": None}}
    (hub.parent / "pictures").mkdir()
    table = pa.Table.from_pylist([row], schema=features.arrow_schema)
    pq.write_table(table, hub.parent / "pictures" / "train.parquet")
    assert good(local(hub, hub="./pictures", config=None).rows("train")) == [row]


def test_an_id_is_never_taken_for_a_folder_of_that_name(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """load_dataset("org/gsm8k") reads ./org/gsm8k where there is one; here that is the Hub's."""
    import datasets

    shutil.copytree(hub, hub.parent / "org" / "gsm8k")
    monkeypatch.chdir(hub.parent)
    asked = []

    def no_network(path: str, *_: Any, **__: Any) -> None:
        asked.append(path)
        raise ConnectionError("no network in tests")

    monkeypatch.setattr(datasets, "load_dataset_builder", no_network)
    with pytest.raises(UnreachableError, match="does not answer for 'org/gsm8k'"):
        local(hub, hub="org/gsm8k")
    assert asked == ["hf://datasets/org/gsm8k"]
    assert is_local_hub("./org/gsm8k")
    assert not is_local_hub("org/gsm8k")


@pytest.fixture
def cached(hub: Path, tmp_path: Path) -> str:
    """The cache as if openai/gsm8k had been loaded at a revision, which is given."""
    import datasets

    revision = "0123456789abcdef0123456789abcdef01234567"
    builder = datasets.load_dataset_builder(str(hub), "main")
    builder.download_and_prepare()
    target = tmp_path / "cache" / "openai___gsm8k" / "main" / "0.0.0" / revision
    target.parent.mkdir(parents=True)
    Path(builder.cache_dir).rename(target)
    return revision


def test_a_pinned_revision_in_the_cache_needs_no_network(
    cached: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets, "load_dataset_builder", None)
    recipe = Source(hub="openai/gsm8k", config="main", split=["train", "test"])
    source = open_source(recipe, tmp_path, cached)
    assert source.count("train") == 5
    assert good(source.rows("train")) == TRAIN
    assert [row.where for row in source.rows("test")][1] == "openai/gsm8k test[1]"
    assert source.provenance() == {"hub": "openai/gsm8k", "config": "main", "revision": cached}


def test_another_revision_in_the_cache_is_not_taken_for_the_pinned_one(
    cached: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network `datasets` falls back to the newest in its cache, of any revision."""
    import datasets
    from datasets.packaged_modules.cache.cache import Cache

    def fall_back(*_: Any, **__: Any) -> Cache:
        return Cache(dataset_name="gsm8k", repo_id="openai/gsm8k", version="auto", hash="auto")

    monkeypatch.setattr(datasets, "load_dataset_builder", fall_back)
    message = r"revision ffffffffffff.*the cache holds 0123456789ab"
    with pytest.raises(UnreachableError, match=message):
        open_source(Source(hub="openai/gsm8k", config="main"), tmp_path, "f" * 40)


def _hub_answers(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    import huggingface_hub

    def dataset_info(*_: Any, **__: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)


def _http_error(kind: str) -> Exception:
    """An error of huggingface_hub without the HTTP answer that its constructor asks for."""
    from huggingface_hub import errors

    return getattr(errors, kind).__new__(getattr(errors, kind), "words of the server")


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        ("GatedRepoError", UnreachableError, "is gated. Ask for access at https://hugg"),
        ("RepositoryNotFoundError", UsageError, "no dataset 'org/name' on the Hub, or it is priv"),
        ("RevisionNotFoundError", UsageError, "source.revision: 'org/name' has no revision 'v9'"),
        (ConnectionError("refused"), UnreachableError, "the Hub does not answer for 'org/name'"),
        (RuntimeError("odd"), DataError, "'org/name' cannot be read: odd"),
    ],
)
def test_resolving_a_revision_that_cannot_be(
    monkeypatch: pytest.MonkeyPatch, answer: str | Exception, kind: type, message: str
) -> None:
    from pausedata.sources.hub import resolve_revision

    _hub_answers(monkeypatch, _http_error(answer) if isinstance(answer, str) else answer)
    with pytest.raises(kind) as error:
        resolve_revision("org/name", "v9")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_resolving_a_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from pausedata.sources.hub import resolve_revision

    _hub_answers(monkeypatch, SimpleNamespace(sha="a" * 40))
    assert resolve_revision("org/name", None) == "a" * 40
    _hub_answers(monkeypatch, RuntimeError("a commit needs no question"))
    assert resolve_revision("org/name", "b" * 40) == "b" * 40
    with pytest.raises(UsageError, match="no dataset id"):
        resolve_revision("org/name/more", None)


# --- and the rest -----------------------------------------------------------------------------


def test_importing_loads_no_heavy_library() -> None:
    code = (
        "import sys, pausedata.sources.files, pausedata.sources.hub, pausedata.sources.templates;"
        "print(sorted({'datasets', 'huggingface_hub', 'pyarrow', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "rows", "columns"),
    [
        ("gsm8k_train.jsonl", 7473, ["question", "answer"]),
        ("aqua_dev.jsonl", 254, ["question", "options", "rationale", "correct"]),
        ("mbpp_train.jsonl", 374, ["task_id", "text", "code", "test_list"]),
    ],
)
def test_real_data(name: str, rows: int, columns: list[str]) -> None:
    if not (SHARED / name).exists():
        pytest.skip(f"{SHARED / name} is not here")
    source = files(SHARED, name)
    assert len(good(source.rows("train"))) == rows
    assert (source.columns("train") or [])[: len(columns)] == columns
