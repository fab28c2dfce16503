"""A manifest that came from the Hub is a stranger's: what it must not say is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from conftest import tiny_recipe

from pausedata.core.errors import DataError, NewerFormatError, PausedataError, UsageError
from pausedata.hub.client import RemoteFile
from pausedata.hub.remote import chosen_tables, parse_manifest, tables_present


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, model_folder: Any) -> dict[str, Any]:
    """A manifest as `build` writes it."""
    recipe = tiny_recipe(
        *(tmp_path_factory.mktemp("good"), model_folder, [{"question": "Two?", "answer": "2"}]),
        placements={"dit": {"strategy": "lowest_logprob", "positions": 1}},
        exports={"rows": {"placement": "dit", "format": "tokenized"}},
    )
    return json.loads((recipe.build().version.folder / "manifest.json").read_text())


def parse(data: Any) -> Any:
    return parse_manifest(json.dumps(data).encode(), "org/name at 0123")


def shard(data: dict[str, Any], table: str = "examples") -> dict[str, Any]:
    return data["tables"][table]["shards"][0]


def path(text: str, table: str = "examples") -> Callable[[dict[str, Any]], None]:
    return lambda data: shard(data, table).update(path=text)


def table(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda data: data["tables"].update({name: data["tables"].pop("scores/base")})


HOSTILE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "up": path("examples/../../x.parquet"),
    "up at once": path("../x.parquet"),
    "absolute": path("/etc/passwd"),
    "a drive": path("C:/x.parquet"),
    "a backslash": path("examples\\x.parquet"),
    "another table's folder": path("tokens/train-00000-of-00001.parquet"),
    "no folder": path("x.parquet"),
    "a nothing in between": path("examples//x.parquet"),
    "a dot": path("examples/./x.parquet"),
    "a hidden file": path("examples/.git"),
    "a NUL": path("examples/x\0.parquet"),
    "a line's end": path("examples/x.parquet\n"),
    "a device": path("examples/con.parquet"),
    "a dot at the end": path("examples/x."),
    "the manifest": path("manifest.json"),
    "a long name": path("examples/" + "x" * 300),
    "a long path": path("examples/" + "x/" * 600 + "x"),
    "a path that is a number": lambda data: shard(data).update(path=7),
    "a path twice": lambda data: data["tables"]["examples"]["shards"].append(shard(data)),
    "a path twice but for case": lambda data: data["tables"]["examples"]["shards"].append(
        {**shard(data), "path": shard(data)["path"].replace("train", "TRAIN")}
    ),
    "a file that is a folder": lambda data: data["tables"]["examples"]["shards"].append(
        {**shard(data), "path": shard(data)["path"] + "/x"}
    ),
    "bytes below zero": lambda data: shard(data).update(bytes=-1),
    "bytes in words": lambda data: shard(data).update(bytes="many"),
    "no sha256": lambda data: shard(data).pop("sha256"),
    "a sha256 that is none": lambda data: shard(data).update(sha256="x" * 64),
    "rows below zero": lambda data: shard(data).update(rows=-1),
    "a table named by a path": table("scores/../../x"),
    "a table named by nothing": table("scores/"),
    "a table of another kind": lambda data: data["tables"].update(
        {"../x": data["tables"]["examples"]}
    ),
    "tables that are a list": lambda data: data.update(tables=[]),
    "no tables": lambda data: data.pop("tables"),
    "no version": lambda data: data.update(version=0),
    "a version in words": lambda data: data.update(version="three"),
    "an export's file elsewhere": lambda data: data["tables"]["exports/rows"]["files"].append(
        {"path": "exports/other/x", "bytes": 1, "sha256": "0" * 64}
    ),
    "a source that is a word": lambda data: data["recipe"].update(source="x"),
    "runs that are a list": lambda data: data["recipe"].update(runs=[1]),
    "inputs that are a list": lambda data: data["tables"]["tokens"]["provenance"].update(inputs=[]),
    "made from a number": lambda data: data["tables"]["tokens"]["provenance"].update(made_from=7),
    "no vocabulary": lambda data: data["tables"].pop("vocab"),
    "no rows": lambda data: data.update(rows={}),
    "a shard too few": lambda data: data["tables"]["scores/base"].update(shards=[]),
    "half a character": lambda data: data.update(name="\ud800"),
    "what a terminal obeys": lambda data: data.update(name="x\x1b]0;y\x07"),
    "a table that a terminal obeys": lambda data: data["tables"].update(
        {"\x1b[2J": {"rows": 0, "content": "sha256:" + "0" * 64, "provenance": {}, "shards": []}}
    ),
    "a version beyond all": lambda data: data.update(version=10**300),
    "another format": lambda data: data.update(format="zip"),
    "a reader that is no number": lambda data: data.update(min_reader="all"),
    "a split with a slash": lambda data: shard(data).update(split="../x"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_a_manifest_must_not_say_is_refused(good: dict[str, Any], what: str) -> None:
    assert parse(good).name == "tiny"
    data = copy.deepcopy(good)
    HOSTILE[what](data)
    with pytest.raises(DataError, match="org/name at 0123") as told:
        parse(data)
    assert len(str(told.value)) < 600


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"null",
        b"7",
        b'"x"',
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"format": "pausedata/1", "min_reader": ' + b"9" * 10_000 + b"}",
    ],
    ids=lambda raw: repr(raw[:12]),
)
def test_what_is_no_manifest_is_refused(raw: bytes) -> None:
    with pytest.raises(DataError) as told:
        parse_manifest(raw, "org/name at 0123")
    assert len(str(told.value)) < 600


def test_a_later_format_says_what_reads_it(good: dict[str, Any]) -> None:
    with pytest.raises(NewerFormatError, match="pausedata 9"):
        parse(good | {"min_reader": 9, "min_release": "9.0"})
    with pytest.raises(NewerFormatError) as told:
        parse(good | {"format": "pausedata/\x1b[2J"})
    assert str(told.value).isprintable()


def remote(manifest: Any) -> dict[str, RemoteFile]:
    entries = [e for t in manifest.tables.values() for e in t.all_files()]
    return {e.path: RemoteFile(e.path, e.bytes, e.sha256, None) for e in entries}


def test_what_the_repository_holds_is_compared_before_anything_is_fetched(
    good: dict[str, Any],
) -> None:
    manifest = parse(good)
    files = remote(manifest)
    assert tables_present(manifest, files, "x") == (list(manifest.tables), [])
    lost = manifest.tables["scores/base"].shards[0].path
    without = {path: file for path, file in files.items() if path != lost}
    assert tables_present(manifest, without, "x")[1] == ["scores/base"]
    export = manifest.tables["exports/rows"].files[0].path
    for changed, says in (
        ({p: f for p, f in files.items() if p != export}, "not in the repository"),
        (files | {lost: RemoteFile(lost, 10**15, None, None)}, "bytes"),
        (files | {lost: RemoteFile(lost, files[lost].bytes, "0" * 64, None)}, "sha256"),
    ):
        with pytest.raises(DataError, match=says):
            tables_present(manifest, changed, "x")


def test_only_takes_tables_and_kinds(good: dict[str, Any]) -> None:
    tables = list(parse(good).tables)
    assert chosen_tables(None, tables, "x") == tables
    assert chosen_tables([], tables, "x") == []
    assert chosen_tables(["tokens", "examples"], tables, "x") == ["examples", "tokens"]
    assert chosen_tables(["scores"], tables, "x") == ["scores/base"]
    with pytest.raises(UsageError, match="'scores/base'"):
        chosen_tables(["scores/bas"], tables, "x")
    assert issubclass(UsageError, PausedataError)
