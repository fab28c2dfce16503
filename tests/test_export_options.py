"""Options of exports: labels, EOS, length, packing, mixtures, epochs, against slow references."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Recipe, Run, in_ci
from handmade import PAUSE, commit_handmade
from hypothesis import given, settings
from hypothesis import strategies as st
from test_properties import EXAMPLES, no_tokenizer, stored

from pausedata import exporters
from pausedata.analysis.verify import verify
from pausedata.core.errors import DataError, UsageError
from pausedata.core.progress import Silent
from pausedata.exporters.export_rows import ExportRows
from pausedata.exporters.inputs import ExportInputs
from pausedata.exporters.mixture import draw
from pausedata.exporters.pack import best_fit
from pausedata.pipeline.commands import export, place, remove
from pausedata.pipeline.recipe import Export, Placement
from pausedata.store.dataset import open_version
from pausedata.store.manifest import PauseEntry

no = -100
EOS = 15


@pytest.fixture
def root(tmp_path: Path) -> Path:
    commit_handmade(tmp_path / "data")
    return tmp_path / "data"


def rows_of(root: Path, format: str = "tokenized", **options: Any) -> list[dict[str, Any]]:
    """The rows of the split `train` of an export of `low`."""
    spec = Export(placement=options.pop("placement", "low"), format=format, **options)
    version = export(root, "e", spec, replace=True).version
    assert verify(version, Silent()) == []
    table = version.table("exports/e")
    return [
        row
        for shard in table.shards
        if shard.split in ("train", "train.epoch1")
        for row in table.read(shard).to_pylist()
    ]


# The handmade dataset's rows (see test_exports.py):
#   a: [1,10,2 | 3,P,P,10,4,15]   b: [5 | 11,12,13,14,P,P,6,15]   c: [7,10,8 | P,P,9,15]

# What bears loss


def test_pauses_are_trained_where_it_is_asked_for(root: Path) -> None:
    first = rows_of(root, pause_label="train")[0]
    assert first["labels"] == [no, no, no, 3, PAUSE, PAUSE, 10, 4, EOS]


def test_so_is_the_prompt(root: Path) -> None:
    first = rows_of(root, prompt_label="train")[0]
    assert first["labels"] == [1, 10, 2, 3, no, no, 10, 4, EOS]


@pytest.mark.parametrize(
    ("eos", "ids", "labels"),
    [
        ("keep", [7, 10, 8, PAUSE, PAUSE, 9, EOS], [no, no, no, no, no, 9, EOS]),
        ("ignore", [7, 10, 8, PAUSE, PAUSE, 9, EOS], [no, no, no, no, no, 9, no]),
        ("drop", [7, 10, 8, PAUSE, PAUSE, 9], [no, no, no, no, no, 9]),
    ],
)
def test_what_the_build_appended(root: Path, eos: str, ids: list[int], labels: list[int]) -> None:
    row = rows_of(root, eos=eos)[2]
    assert (row["input_ids"], row["labels"]) == (ids, labels)


# Length


def test_a_longer_row_is_an_error_unless_it_is_said_what_becomes_of_it(root: Path) -> None:
    with pytest.raises(
        DataError, match=r"2 of 3 examples are longer than the 8 tokens.*'a', with 9"
    ):
        rows_of(root, max_length=8)
    assert open_version(root).number == 1


def test_longer_rows_are_left_out_and_counted(root: Path) -> None:
    rows = rows_of(root, max_length=8, overlong="skip")
    assert [row["input_ids"][0] for row in rows] == [7]
    folder = open_version(root).folder / "exports" / "e"
    meta = json.loads((folder / "train.meta.json").read_text())
    assert meta["skipped"] == {"overlong": 2} and meta["rows"] == 1
    changes = [
        json.loads(line) for line in (folder / "train.changes.jsonl").read_text().splitlines()
    ]
    assert changes == [
        {"id": "a", "what": "skipped", "reason": "overlong"},
        {"id": "b", "what": "skipped", "reason": "overlong"},
    ]


def test_or_cut_without_eos_and_without_a_pause_behind_the_last_token(root: Path) -> None:
    """`a` has a pause right where it is cut, `b`'s last token that is left is before its pauses."""
    rows = rows_of(root, max_length=5, overlong="truncate")
    assert [row["input_ids"] for row in rows] == [
        [1, 10, 2, 3],
        [5, 11, 12, 13, 14],
    ]  # of `c` no response token is left: two pauses fill what is behind the prompt
    meta = json.loads((open_version(root).folder / "exports/e/train.meta.json").read_text())
    assert meta["truncated"] == 2 and meta["skipped"] == {"no_response_left": 1}


# Packing


def slow_best_fit(lengths: list[int], length: int) -> list[list[int]]:
    """The definition: the longest first, each into the fullest row that has room, the earliest of
    equal ones."""
    rows: list[list[int]] = []
    for example in sorted(range(len(lengths)), key=lambda k: (-lengths[k], k)):
        used = [sum(lengths[k] for k in row) for row in rows]
        fits = [r for r, u in enumerate(used) if u + lengths[example] <= length]
        if fits:
            rows[max(fits, key=lambda r: (used[r], -r))].append(example)
        else:
            rows.append([example])
    return sorted(sorted(row) for row in rows)


@settings(max_examples=in_ci(200), deadline=None)
@given(st.lists(st.integers(1, 12), max_size=30))
def test_best_fit_is_what_it_says(lengths: list[int]) -> None:
    packed = best_fit(np.array(lengths, np.int64), 12)
    assert packed == slow_best_fit(lengths, 12)
    assert sorted(itertools.chain(*packed)) == list(range(len(lengths)))
    assert all(sum(lengths[k] for k in row) <= 12 for row in packed)
    # No two rows would fit into one: no more than twice the least number.
    assert len(packed) <= 2 * -(-sum(lengths) // 12)


def made(root: Path, examples: list[Any], each: int, **options: Any) -> list[dict[str, Any]]:
    """Rows of `tokenized`, of examples in shards of ``each``, two pauses before each response."""
    from test_properties import _placed

    tables = stored(root, examples, each)
    strategy = exporters_strategy("append")
    placement = _placed(root, tables, strategy, parameters_of(strategy, {"tokens": 2}))
    tokens = tables["tokens"]
    read = tables | {"examples": tokens, "vocab": tokens, "placements/p": placement}
    pause = PauseEntry(token="[PAUSE]", id=PAUSE, id_is_new=True)
    format = exporters.get("tokenized")
    parsed = exporters.parse(format, options, "test")
    rows = ExportRows(ExportInputs.of("d", pause, read, "p", no_tokenizer), format, parsed)
    return [row for unit in rows.units("train") for row in rows.make(unit).table.to_pylist()]


def exporters_strategy(name: str) -> Any:
    from pausedata import strategies

    return strategies.get(name)


def parameters_of(strategy: Any, values: Any) -> Any:
    from pausedata import strategies

    return strategies.parse(strategy, values, "test")


@settings(max_examples=in_ci(40), deadline=None)
@given(examples=EXAMPLES, each=st.integers(1, 12), room=st.integers(0, 30))
def test_packed_rows_hold_every_example_once_and_whole(
    examples: list[Any], each: int, room: int
) -> None:
    """Whatever the shards. Positions begin anew; the first label of each example is ignored."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        plain = made(Path(one), examples, each)
        length = max(max(len(row["input_ids"]) for row in plain), 2) + room
        packed = made(Path(other), examples, len(examples), pack=length)
    found: Counter[tuple[Any, ...]] = Counter()
    for row in packed:
        assert set(row) == {"input_ids", "labels", "position_ids", "seq_lengths"}
        assert len(row["input_ids"]) == sum(row["seq_lengths"]) <= length
        first = 0
        for size in row["seq_lengths"]:
            part = slice(first, first + size)
            assert row["position_ids"][part] == list(range(size))
            found[tuple(row["input_ids"][part]), tuple(row["labels"][part])] += 1
            first += size
    wanted = Counter((tuple(r["input_ids"]), (no, *r["labels"][1:])) for r in plain)
    assert found == wanted


@settings(max_examples=in_ci(20), deadline=None)
@given(examples=EXAMPLES, each=st.integers(1, 5))
def test_packed_rows_depend_on_no_shard(examples: list[Any], each: int) -> None:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        options = {"pack": 40, "overlong": "skip"}
        assert made(Path(one), examples, each, **options) == made(
            Path(other), examples, len(examples), **options
        )


def test_an_example_longer_than_a_row_is_an_error(root: Path) -> None:
    with pytest.raises(DataError, match="longer than the 8 tokens"):
        rows_of(root, pack=8)
    rows = rows_of(root, pack=18)
    assert [row["seq_lengths"] for row in rows] == [[9, 9], [7]]


# Shifted labels


def test_shifted_labels_stand_where_they_are_predicted(root: Path) -> None:
    """By hand: the last token is no input, and each label is the next token's."""
    first = rows_of(root, "shifted")[0]
    assert first["input_ids"] == [1, 10, 2, 3, PAUSE, PAUSE, 10, 4]
    assert first["labels"] == [no, no, 3, no, no, 10, 4, EOS]
    assert first["attention_mask"] == [1] * 8


def test_shifted_and_packed(root: Path) -> None:
    """No token predicts the first of the next example."""
    row = rows_of(root, "shifted", pack=18)[0]
    assert row["input_ids"] == [1, 10, 2, 3, 16, 16, 10, 4, 15, 5, 11, 12, 13, 14, 16, 16, 6]
    assert row["labels"] == [no, no, 3, no, no, 10, 4, 15, no, 11, 12, 13, 14, no, no, 6, 15]
    assert row["position_ids"] == [*range(9), *range(8)]


def test_tokens_and_mask(root: Path) -> None:
    first = rows_of(root, "shifted", columns="mask")[0]
    assert first["tokens"] == [1, 10, 2, 3, PAUSE, PAUSE, 10, 4, EOS]
    assert first["mask"] == [True, True, True, False, True, True, False, False, False]


# Several placements


def test_a_mixture_draws_by_id_and_seed_alone() -> None:
    ids = [f"row-{k}" for k in range(4_000)]
    drawn = draw(ids, {"a": 3, "b": 1}, seed=5)
    again = draw(ids[::-1], {"a": 3, "b": 1}, seed=5)
    assert (again[::-1] == drawn).all()
    assert (draw(ids, {"a": 3, "b": 1}, seed=6) != drawn).any()
    # Binomial, 4,000 draws of a quarter: ten standard deviations are 274.
    assert abs((drawn == 1).sum() - 1_000) < 274
    assert (draw(ids, {"a": 1.5, "b": 0.5}, seed=5) == drawn).all()  # shares decide


def test_a_mixture_takes_each_row_from_one_of_its_placements(root: Path) -> None:
    place(root, {"ten": Placement(strategy="append", tokens=10)})  # type: ignore[call-arg]
    rows = rows_of(root, placement={"low": 1, "ten": 1}, seed=3)
    pure = {name: rows_of(root, placement=name) for name in ("low", "ten")}
    chosen = draw(["a", "b", "c"], {"low": 1, "ten": 1}, 3)
    assert rows == [pure[("low", "ten")[which]][k] for k, which in enumerate(chosen)]


def test_a_placement_for_each_epoch_is_a_split_for_each(root: Path) -> None:
    place(root, {"ten": Placement(strategy="append", tokens=10)})  # type: ignore[call-arg]
    version = export(root, "e", Export(placement=["low", "ten", "low"], format="tokenized")).version
    table = version.table("exports/e")
    assert table.splits() == [
        *("train.epoch1", "test.epoch1", "train.epoch2", "test.epoch2"),
        *("train.epoch3", "test.epoch3"),
    ]
    folder = version.folder / "exports" / "e"
    texts = [(folder / f"train.epoch{k}.jsonl").read_bytes() for k in (1, 2, 3)]
    assert texts[0] == texts[2] != texts[1]
    assert verify(version, Silent()) == []


def test_those_who_look_at_a_dataset_name_them_all(run: Callable[..., Run], root: Path) -> None:
    place(root, {"ten": Placement(strategy="append", tokens=10)})  # type: ignore[call-arg]
    export(root, "mixed", Export(placement={"low": 3, "ten": 1}, format="tokenized"))
    export(root, "epochs", Export(placement=["low", "ten"], format="tokenized"))
    for words in (("stats", root, "--quick"), ("stats", root), ("log", root)):
        done = run(*words)
        assert done.status == 0, done.err
        assert "low 3 + ten 1" in done.out and "low, then ten" in done.out
    card = (open_version(root).folder / "README.md").read_text()
    assert "placement `low, then ten`" in card
    told = json.loads(run("stats", root, "--json").out)
    assert told["exports"]["epochs"]["placement"] == ["low", "ten"]
    assert told["tokens"] == 22  # of the examples, whatever exports hold


def test_what_a_mixture_was_made_from_is_known(root: Path) -> None:
    """A placement that is remade remakes it; one that is removed takes it along."""
    ten = Placement(strategy="append", tokens=10)  # type: ignore[call-arg]
    place(root, {"ten": ten})
    spec = Export(placement={"low": 1, "ten": 1}, format="tokenized")
    before = export(root, "e", spec).version.table("exports/e").entry.content
    two = Placement(strategy="append", tokens=2)  # type: ignore[call-arg]
    after = place(root, {"ten": two}, replace=True).version.table("exports/e").entry.content
    assert after != before
    with pytest.raises(UsageError, match="exports/e"):
        remove(root, ["placements/ten"])
    assert "e" not in remove(root, ["placements/ten"], cascade=True).version.exports


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--placement", "low=1", "--placement", "spare"), "weights"),
        (("--placement", "low=0"), "above 0"),
        (("--placement", "low=x"), "above 0"),
        (("--placement", "low=1", "--placement", "low=2"), "named twice"),
        (("--placement", "lwo"), "lwo"),
        (("--placement", "low", "--pack", "1"), "pack"),
        (("--placement", "low", "--param", "eos=off"), "eos"),
        (("--placement", "low", "--pack", "64", "--param", "pack=32"), "Give it once"),
        (("--placement", "low", "--on-mismatch", "move"), "no such option"),
        (("--placement", "low", "--chat-template", "none.jinja"), "none.jinja"),
    ],
)
def test_a_wrong_option_is_said_in_a_line(
    run: Callable[..., Run], root: Path, words: tuple[str, ...], told: str
) -> None:
    done = run("export", root, "--format", "tokenized", *words)
    assert done.status == 2
    assert told in done.err and len(done.err.splitlines()) == 1, done.err


def test_a_recipe_has_the_same_options(recipe: Recipe) -> None:
    recipe.data["exports"] |= {
        "packed": {"placement": "dit", "format": "hf-disk", "pack": 600},
        "mixed": {"placement": {"dit": 3, "append": 1}, "format": "tokenized", "seed": 4},
        "epochs": {"placement": ["dit", "append"], "format": "tokenized"},
    }
    version = recipe.build().version
    assert {"packed", "mixed", "epochs"} <= set(version.exports)
    assert verify(version, Silent()) == []
    again = recipe.build()
    assert not again.committed


# The README


def test_the_readme_says_what_trainers_need(root: Path) -> None:
    export(root, "packed", Export(placement="low", format="tokenized", pack=18))
    readme = (open_version(root).folder / "exports" / "packed" / "README.md").read_text()
    for needed in (
        "padding_free=True", "max_length=None", "default_data_collator", "`[PAUSE]` is id 16",
        "trainable_token_indices=[16]", "give the trainer 18 tokens or more",
    ):  # fmt: skip
        assert needed in readme, needed
    assert "## axolotl" not in readme  # it packs itself, and takes no rows that are packed


@pytest.mark.parametrize("name", exporters.own())
def test_every_format_says_how_its_trainer_is_told(name: str) -> None:
    """A configuration that registers the token, where the trainer can; and what cuts rows."""
    from pausedata.exporters.base import Guide

    format = exporters.get(name)
    masked = {} if format.pause_label_masked else {"allow_unmasked": True}
    options = exporters.parse(format, masked, "test")
    pause = {"token": "[PAUSE]", "id": 16, "id_is_new": True}
    sections = format.guide(Guide(options, pause, {"train": "train.jsonl"}, 123))
    assert sections
    text = "\n".join(section.code + section.note for section in sections)
    assert "[PAUSE]" in text or "prepare-model" in text or "trainable_token_indices" in text
    assert "123" in text or "131" in text or "max_length=None" in text
