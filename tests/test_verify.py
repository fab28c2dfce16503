"""verify: a whole version has no problem; each kind of damage is one line that names the file.

A dataset is broken in one way at a time. Where a check of the values is what should notice, the
checksums are made to fit the broken file again, as a faulty writer would have left it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from handmade import PAUSE, commit_handmade

from pausedata.analysis.verify import verify
from pausedata.core.errors import DataError
from pausedata.core.progress import Silent
from pausedata.pipeline.commands import place
from pausedata.pipeline.recipe import Placement
from pausedata.store.content import ContentHash
from pausedata.store.dataset import open_version
from pausedata.store.files import sha256_of
from pausedata.store.shards import read_shard, write_shard

FIRST, SECOND, TEST = (
    *(f"train-0000{k}-of-00002.parquet" for k in range(2)),
    "test-00000-of-00001.parquet",
)
Row = dict[str, Any]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("verify") / "data"
    commit_handmade(root)
    return root


@pytest.fixture
def root(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "data", symlinks=True)


def problems(root: Path) -> list[str]:
    return verify(open_version(root), Silent())


def folder(root: Path) -> Path:
    return root / "versions" / "0001"


def edit_manifest(root: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest, and the pointer so that it fits."""
    path = folder(root) / "manifest.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.chmod(0o644)
    path.write_text(json.dumps(manifest))
    pointer = json.loads((root / "pausedata.json").read_text()) | {"sha256": sha256_of(path)}
    (root / "pausedata.json").write_text(json.dumps(pointer))


def reseal(root: Path) -> None:
    """Make every size, checksum and content hash fit the files that are there."""

    def fit(manifest: dict[str, Any]) -> None:
        for table in manifest["tables"].values():
            shards = [(s, read_shard(folder(root) / s["path"])) for s in table["shards"]]
            content = ContentHash(shards[0][1].schema)
            for shard, rows in shards:
                content.update(shard["split"] or "", rows)
            table["content"] = content.hexdigest()
            for entry in [*table["shards"], *table["files"]]:
                full = folder(root) / entry["path"]
                entry.update(bytes=full.stat().st_size, sha256=sha256_of(full))

    edit_manifest(root, fit)


def edit_rows(root: Path, path: str, edit: Callable[[list[Row]], None]) -> None:
    """Change a shard's rows in place, and make the checksums fit."""
    full = folder(root) / path
    table = read_shard(full)
    rows = table.to_pylist()
    edit(rows)
    write_shard(full, pa.Table.from_pylist(rows, schema=table.schema))
    reseal(root)


def edit_bytes(root: Path, path: str, edit: Callable[[bytes], bytes]) -> None:
    full = folder(root) / path
    full.chmod(0o644)
    full.write_bytes(edit(full.read_bytes()))


def test_a_whole_version_has_no_problem(root: Path) -> None:
    assert problems(root) == []
    reseal(root)  # what makes the checksums fit breaks nothing
    assert problems(root) == []
    place(root, {"more": Placement(strategy="append", tokens=3)})  # type: ignore[call-arg]
    assert problems(root) == []
    assert verify(open_version(root, 1), Silent()) == []


# Damaged files


EVERY_KIND = [
    f"examples/{FIRST}",
    "vocab.parquet",
    f"tokens/{FIRST}",
    f"scores/base/{SECOND}",
    f"placements/low/{TEST}",
    f"exports/low-tokenized/{FIRST}",
    "exports/low-tokenized/train.jsonl",
    "exports/low-tokenized/test.meta.json",
]


@pytest.mark.parametrize("path", EVERY_KIND)
@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_flipped_bit_is_found(root: Path, path: str, place: float) -> None:
    def flip(raw: bytes) -> bytes:
        at = int(len(raw) * place)
        return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]

    edit_bytes(root, path, flip)
    changed = f"{path}: its sha256 is not the manifest's: the file was changed or damaged"
    assert problems(root) == [changed]


@pytest.mark.parametrize("path", EVERY_KIND)
def test_a_missing_file_is_named(root: Path, path: str) -> None:
    (folder(root) / path).unlink()
    assert problems(root) == [f"{path}: missing"]


@pytest.mark.parametrize("path", EVERY_KIND)
@pytest.mark.parametrize("left", [0, 20, -1])
def test_a_truncated_file_is_named(root: Path, path: str, left: int) -> None:
    size = (folder(root) / path).stat().st_size
    edit_bytes(root, path, lambda raw: raw[:left])
    now = left if left >= 0 else size - 1
    assert problems(root) == [f"{path}: {now} bytes, the manifest says {size}"]


def test_a_shard_that_is_no_parquet_is_said_to_be_unreadable(root: Path) -> None:
    path = f"scores/base/{FIRST}"
    edit_bytes(root, path, lambda raw: raw[:-8])

    def fit(manifest: dict[str, Any]) -> None:
        entry = manifest["tables"]["scores/base"]["shards"][0]
        entry.update(bytes=entry["bytes"] - 8, sha256=sha256_of(folder(root) / path))

    edit_manifest(root, fit)
    assert [p for p in problems(root) if p.startswith(f"{path}: unreadable: ")]


@pytest.mark.parametrize("path", ["notes.txt", "scores/base/old.parquet", "scores/extra/x"])
def test_an_extra_file_is_named(root: Path, path: str) -> None:
    (folder(root) / path).parent.mkdir(exist_ok=True)
    (folder(root) / path).touch()
    assert problems(root) == [f"{path}: not in the manifest"]


def test_a_flipped_bit_in_the_manifest_is_found_on_opening(root: Path) -> None:
    edit_bytes(root, "manifest.json", lambda raw: raw.replace(b'"rows": 4', b'"rows": 5', 1))
    with pytest.raises(DataError, match=r"manifest\.json: its sha256 is not the one"):
        open_version(root)


def test_values_that_are_not_the_content_hash_are_found(root: Path) -> None:
    def forget(manifest: dict[str, Any]) -> None:
        manifest["tables"]["placements/spare"]["content"] = "sha256:" + "0" * 64

    edit_manifest(root, forget)
    assert problems(root) == [
        "placements/spare: its values do not hash to the manifest's content hash"
    ]


# Values that break a promise, in files whose checksums fit


def swap(rows: list[Row]) -> None:
    rows.reverse()


def change(index: int, **columns: Any) -> Callable[[list[Row]], None]:
    return lambda rows: rows[index].update(columns)


LOGPROBS_A = [-0.6931472, -4.158883, -1.3862944, -2.0794415]  # as in handmade: 1/2 1/64 1/4 1/8
BROKEN: list[tuple[str, str, Callable[[list[Row]], None], str]] = [
    ("ids in another order", f"scores/base/{FIRST}", swap, "its ids are not those of tokens"),
    (
        *("a placement's ids in another order", f"placements/spare/{FIRST}", swap),
        "its ids are not those of tokens",
    ),
    ("an id twice", f"examples/{FIRST}", change(1, id="a"), "its ids are not those of tokens"),
    ("another split", f"examples/{TEST}", change(0, split="train"), "rows of another split"),
    ("a row too few", f"placements/spare/{FIRST}", lambda rows: rows.pop(), "1 rows, the manifest"),
    ("vocab out of order", "vocab.parquet", swap, "token ids do not ascend from 0"),
    (
        *("a token outside", f"tokens/{SECOND}", change(0, prompt_ids=[7, 17])),
        "a token id outside the vocabulary",
    ),
    (
        *("a negative token", f"tokens/{SECOND}", change(0, response_ids=[-1, 15])),
        "a token id outside the vocabulary",
    ),
    (
        *("the pause in the corpus", f"tokens/{SECOND}", change(0, response_ids=[PAUSE, 15])),
        "the pause token stands in the corpus",
    ),
    (
        *("a span too few", f"tokens/{SECOND}", change(0, char_end=[1])),
        "character spans are not one for each response token",
    ),
    (
        "a gap between spans",
        f"tokens/{FIRST}",
        change(0, char_start=[0, 1, 2, 3], char_end=[1, 1, 3, 3]),
        "character spans leave a gap",
    ),
    (
        *("spans that begin late", f"tokens/{SECOND}", change(0, char_start=[1, 1])),
        "character spans leave a gap",
    ),
    (
        *("spans that end early", f"tokens/{FIRST}", change(0, char_end=[1, 2, 2, 2])),
        "character spans",
    ),
    (
        *("spans beyond the text", f"tokens/{SECOND}", change(0, char_end=[1, 2])),
        "character spans end at 2, the response has 1 characters",
    ),
    (
        "no response",
        f"tokens/{SECOND}",
        change(0, response_ids=[], char_start=[], char_end=[]),
        "a response without tokens",
    ),
    (
        *("a score above zero", f"scores/base/{FIRST}"),
        change(0, logprob=[0.5, *LOGPROBS_A[1:]]),
        "a log-probability is not finite, or above zero",
    ),
    (
        *("a score that is not a number", f"scores/base/{FIRST}"),
        change(0, logprob=[float("nan"), *LOGPROBS_A[1:]]),
        "a log-probability is not finite, or above zero",
    ),
    (
        *("a score that is infinite", f"scores/base/{FIRST}"),
        change(0, logprob=[float("-inf"), *LOGPROBS_A[1:]]),
        "a log-probability is not finite, or above zero",
    ),
    (
        *("a score too few", f"scores/base/{FIRST}", change(0, logprob=LOGPROBS_A[:3])),
        "log-probabilities are not one for each response token",
    ),
    (
        *("a wrong count", f"scores/base/{FIRST}", change(1, n_tokens=5)),
        "n_tokens is not the number of response tokens",
    ),
    (
        *("a wrong least score", f"scores/base/{FIRST}", change(0, min_logprob=-4.0)),
        "min_logprob is not the smallest log-probability",
    ),
    (
        *("a wrong mean", f"scores/base/{FIRST}", change(0, mean_logprob=-2.0)),
        "mean_logprob is not the mean log-probability",
    ),
    ("a rank of zero", f"scores/base/{SECOND}", change(0, rank=[1, 0]), "rank below 1"),
    ("a rank too few", f"scores/base/{SECOND}", change(0, rank=[1]), "rank is not one for each"),
    ("an entropy below zero", f"scores/base/{TEST}", change(0, entropy=[0, -1]), "entropy below 0"),
    (
        *("positions that do not ascend", f"placements/spare/{FIRST}"),
        change(0, position=[2, 1], count=[1, 1]),
        "positions do not ascend",
    ),
    (
        *("a position twice", f"placements/spare/{FIRST}"),
        change(0, position=[1, 1], count=[1, 1]),
        "positions do not ascend",
    ),
    (
        *("a position outside", f"placements/spare/{SECOND}", change(0, position=[3])),
        "a position outside the response",
    ),
    (
        *("a position below zero", f"placements/spare/{SECOND}", change(0, position=[-1])),
        "a position outside the response",
    ),
    (
        *("a pause inside the emoji", f"placements/spare/{FIRST}", change(1, position=[3])),
        "a pause inside a character",
    ),
    (
        *("a place without pauses", f"placements/spare/{TEST}", change(0, count=[0])),
        "a count below 1",
    ),
    (
        *("a count too few", f"placements/spare/{TEST}", change(0, count=[])),
        "counts are not one for each position",
    ),
    (
        *("a pause that is not exported", f"exports/low-tokenized/{TEST}"),
        change(0, input_ids=[0, 1, 15], attention_mask=[1] * 3, labels=[-100, 1, 15]),
        "its rows are not what the placement gives",
    ),
    (
        *("a token that is not the example's", f"exports/low-tokenized/{TEST}"),
        change(0, input_ids=[0, 2, 16, 16, 15], labels=[-100, 2, -100, -100, 15]),
        "its rows are not what the placement gives",
    ),
    (
        *("a label that trains the pause", f"exports/low-tokenized/{TEST}"),
        change(0, labels=[-100, 1, 16, 16, 15]),
        "its rows are not what the placement gives",
    ),
    (
        *("a label that trains the prompt", f"exports/low-tokenized/{TEST}"),
        change(0, labels=[0, 1, -100, -100, 15]),
        "its rows are not what the placement gives",
    ),
]


@pytest.mark.parametrize(
    ("path", "edit", "problem"), [b[1:] for b in BROKEN], ids=[b[0] for b in BROKEN]
)
def test_a_broken_promise_is_named_with_its_file(
    root: Path, path: str, edit: Callable[[list[Row]], None], problem: str
) -> None:
    edit_rows(root, path, edit)
    found = problems(root)
    assert [line for line in found if line.startswith(f"{path}: ") and problem in line], found
    # It is the promise that is broken: every checksum fits.
    assert not [line for line in found if "sha256" in line or "content hash" in line]


def test_a_pause_after_the_last_token_is_no_problem(root: Path) -> None:
    edit_rows(root, f"placements/spare/{SECOND}", change(0, position=[2]))
    assert problems(root) == []


def test_a_run_without_ranks_and_entropies_is_whole(root: Path) -> None:
    for file in (FIRST, SECOND, TEST):

        def forget(rows: list[Row]) -> None:
            for row in rows:
                row.update(rank=None, entropy=None)

        edit_rows(root, f"scores/base/{file}", forget)
    assert problems(root) == []


def test_a_truncated_response_may_end_before_its_text(root: Path) -> None:
    cut = {"response_ids": [3, 10], "char_start": [0, 1], "char_end": [1, 2], "truncated": True}
    edit_rows(root, f"tokens/{FIRST}", change(0, **cut))
    assert not [line for line in problems(root) if line.startswith("tokens/")]


def test_an_id_that_stands_in_two_shards_is_found(root: Path) -> None:
    for table in ("examples", "tokens", "scores/base", "placements/spare", "placements/low"):
        edit_rows(root, f"{table}/{SECOND}", change(0, id="a"))
    assert problems(root) == [f"examples/{SECOND}: an id stands there twice"]


# The trainer's file


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda raw: raw.replace(b"[5,11,", b"[5,12,"), "does not hold the rows of the shards"),
        # Equal to any JSON reader, but not the bytes that the format promises.
        (lambda raw: raw.replace(b"[5,11,", b"[5, 11,"), "does not hold the rows of the shards"),
        (lambda raw: raw.replace(b"\n", b"\r\n"), "does not hold the rows of the shards"),
        (lambda raw: raw[:-1], "does not hold the rows of the shards"),
        (lambda raw: raw + raw.splitlines(keepends=True)[0], "holds more rows than the shards"),
        (lambda raw: b"".join(raw.splitlines(keepends=True)[:2]), "does not hold the rows"),
        (lambda raw: b"\xff" + raw, "does not hold the rows of the shards"),
    ],
)
def test_a_line_that_is_not_its_row_is_found(
    root: Path, edit: Callable[[bytes], bytes], problem: str
) -> None:
    path = "exports/low-tokenized/train.jsonl"
    edit_bytes(root, path, edit)
    reseal(root)
    (line,) = problems(root)
    assert line.startswith(f"{path}: {problem}")


def test_every_broken_trainers_file_is_named(root: Path) -> None:
    paths = [f"exports/low-tokenized/{split}.jsonl" for split in ("train", "test")]
    for path in paths:
        edit_bytes(root, path, lambda raw: raw.replace(b"1", b"2"))
    reseal(root)
    assert sorted(problems(root)) == sorted(
        f"{path}: does not hold the rows of the shards" for path in paths
    )


# What the manifest counts


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (
            lambda m: m["rows"]["train"].update({"in": 5}),
            "rows of train: 5 in are not 3 out and the dropped",
        ),
        (
            lambda m: m["rows"]["train"].update({"in": 2, "out": 2}),
            "rows of train: examples has 3, the manifest says 2",
        ),
        (
            lambda m: m["tables"]["scores/base"].update(rows=5),
            "scores/base: its shards have 4 rows, the manifest says 5",
        ),
        (
            lambda m: m["tables"]["tokens"]["shards"][1].update(first_row=1),
            f"tokens/{SECOND}: the manifest says that it begins at row 1",
        ),
        (
            lambda m: m["tables"].pop("tokens"),
            "tokens: the manifest has no such table",
        ),
    ],
)
def test_a_wrong_figure_is_named(
    root: Path, edit: Callable[[dict[str, Any]], None], problem: str
) -> None:
    edit_manifest(root, edit)
    assert problem in problems(root)


def test_dropped_rows_are_accounted_for(root: Path) -> None:
    """Invariant 7: what went in and did not come out is counted by its reason."""
    edit_manifest(
        root,
        lambda m: m["rows"]["train"].update({"in": 6, "dropped": {"overlong": 2, "null": 1}}),
    )
    assert problems(root) == []
