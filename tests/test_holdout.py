"""What is held out: which rows, where they are left out, and what `measure` makes of the others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Recipe, Run, problems, tiny_recipe, write_rows
from hypothesis import given
from hypothesis import strategies as st
from planning import planned

from pausedata.analysis.shared_texts import SharedTexts, shared_texts
from pausedata.analysis.stats import manifest_stats, stats
from pausedata.analysis.verify import verify
from pausedata.core.errors import DataError, UsageError
from pausedata.core.held_out import HeldOut, choose, is_cut, is_evaluated
from pausedata.core.progress import Silent
from pausedata.measure import trained_on
from pausedata.models.prepare import prepare_model
from pausedata.models.ref import ModelRef
from pausedata.store.dataset import Version, open_version
from pausedata.training.rows import PlacedRows
from pausedata.warmup.folds import fold_of

Command = Callable[..., Run]
ROWS, HELD = 60, 15
LEFT = ROWS - HELD


def of_sixty(folder: Path, model: Path, rows: list[Any] | None = None, **keys: Any) -> Recipe:
    """A recipe of sixty problems, a fifth of which is held out."""
    source = {"files": ["rows.jsonl"], "holdout": 0.2} | keys.pop("source", {})
    some = problems(ROWS) if rows is None else rows
    return tiny_recipe(folder, model, some, shard_rows=20, source=source, **keys)


@pytest.fixture(scope="module")
def built_once(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = of_sixty(tmp_path_factory.mktemp("held"), model_folder)
    recipe.build()
    return recipe.out


@pytest.fixture
def built(tmp_path: Path, model_folder: Path, built_once: Path) -> Recipe:
    """The recipe, as if it had just been built here."""
    shutil.copytree(built_once, tmp_path / "out", symlinks=True)
    return of_sixty(tmp_path, model_folder)


@pytest.fixture(scope="module")
def trained(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with the pause token."""
    out = tmp_path_factory.mktemp("trained") / "model"
    prepare_model(ModelRef.parse(str(model_folder), None, Path()), out)
    return out


def texts(version: Version, split: str) -> list[tuple[str, str]]:
    rows = [
        row
        for table in version.table("examples").read_all(split)
        for row in table.select(["prompt", "response"]).to_pylist()
    ]
    return [(row["prompt"], row["response"]) for row in rows]


def prompt_of(row: dict[str, Any]) -> str:
    return f"Question: {row['question']}\nAnswer:"


# Which rows


def test_the_first_eight_bytes_of_a_hash_say_so() -> None:
    r"""By hand: `printf "holdout\nquestion 1 answer" | sha256sum` begins with 2bf111b1, that of
    question 12 with a42827ee: shares of 0.17165 and 0.64124.
    """
    assert is_cut("Question: 1\nAnswer:", 0.1717) and not is_cut("Question: 1\nAnswer:", 0.1716)
    assert is_cut("question (12) ANSWER?", 0.6413) and not is_cut("question (12) ANSWER?", 0.6412)


def test_a_share_of_the_rows_is_held_out_by_their_prompts(built: Recipe) -> None:
    version = open_version(built.out)
    assert version.splits == ["train", "holdout"]
    held = [prompt_of(row) for row in problems(ROWS) if is_cut(prompt_of(row), 0.2)]
    assert [prompt for prompt, _ in texts(version, "holdout")] == held
    assert len(held) == HELD
    rows = version.manifest.rows
    assert {split: (r.into, r.out) for split, r in rows.items()} == {
        "train": (LEFT, LEFT),
        "holdout": (HELD, HELD),
    }
    inputs = version.manifest.tables["tokens"].provenance["inputs"]
    assert inputs["source"]["holdout"] == 0.2 and inputs["source"]["split"] == ["train"]


def test_without_the_key_nothing_changes(tmp_path: Path, model_folder: Path) -> None:
    """A dataset of before there was one is up to date, and is never remade for it."""
    recipe = tiny_recipe(tmp_path, model_folder, problems(6))
    version = recipe.build().version
    assert version.splits == ["train"] and "holdout" not in version.manifest.recipe["source"]
    assert "holdout" not in version.manifest.tables["tokens"].provenance["inputs"]["source"]
    recipe.data["source"]["holdout"] = None
    assert not recipe.build().committed
    export = version.folder / "exports" / "dit-tokenized"
    meta = json.loads((export / "train.meta.json").read_text())
    assert not {"held_out", "left_out"} & set(meta)
    assert "eld out" not in (export / "README.md").read_text()


@given(
    st.lists(st.text(), max_size=30),
    st.lists(st.text(), max_size=30),
    st.floats(0.01, 0.99),
    st.floats(0.01, 0.99),
)
def test_no_row_moves_another_and_a_larger_share_keeps_what_it_had(
    some: list[str], more: list[str], share: float, other: float
) -> None:
    before = {prompt for prompt in some if is_cut(prompt, share)}
    after = {prompt for prompt in [*more, *some] if is_cut(prompt, share)}
    assert after & set(some) == before
    small, large = sorted((share, other))
    assert all(is_cut(prompt, large) for prompt in some if is_cut(prompt, small))


@given(st.text(), st.sampled_from([" {} ", "{}!", "\n{}", "({})"]), st.floats(0.01, 0.99))
def test_what_is_alike_but_for_marks_and_spaces_is_held_out_together(
    prompt: str, changed: str, share: float
) -> None:
    word = f"a {prompt}"  # a text without any word is itself alone
    assert is_cut(word, share) == is_cut(changed.format(word), share) == is_cut(word, share)


def test_about_the_share_is_held_out_and_a_fold_knows_nothing_of_it() -> None:
    prompts = [f"prompt {k}" for k in range(4000)]
    held = np.array([is_cut(prompt, 0.2) for prompt in prompts])
    assert 0.18 < held.mean() < 0.22
    folds = np.array([fold_of(prompt, 2, 0) for prompt in prompts])
    assert 0.45 < folds[held].mean() < 0.55 and 0.45 < folds[~held].mean() < 0.55


def test_a_corpus_that_grows_keeps_what_is_held_out(
    built: Recipe, model_folder: Path, tmp_path: Path
) -> None:
    before = open_version(built.out)
    write_rows(tmp_path / "rows.jsonl", problems(72)[::-1])  # in another order, too
    after = built.build(replace=True).version
    for split in ("train", "holdout"):
        assert set(texts(before, split)) < set(texts(after, split))
    assert after.table("scores/base").entry.provenance["carried_examples"] == ROWS


def test_duplicates_are_held_out_together_and_dropped_rows_are_counted_where_they_belong(
    tmp_path: Path, model_folder: Path
) -> None:
    rows = [
        {"question": f"{row['question']}{mark}", "answer": f"{row['answer']}{mark}"}
        for row in problems(20)
        for mark in ("", "!")
    ]
    long = next(row for row in problems(72) if is_cut(prompt_of(row), 0.2))
    rows += [{"question": "x"}, {**long, "answer": "y" * 4000}]
    recipe = of_sixty(tmp_path, model_folder, rows, source={"max_bad_rows": 2})
    version = recipe.build().version
    counts = version.manifest.rows
    assert {s: (r.into, r.out, r.dropped) for s, r in counts.items()} == {
        "train": (len(texts(version, "train")) + 1, counts["train"].out, {"missing_column": 1}),
        "holdout": (len(texts(version, "holdout")) + 1, counts["holdout"].out, {"overlong": 1}),
    }
    assert sum(r.into for r in counts.values()) == len(rows)
    assert all(r.out % 2 == 0 for r in counts.values())  # pairs
    assert shared_texts(version.table("examples")) == []


def test_a_conversation_is_held_out_whole(tmp_path: Path, model_folder: Path) -> None:
    def turns(row: dict[str, Any]) -> list[dict[str, str]]:
        first = [("user", row["question"]), ("assistant", row["answer"])]
        then = [("user", "And once more?"), ("assistant", row["answer"][::-1])]
        return [{"role": role, "content": text} for role, text in [*first, *then]]

    rows = [{"messages": turns(row)} for row in problems(30)]
    chat = {"messages_column": "messages", "turns": "each"}
    recipe = of_sixty(tmp_path, model_folder, rows, prompt=chat, response=None)
    version = recipe.build().version
    of = {
        split: [
            row
            for table in version.table("examples").read_all(split)
            for row in table["row"].to_pylist()
        ]
        for split in version.splits
    }
    assert not set(of["train"]) & set(of["holdout"]) and of["holdout"]
    assert all(of[split].count(row) == 2 for split in of for row in of[split])


def test_of_several_splits_the_first_is_cut(tmp_path: Path, model_folder: Path) -> None:
    recipe = two_splits(tmp_path, model_folder, problems(40), problems(72)[40:50])
    version = recipe.build().version
    assert version.splits == ["train", "test", "holdout"]
    assert [prompt for prompt, _ in texts(version, "test")] == [
        prompt_of(row) for row in problems(72)[40:50]
    ]
    meta = version.folder / "exports" / "dit-tokenized"
    assert sorted(path.name for path in meta.glob("*.jsonl")) == ["test.jsonl", "train.jsonl"]


def two_splits(
    folder: Path, model: Path, train: list[Any], test: list[Any], **source: Any
) -> Recipe:
    """A recipe over a local folder of two splits, a share of the first held out."""
    (folder / "corpus").mkdir()
    write_rows(folder / "corpus" / "train.jsonl", train)
    write_rows(folder / "corpus" / "test.jsonl", test)
    hub = {"hub": "./corpus", "split": ["train", "test"], "holdout": 0.2} | source
    recipe = of_sixty(folder, model, source=hub)
    del recipe.data["source"]["files"]
    return recipe


def test_a_recipe_that_has_a_split_of_that_name_is_refused(
    tmp_path: Path, model_folder: Path
) -> None:
    recipe = of_sixty(tmp_path, model_folder, source={"split": "holdout"})
    with pytest.raises(UsageError, match="holdout makes a split 'holdout', and split names one"):
        recipe.build()
    for share in (0, 1, -0.2, 20):
        recipe.data["source"] = {"files": ["rows.jsonl"], "holdout": share}
        with pytest.raises(UsageError, match=r"source\.holdout"):
            recipe.build()


@pytest.mark.parametrize(("share", "what"), [(1e-6, "none"), (0.999999, "all")])
def test_what_holds_out_nothing_or_everything_is_refused(
    tmp_path: Path, model_folder: Path, share: float, what: str
) -> None:
    recipe = of_sixty(tmp_path, model_folder, problems(3), source={"holdout": share})
    with pytest.raises(DataError, match=f"holds out {what} of the 3 rows of split 'train'") as told:
        recipe.build()
    assert "--set source.holdout=null" in str(told.value)
    assert recipe.build(overrides={"source.holdout": None}).committed


# Plans


def test_plan_tells_the_rows_that_are_held_out(built: Recipe, tmp_path: Path) -> None:
    assert planned(built).rows == {"train": LEFT, "holdout": HELD}
    shutil.rmtree(built.out)
    new = planned(built)
    assert new.rows == {"train": LEFT, "holdout": HELD} and new.rows_of_first_split == LEFT
    built.data["source"]["holdout"] = 0.4
    before = built.build().version.manifest.rows
    assert planned(built).rows == {split: rows.out for split, rows in before.items()}


# Exports


def test_exports_leave_it_out_and_say_so(built: Recipe, run: Command, tmp_path: Path) -> None:
    out = built.out
    inside = out / "current" / "exports" / "dit-tokenized"
    assert sorted(path.name for path in inside.glob("*.jsonl")) == ["train.jsonl"]
    assert len((inside / "train.jsonl").read_text().splitlines()) == LEFT
    meta = json.loads((inside / "train.meta.json").read_text())
    assert meta["left_out"] == {"holdout": HELD} and meta["held_out"] is False
    assert f"{HELD} examples of split `holdout` are not in it" in (inside / "README.md").read_text()
    export = ("export", out, "--placement", "append", "--format", "tokenized")
    for target in ((), ("-o", tmp_path / "one.jsonl"), ("-o", tmp_path / "folder")):
        done = run(*export, *target)
        assert done.status == 0
        assert f"holdout: {HELD} examples are held out, and not in it" in done.err
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "folder/train.jsonl").read_bytes()
    assert not (tmp_path / "folder" / "holdout.jsonl").exists()
    told = json.loads(run(*export, "-o", tmp_path / "one.jsonl", "--json").out)
    assert told["left_out"] == {"holdout": HELD} and list(told["splits"]) == ["train"]
    assert verify(open_version(out), Silent()) == []


def test_build_says_it_of_the_split_and_of_the_export(
    run: Command, tmp_path: Path, model_folder: Path
) -> None:
    done = run("build", of_sixty(tmp_path, model_folder).write())
    assert f"holdout: {HELD} rows in, {HELD} out: held out for `measure`" in done.err + done.out
    assert f"{HELD} held out" in done.err + done.out


def test_asked_for_it_is_written_alone(built: Recipe, run: Command, tmp_path: Path) -> None:
    export = ("export", built.out, "--placement", "dit", "--format", "tokenized")
    done = run(*export, "--split", "holdout")
    assert done.status == 0 and "held out, and not in it" not in done.err
    inside = built.out / "current" / "exports" / "dit-tokenized-holdout"
    assert len((inside / "holdout.jsonl").read_text().splitlines()) == HELD
    assert json.loads((inside / "holdout.meta.json").read_text())["held_out"] is True
    assert "**Not to train on.**" in (inside / "README.md").read_text()
    assert run(*export, "--split", "holdout", "-o", tmp_path / "x.jsonl").status == 0
    assert (tmp_path / "x.jsonl").read_bytes() == (inside / "holdout.jsonl").read_bytes()
    assert not built.build().committed
    assert verify(open_version(built.out), Silent()) == []


def test_a_recipe_may_ask_for_a_split(tmp_path: Path, model_folder: Path) -> None:
    exports = {
        "rest": {"placement": "dit", "format": "tokenized"},
        "held": {"placement": ["dit", "append"], "format": "tokenized", "split": "holdout"},
    }
    recipe = of_sixty(tmp_path, model_folder, exports=exports)
    version = recipe.build().version
    assert version.table("exports/held").splits() == ["holdout.epoch1", "holdout.epoch2"]
    assert version.table("exports/rest").splits() == ["train"]
    assert not recipe.build().committed
    assert verify(version, Silent()) == []
    recipe.data["exports"]["held"]["split"] = "tset"
    with pytest.raises(UsageError, match=r"no split 'tset'.*'train', 'holdout'"):
        recipe.build()


def test_figures_of_an_export_are_not_taken_for_those_of_all_rows(built: Recipe) -> None:
    version = open_version(built.out)
    quick, counted = manifest_stats(version), stats(version)
    assert quick.tokens in (None, counted.tokens)
    assert counted.splits["holdout"].examples == HELD and counted.held_out == "holdout"
    assert counted.shared == [] and quick.shared is None


def test_rows_for_a_training_have_none_of_it(built: Recipe) -> None:
    pytest.importorskip("torch")
    assert len(PlacedRows(built.out, "dit")) == LEFT
    assert len(PlacedRows(built.out, "dit", split="holdout")) == HELD
    with pytest.raises(UsageError, match="no split 'tset'"):
        PlacedRows(built.out, "dit", split="tset")


# The warm-up


def test_the_warm_up_trains_on_none_of_it_and_scores_it(
    tmp_path: Path, model_folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    from pausedata.warmup import train

    seen: set[bytes] = set()
    fit = train.train

    def watched(base: Any, settings: Any, rows: Any, held_out: Any, *a: Any, **k: Any) -> Any:
        seen.update(example.digest() for example in (*rows, *held_out))
        return fit(base, settings, rows, held_out, *a, **k)

    monkeypatch.setattr(train, "train", watched)
    quick = {"rows": 32, "rank": 4, "lr": 5e-3, "epochs": 2}
    version = of_sixty(tmp_path, model_folder, scoring={"warmup": quick}).build().version
    from pausedata.pipeline.steps.reuse import examples_of

    rows = {
        split: {
            example.digest()
            for table in version.table("tokens").read_all(split)
            for example in examples_of(table.select(["prompt_ids", "response_ids"]))
        }
        for split in version.splits
    }
    assert seen and seen <= rows["train"] and not seen & rows["holdout"]
    assert version.table("scores/base").entry.rows == ROWS


# measure and calibrate


def test_the_default_split() -> None:
    assert choose(["train", "test", "holdout"], None, 0) == HeldOut("holdout", None)
    assert choose(["train", "holdout", "extra"], None, 0) == HeldOut("holdout", None)
    assert choose(["train", "test"], None, 0) == HeldOut("test", None)
    assert choose(["train"], None, 3) == HeldOut("train", 3)
    assert choose(["train", "holdout"], "train", 0) == HeldOut("train", None)


def test_splits_that_are_there_to_be_measured_on() -> None:
    for name in ("test", "validation", "validation_matched", "Dev", "holdout", "eval.hard"):
        assert is_evaluated(name), name
    for name in ("train", "train_test", "testament", "extra", "devices"):
        assert not is_evaluated(name), name


@pytest.fixture
def measure(run: Command, trained: Path) -> Callable[..., Run]:
    def call(dataset: Path, *words: object, placement: str = "dit") -> Run:
        given = ("--model", trained, "--placement", placement, "--json")
        return run("measure", dataset, *given, *words)

    return call


def test_measure_takes_it_and_refuses_what_an_export_has(
    built: Recipe, measure: Callable[..., Run], run: Command
) -> None:
    done = measure(built.out)
    told = json.loads(done.out)
    assert (told["split"], told["fifth_of_split"], told["examples_held_out"]) == (
        "holdout",
        False,
        HELD,
    )
    assert told["trained_on"] == {"exports": [], "duplicates": []}
    refused = measure(built.out, "--split", "train")
    assert refused.status == 2 and not refused.out
    for part in ("'exports/dit-tokenized'", "split 'train'", "--split holdout", "--allow-trained"):
        assert part in refused.err
    # An export of another placement says nothing of this one, nor does one of what is held out.
    other = measure(built.out, "--split", "train", "--examples", 2, placement="append")
    assert other.status == 0 and "is not known here" in other.err
    run("export", built.out, "--placement", "dit", "--format", "tokenized", "--split", "holdout")
    assert measure(built.out, "--examples", 2).status == 0
    allowed = measure(built.out, "--split", "train", "--examples", 2, "--allow-trained")
    assert allowed.status == 0 and "knows by heart" in allowed.err
    assert json.loads(allowed.out)["trained_on"]["exports"] == ["dit-tokenized"]


def test_a_fifth_of_an_only_split_is_refused_where_it_was_exported(
    tmp_path: Path, model_folder: Path, measure: Callable[..., Run]
) -> None:
    recipe = tiny_recipe(tmp_path, model_folder, problems(20))
    recipe.build()
    done = measure(recipe.out)
    assert done.status == 2 and "source.holdout: 0.2" in done.err
    done = measure(recipe.out, placement="append")
    assert done.status == 0 and "only if the model was not trained on them" in done.err


def test_a_test_split_counts_as_held_out_and_its_duplicates_are_told(
    tmp_path: Path, model_folder: Path, measure: Callable[..., Run], run: Command
) -> None:
    train, test = problems(72)[:40], problems(72)[36:50]
    test[0]["answer"] += " And more."
    test[1]["question"] = test[1]["question"].upper() + " ?"
    recipe = two_splits(tmp_path, model_folder, train, test, holdout=None)
    done = run("build", recipe.write())
    assert done.status == 0 and "4 of split 'test' have a prompt that is in 'train'" in done.err
    found = shared_texts(open_version(recipe.out).table("examples"))
    first = next(iter(open_version(recipe.out).table("tokens").read_all("test")))["id"][0].as_py()
    assert found == [SharedTexts("test", "train", 4, 2, first)]
    assert stats(open_version(recipe.out)).shared == found
    assert "4 of split 'test' have a prompt" in run("stats", recipe.out).out
    measured = measure(recipe.out, "--examples", 2)  # though an export has it, too
    assert measured.status == 0 and "4 of split 'test' have a prompt" in measured.err
    assert json.loads(measured.out)["trained_on"]["duplicates"] == [found[0].as_json()]


def test_what_an_earlier_version_had_to_train_on_is_told(
    tmp_path: Path, model_folder: Path, measure: Callable[..., Run]
) -> None:
    recipe = tiny_recipe(tmp_path, model_folder, problems(20))
    recipe.build()
    recipe.data["source"]["holdout"] = 0.2
    recipe.build(replace=True)
    done = measure(recipe.out, "--examples", 2)
    assert done.status == 0 and "version 1 held nothing out, and exports/dit-tokenized" in done.err
    # The prompt's template decides whose hash is small: another one holds others out.
    recipe.data["prompt"] = "Q: {{ question }}\nA:"
    recipe.build(replace=True)
    done = measure(recipe.out, "--examples", 2)
    assert "version 1 held nothing out" in done.err
    (tmp_path / "two").mkdir()
    run_of_two = tiny_recipe(tmp_path / "two", model_folder, problems(30))
    run_of_two.data["source"]["holdout"] = 0.2
    run_of_two.build()
    run_of_two.data["prompt"] = "Q: {{ question }}\nA:"
    run_of_two.build(replace=True)
    done = measure(run_of_two.out, "--examples", 2)
    assert "version 1 held other examples out, and exports/dit-tokenized" in done.err


def test_several_epochs_are_known_for_what_they_are(tmp_path: Path, model_folder: Path) -> None:
    exports = {"both": {"placement": ["append", "dit"], "format": "tokenized"}}
    version = of_sixty(tmp_path, model_folder, exports=exports).build().version
    assert trained_on.exports_of(version, "dit", "train") == ["both"]
    assert trained_on.exports_of(version, "dit", "holdout") == []


def test_calibrate_takes_it_too(built: Recipe, run: Command) -> None:
    told = json.loads(run("calibrate", built.out, "--budget", "3/100", "--json").out)
    assert (told["held_out"]["split"], told["held_out"]["examples"]) == ("holdout", HELD)
