"""Exports: what a trainer reads, row by row, figure by figure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import in_ci
from handmade import PAUSE, commit_handmade, placement_table, tokens_table
from hypothesis import given, settings
from hypothesis import strategies as st

from pausedata import exporters
from pausedata.core.progress import Silent
from pausedata.pipeline.commands import export, place
from pausedata.pipeline.recipe import Export, Placement
from pausedata.pipeline.steps.export import write_outside
from pausedata.pipeline.transaction import Transaction
from pausedata.store.dataset import Version

CHEAP = settings(max_examples=in_ci(100), deadline=None)
Example = tuple[list[int], list[int], dict[int, int]]  # prompt, response, {position: count}
no = -100


def rows_of(examples: list[Example], pause: int = PAUSE, cut: int = 0) -> list[dict[str, Any]]:
    """The rows of `tokenized`; ``cut``: as if the tables had come in portions of this size."""
    ids = [f"example-{k}" for k in range(len(examples))]
    tokens = tokens_table(
        [(id, prompt, response) for id, (prompt, response, _) in zip(ids, examples, strict=True)]
    )
    placement = placement_table(
        [(id, places) for id, (_, _, places) in zip(ids, examples, strict=True)]
    )
    if cut and examples:
        tokens, placement = (
            pa.concat_tables([table.slice(k, cut) for k in range(0, len(ids), cut)])
            for table in (tokens, placement)
        )
    tokenized = exporters.get("tokenized")
    sequences = exporters.insert_pauses(tokens, placement, pause)
    return tokenized.rows(sequences, exporters.parse(tokenized, {}, "test")).to_pylist()


def with_pauses(example: Example) -> list[tuple[int, int]]:
    """The definition, one token after another: (input id, label)."""
    prompt, response, places = example
    made = [(token, no) for token in prompt]
    for position in range(len(response) + 1):
        made += [(PAUSE, no)] * places.get(position, 0)
        if position < len(response):
            made.append((response[position], response[position]))
    return made


@st.composite
def examples_with_places(draw: st.DrawFn) -> list[Example]:
    """Prompts may be empty; a place may be anywhere, after the last token too."""
    token = st.integers(0, PAUSE - 1)
    examples = []
    for _ in range(draw(st.integers(0, 5))):
        prompt = draw(st.lists(token, max_size=4))
        response = draw(st.lists(token, min_size=1, max_size=6))
        positions = draw(st.sets(st.integers(0, len(response))))
        examples.append((prompt, response, {p: draw(st.integers(1, 3)) for p in sorted(positions)}))
    return examples


def test_pauses_stand_right_before_their_positions() -> None:
    example = ([1, 2], [3, 4, 5], {0: 1, 2: 2, 3: 1})
    #                                      0  before 3   2  before 5    3  after the last
    (row,) = rows_of([example])
    assert row["input_ids"] == [1, 2, PAUSE, 3, 4, PAUSE, PAUSE, 5, PAUSE]
    assert row["labels"] == [no, no, no, 3, 4, no, no, 5, no]
    assert row["attention_mask"] == [1] * 9


def test_neighbours_never_mix() -> None:
    """A pause after one example's last token, none before the next one's prompt; and so on."""
    first = ([1], [2], {1: 2})
    second = ([], [3], {0: 1})  # no prompt: its first place is where the first example ends
    third = ([], [4, 5], {0: 1, 2: 1})
    fourth = ([6], [7], {})
    assert [row["input_ids"] for row in rows_of([first, second, third, fourth])] == [
        [1, 2, PAUSE, PAUSE],
        [PAUSE, 3],
        [PAUSE, 4, 5, PAUSE],
        [6, 7],
    ]


def test_append_is_all_pauses_between_prompt_and_response() -> None:
    (row,) = rows_of([([1, 2], [3], {0: 10})])
    assert row["input_ids"] == [1, 2, *[PAUSE] * 10, 3]
    assert row["labels"] == [*[no] * 12, 3]


@CHEAP
@given(examples_with_places())
def test_deleting_the_pauses_gives_back_the_original_tokens(examples: list[Example]) -> None:
    """Invariant 1."""
    for row, (prompt, response, _) in zip(rows_of(examples), examples, strict=True):
        assert [token for token in row["input_ids"] if token != PAUSE] == prompt + response


@CHEAP
@given(examples_with_places())
def test_labels_leave_out_prompt_and_pauses_and_nothing_else(examples: list[Example]) -> None:
    for row, (prompt, _, _) in zip(rows_of(examples), examples, strict=True):
        length = len(row["input_ids"])
        assert len(row["labels"]) == len(row["attention_mask"]) == length
        assert row["attention_mask"] == [1] * length
        for k, (token, label) in enumerate(zip(row["input_ids"], row["labels"], strict=True)):
            assert label == (no if k < len(prompt) or token == PAUSE else token)


@CHEAP
@given(examples_with_places(), st.integers(0, 3))
def test_every_row_is_what_the_definition_says(examples: list[Example], cut: int) -> None:
    """Also where Arrow holds the tables in several chunks, each with an offset of its own."""
    for row, example in zip(rows_of(examples, cut=cut), examples, strict=True):
        assert list(zip(row["input_ids"], row["labels"], strict=True)) == with_pauses(example)


@CHEAP
@given(examples_with_places())
def test_an_example_is_exported_alone_as_among_others(examples: list[Example]) -> None:
    """Invariant 4: no batch and no shard changes a row."""
    assert rows_of(examples) == [row for example in examples for row in rows_of([example])]


def test_a_pause_that_the_tokenizer_has_already_is_inserted_by_its_own_id() -> None:
    (row,) = rows_of([([11], [12], {0: 1})], pause=3)
    assert row["input_ids"] == [11, 3, 12]


# The handmade dataset's export, by hand. `low` puts two pauses before each response's least likely
# token: before " " in a (1/64), before "6" in b (1/8: the 1/1024 is inside the emoji), before "9"
# in c (both are 1/2), before <eos> in d (1/16).
TRAIN = [
    '{"input_ids":[1,10,2,3,16,16,10,4,15],"attention_mask":[1,1,1,1,1,1,1,1,1],'
    '"labels":[-100,-100,-100,3,-100,-100,10,4,15]}\n',
    '{"input_ids":[5,11,12,13,14,16,16,6,15],"attention_mask":[1,1,1,1,1,1,1,1,1],'
    '"labels":[-100,11,12,13,14,-100,-100,6,15]}\n',
    '{"input_ids":[7,10,8,16,16,9,15],"attention_mask":[1,1,1,1,1,1,1],'
    '"labels":[-100,-100,-100,-100,-100,9,15]}\n',
]
TEST = [
    '{"input_ids":[0,1,16,16,15],"attention_mask":[1,1,1,1,1],"labels":[-100,1,-100,-100,15]}\n'
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return commit_handmade(tmp_path_factory.mktemp("exports") / "data")


def lines(path: Path) -> list[str]:
    return path.read_bytes().decode().splitlines(keepends=True)


def test_the_trainers_file_is_one_json_object_a_line(dataset: Version) -> None:
    """Keys in this order, no spaces, a newline after each; rows in the order of the examples."""
    folder = dataset.folder / "exports" / "low-tokenized"
    assert lines(folder / "train.jsonl") == TRAIN
    assert lines(folder / "test.jsonl") == TEST


def test_the_shards_hold_the_same_rows(dataset: Version) -> None:
    table = dataset.table("exports/low-tokenized")
    by_split = {split: [] for split in table.splits()}
    for shard in table.shards:
        by_split[shard.split] += table.read(shard).to_pylist()
    assert by_split == {
        "train": [json.loads(line) for line in TRAIN],
        "test": [json.loads(line) for line in TEST],
    }


def test_the_meta_file_says_what_the_file_holds(dataset: Version) -> None:
    folder = dataset.folder / "exports" / "low-tokenized"
    shared = {
        "format": "tokenized",
        "placement": "low",
        "placement_content": dataset.table("placements/low").entry.content,
        "dataset": "handmade",
        "version": 1,
        "pause": {"token": "[PAUSE]", "id": 16, "id_is_new": True},
        "embedding_rows_needed": 17,  # ids 0 to 15 of the vocabulary, and the pause
        "pause_label_masked": True,
        "options": {},  # none but the defaults
        "loss": "The response and its end; neither the prompt nor the pauses.",
    }
    assert json.loads((folder / "train.meta.json").read_text()) == shared | {
        "split": "train",
        "rows": 3,
        "examples": 3,
        "tokens": 25,  # 9 + 9 + 7, pauses counted
        "pauses": 6,  # 2 in each row
        "loss_tokens": 12,  # responses of 4 + 6 + 2 tokens
        "longest": 9,
        "loss_share": 0.48,  # 12 of 25
        "growth": 0.3158,  # 6 of 19
        "skipped": {},
        "truncated": 0,
        "moved": 0,
    }
    assert json.loads((folder / "test.meta.json").read_text()) == shared | {
        "split": "test",
        "rows": 1,
        "examples": 1,
        "tokens": 5,
        "pauses": 2,
        "loss_tokens": 2,
        "longest": 5,
        "loss_share": 0.4,
        "growth": 0.6667,
        "skipped": {},
        "truncated": 0,
        "moved": 0,
    }


def test_what_the_placement_was_kept_off_is_counted(dataset: Version) -> None:
    facts = dataset.table("placements/low").entry.provenance
    assert facts["kept_off_characters"] == 1  # the emoji's last byte, 1/1024
    assert facts["examples_with_pauses"] == facts["places"] == 4
    assert facts["pauses"] == 8


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_file_outside_the_dataset_holds_the_same_bytes(
    dataset: Version, tmp_path: Path, split: str
) -> None:
    format = exporters.get("tokenized")
    origin = Transaction(dataset.root, dataset, Silent()).origin("low")
    target = tmp_path / "here.jsonl"
    options = exporters.parse(format, {}, "test")
    written = write_outside(target, format, options, origin, [split], 1, Silent())

    inside = dataset.folder / "exports" / "low-tokenized"
    assert target.read_bytes() == (inside / f"{split}.jsonl").read_bytes()
    meta = target.with_name("here.meta.json")
    assert meta.read_bytes() == (inside / f"{split}.meta.json").read_bytes()
    assert written.tallies[split].rows == {"train": 3, "test": 1}[split]
    assert written.files == [target]
    assert set(tmp_path.iterdir()) == {target, meta, written.readme}


def test_a_folder_outside_gets_a_file_for_each_split(dataset: Version, tmp_path: Path) -> None:
    format = exporters.get("tokenized")
    origin = Transaction(dataset.root, dataset, Silent()).origin("low")
    options = exporters.parse(format, {}, "test")
    write_outside(tmp_path / "out", format, options, origin, ["train", "test"], 1, Silent())
    assert lines(tmp_path / "out" / "train.jsonl") == TRAIN
    assert lines(tmp_path / "out" / "test.jsonl") == TEST


def test_an_export_of_a_later_version_names_that_version(tmp_path: Path) -> None:
    root = tmp_path / "data"
    commit_handmade(root)
    append = Placement(strategy="append", tokens=1)  # type: ignore[call-arg]
    place(root, {"ten": append})
    version = export(root, "ten-rows", Export(placement="ten", format="tokenized")).version
    metas = {
        name: json.loads((version.folder / "exports" / name / "test.meta.json").read_text())
        for name in ("low-tokenized", "ten-rows")
    }
    assert metas["ten-rows"]["version"] == 3
    assert metas["ten-rows"]["placement"] == "ten"
    assert metas["low-tokenized"]["version"] == 1  # made in version 1, unchanged since
    rows = lines(version.folder / "exports" / "ten-rows" / "test.jsonl")
    assert json.loads(rows[0])["input_ids"] == [0, PAUSE, 1, 15]


def test_the_features_that_datasets_reads_from_the_schema() -> None:
    """`List` and the integer widths are named in the metadata, which `datasets` trusts."""
    datasets = pytest.importorskip("datasets")
    integers = datasets.List(datasets.Value("int32"))
    tokenized = exporters.get("tokenized")
    schema = tokenized.schema(exporters.parse(tokenized, {}, "test"))
    assert datasets.Features.from_arrow_schema(schema) == datasets.Features(
        {
            "input_ids": integers,
            "attention_mask": datasets.List(datasets.Value("int8")),
            "labels": integers,
        }
    )


def test_datasets_loads_the_shards(dataset: Version, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    table = dataset.table("exports/low-tokenized")
    loaded = datasets.load_dataset(
        "parquet",
        data_files={split: [str(p) for p in table.paths(split)] for split in table.splits()},
        cache_dir=str(tmp_path),
    )
    assert list(loaded["train"]) == [json.loads(line) for line in TRAIN]
    assert list(loaded["test"]) == [json.loads(line) for line in TEST]
    assert loaded["train"].features["labels"] == datasets.List(datasets.Value("int32"))
