"""What must not be published is found: keys anywhere, this machine in what we wrote ourselves."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import Recipe

from pausedata.hub.scan import Scanner

# Made up here, in the shapes that the services document; put together so that no scanner of
# repositories takes this file for a leak.
KEYS = [
    "hf_" + "aB3" * 12,
    "AKIA" + "Z" * 16,
    "ghp_" + "a1" * 18,
    "github_pat_" + "a_1" * 15,
    "glpat-" + "x" * 20,
    "sk-" + "k9" * 20,
    "sk-proj-" + "k9" * 20,
    "sk-ant-api03-" + "k9_-" * 10,
    "sk_live_" + "k9" * 12,
    "AIza" + "x" * 35,
    "xoxb-" + "1234567890-abcdef",
    "npm_" + "q" * 36,
    "pypi-" + "Ag" * 20,
    "-----BEGIN OPENSSH " + "PRIVATE KEY-----\\nb3BlbnNzaC1rZXktdjEA",
]


@pytest.fixture
def scanner(monkeypatch: pytest.MonkeyPatch) -> Scanner:
    monkeypatch.setenv("USER", "mmustermann")
    monkeypatch.setenv("EMAIL", "m@example.org")
    monkeypatch.setenv("MY_API_KEY", "correct horse battery")
    monkeypatch.setattr("socket.gethostname", lambda: "gpu17.cluster.example")
    return Scanner(["mmustermann/corpus", "allowed@example.org"])


@pytest.mark.parametrize("key", KEYS)
def test_keys_are_found_in_text_in_names_and_in_columns(scanner: Scanner, key: str) -> None:
    hit, *_ = scanner.prose("CARD.md", f"fine\nwith {key} in it")
    assert hit.where == "CARD.md, line 2"
    assert list(scanner.name(f"exports/{key}/train.jsonl"))
    column = pa.chunked_array([pa.array(["a", None]), pa.array([f"b {key} c", "d"])])
    assert scanner._rows_with_keys(column) == [2]


def test_a_key_is_not_repeated_in_what_is_said_of_it(scanner: Scanner) -> None:
    for key in [*KEYS[:-1], "correct horse battery"]:
        for hit in [*scanner.prose("x", key), *scanner.name(f"exports/{key}.jsonl")]:
            assert key not in str(hit)


@pytest.mark.parametrize(
    "line",
    [
        "made by mmustermann",
        "on gpu17",
        "on gpu17.cluster.example",
        "write to m@example.org",
        "the password is correct horse battery",
        "from /home/someone/rows.jsonl",
        "from /Users/someone/rows.jsonl",
        "from C:\\Users\\someone\\rows.jsonl",
        '{"path": "/root/data"}',
        "see file:///home/someone/x",
        "C:/Users/someone/x",
    ],
)
def test_names_and_paths_of_the_machine_are_found_in_what_we_wrote(
    scanner: Scanner, line: str
) -> None:
    assert list(scanner.prose("manifest.json", line))


@pytest.mark.parametrize(
    "line",
    [
        "the square root of 2, at home",
        "https://example.org/home/someone/x",
        "load_dataset('mmustermann/corpus')",  # published under the account's own name
        "scores/base/train-00000-of-00001.parquet",
        "1/2/3 and/or",
        "/nowhere/of/this/machine",
        "#!/usr/bin/env bash > /dev/null",
        "AKIA" + "IOSFODNN7" + "EXAMPLE",
        "sk-learn-pipeline-with-gradient-boosting-and-more",
        "https://example.org/sk-bratislava-hlavne-mesto-slovenskej-republiky",
        "it begins with -----BEGIN PRIVATE KEY-----",
        "a sk-etch, a hf_file, task-specific",
        "gpu17x mmustermannia",
    ],
)
def test_words_that_only_look_alike_are_not(scanner: Scanner, line: str) -> None:
    assert list(scanner.prose("README.md", line)) == []


def test_an_account_may_be_called_as_what_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "train")
    assert list(Scanner().name("examples/train-00000-of-00001.parquet"))
    assert not list(Scanner([], ["train"]).name("examples/train-00000-of-00001.parquet"))


def test_what_a_person_allows_is_no_hit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMAIL", "allowed@example.org")
    for text in ("write to allowed@example.org", KEYS[0]):
        assert list(Scanner().prose("CARD.md", text))
        assert not list(Scanner([text.removeprefix("write to ")]).prose("CARD.md", text))


def test_accounts_of_nobody_are_words(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, "root")
    assert list(Scanner().prose("manifest.json", "take the root")) == []


def test_text_deep_in_columns_is_found(scanner: Scanner) -> None:
    turns = [[{"role": "user", "content": "hi"}], [], None, [{"role": "user", "content": KEYS[0]}]]
    assert scanner._rows_with_keys(pa.chunked_array([pa.array(turns)])) == [3]
    assert scanner._rows_with_keys(pa.chunked_array([pa.array([[1, 2], [3]])])) == []


def test_files_are_looked_into_also_compressed_and_across_portions(
    scanner: Scanner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pausedata.hub.scan._PORTION", 100)
    monkeypatch.setattr("pausedata.hub.scan._OVERLAP", 60)
    clean = b'{"input_ids": [1, 2, 3]}\n' * 40
    for start in range(60, 160, 7):  # wherever portions end
        text = clean[:start] + b" " + KEYS[0].encode() + b" " + clean
        (tmp_path / "a.jsonl").write_bytes(text)
        (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text))
        for name in ("a.jsonl", "a.jsonl.gz"):
            assert [hit.where for hit in scanner.file(name, tmp_path / name)] == [name]
    (tmp_path / "b.jsonl").write_bytes(clean)
    assert list(scanner.file("b.jsonl", tmp_path / "b.jsonl")) == []


def test_a_key_in_the_corpus_is_named_by_its_example(recipe: Recipe, scanner: Scanner) -> None:
    path = recipe.folder / "rows.jsonl"
    lines = path.read_text("utf-8").splitlines()
    lines[3] = lines[3].replace('"question": "', f'"question": "{KEYS[0]} ')
    path.write_text("\n".join(lines) + "\n", "utf-8")
    version = recipe.build().version
    examples = version.table("examples")
    id = examples.read(examples.shards[0], ["id"]).column("id")[3].as_py()
    hits = [str(hit) for hit in scanner.table(examples, lambda rows: None)]
    assert hits == [f"examples, prompt of {id!r}: a Hugging Face token (hf_aB3…)"]
    # Its words are the corpus's own: no name or path is looked for there.
    assert list(scanner.table(version.table("tokens"), lambda rows: None)) == []
