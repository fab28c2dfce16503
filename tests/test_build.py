"""`build`: what is made, what is kept, what is stopped, what goes on after a stop."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from aligned import aligned
from conftest import (
    SHARED,
    TABLES,
    Recipe,
    Run,
    held_scoring,
    make_model,
    start,
    swap_tokens,
    wait_until,
    write_rows,
)

from pausedata import scorers
from pausedata.analysis.verify import verify
from pausedata.core import stopping
from pausedata.core.errors import DataError, UsageError
from pausedata.core.progress import Silent
from pausedata.store.dataset import open_version


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, loading a model is an error."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(scorers, "load_scorer", refuse)


def whole(root: Path) -> bool:
    return verify(open_version(root), Silent()) == []


def contents(root: Path) -> dict[str, str]:
    return {name: t.content for name, t in open_version(root).manifest.tables.items()}


def test_one_command_makes_every_table_in_one_version(recipe: Recipe) -> None:
    outcome = recipe.build()
    assert outcome.version.number == 1
    assert list(open_version(recipe.out).tables) == TABLES
    assert whole(recipe.out)
    rows = open_version(recipe.out).manifest.rows["train"]
    assert (rows.into, rows.out, rows.dropped) == (12, 12, {})


def test_the_second_time_there_is_nothing_to_do(recipe: Recipe, no_model: None) -> None:
    with pytest.raises(AssertionError, match="a model was loaded"):
        recipe.build()  # the fixture works
    assert not (recipe.out / "pausedata.json").exists()


def test_built_twice_nothing_is_made_and_no_model_is_loaded(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe.build()
    monkeypatch.setattr(scorers, "load_scorer", lambda *a, **k: pytest.fail("a model was loaded"))
    outcome = recipe.build()
    assert not outcome.committed
    assert outcome.version.number == 1
    assert sorted(outcome.kept) == sorted(TABLES)


def test_a_placements_parameters_change_without_a_model(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe.build()
    before = contents(recipe.out)
    monkeypatch.setattr(scorers, "load_scorer", lambda *a, **k: pytest.fail("a model was loaded"))
    recipe.data["placements"]["dit"]["positions"] = 1
    outcome = recipe.build()
    # The export that was made from it is remade in the same version; the rest is as it was.
    assert outcome.made == ["placements/dit", "exports/dit-tokenized"]
    assert outcome.version.number == 2
    after = contents(recipe.out)
    assert {t for t in TABLES if before[t] != after[t]} == set(outcome.made)
    assert whole(recipe.out)


def test_what_place_and_export_added_stays_and_follows(recipe: Recipe, run: Any) -> None:
    recipe.build()
    run("place", recipe.out, "one", "--strategy", "lowest_logprob", "--param", "positions=1")
    run("export", recipe.out, "--placement", "one", "--format", "tokenized")
    del recipe.data["placements"]["append"]  # gone from the recipe is not gone from the dataset
    recipe.data["source"]["limit"] = 8
    outcome = recipe.build(replace=True)
    assert set(open_version(recipe.out).tables) == {
        *TABLES,
        "placements/one",
        "exports/one-tokenized",
    }
    assert outcome.removed == {}
    assert whole(recipe.out)


def test_examples_that_changed_are_stopped_and_named(recipe: Recipe) -> None:
    recipe.build()
    recipe.data["prompt"] = "Q: {{ question }}\nA:"
    with pytest.raises(UsageError) as error:
        recipe.build()
    assert "prompt: " in str(error.value)
    assert "--replace" in str(error.value)
    assert open_version(recipe.out).number == 1


def test_a_corpus_that_grew_is_scored_where_it_is_new(
    recipe: Recipe, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(recipe.folder / "rows.jsonl", rows[:9])
    recipe.build()
    old = open_version(recipe.out)
    before = {
        id: logprob
        for _, [table] in aligned(old, "scores/base")
        for id, logprob in zip(table["id"].to_pylist(), table["logprob"].to_pylist(), strict=True)
    }
    write_rows(recipe.folder / "rows.jsonl", [*rows[9:], *rows[:9]])  # three more, in front
    counted: list[int] = []
    load = scorers.load_scorer

    def counting(*args: Any, **kwargs: Any) -> Any:
        scorer = load(*args, **kwargs)
        score = scorer.score
        scorer.score = lambda examples, *more: (  # type: ignore[method-assign]
            counted.append(len(examples)) or score(examples, *more)
        )
        return scorer

    monkeypatch.setattr(scorers, "load_scorer", counting)
    recipe.build(replace=True)
    new = open_version(recipe.out)
    assert sum(counted) == 3
    assert new.table("scores/base").entry.provenance["carried_examples"] == 9
    after = {
        id: logprob
        for _, [table] in aligned(new, "scores/base")
        for id, logprob in zip(table["id"].to_pylist(), table["logprob"].to_pylist(), strict=True)
    }
    assert len(after) == 12
    assert {id: after[id] for id in before} == before  # to the last bit
    assert whole(recipe.out)
    # The old version is as it was.
    assert open_version(recipe.out, 1).manifest.rows["train"].out == 9
    assert verify(open_version(recipe.out, 1), Silent()) == []


def test_a_run_that_the_recipe_no_longer_names_is_carried_whole_or_dropped(
    recipe: Recipe, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    other = make_model(tmp_path / "epoch-1", seed=1)
    recipe.data["runs"] = {"epoch-1": {"model": {"id": str(other)}}}
    recipe.data["placements"]["later"] = {
        "strategy": "lowest_logprob",
        "positions": 2,
        "run": "epoch-1",
    }
    recipe.build()
    assert open_version(recipe.out).runs == ["base", "epoch-1"]
    del recipe.data["runs"], recipe.data["placements"]["later"]
    # Fewer rows: all were scored before.
    recipe.data["source"]["limit"] = 8
    assert recipe.build(replace=True).removed == {}
    assert open_version(recipe.out).runs == ["base", "epoch-1"]
    # A new row: the run has no score for it, and no model.
    write_rows(recipe.folder / "rows.jsonl", [{"question": "What is 1 + 1?", "answer": "2"}, *rows])
    removed = recipe.build(replace=True).removed
    assert set(removed) == {"scores/epoch-1", "placements/later"}
    assert "1 example is without scores" in removed["scores/epoch-1"]
    assert whole(recipe.out)


def test_a_run_with_another_tokenizer_is_refused_before_scoring(
    recipe: Recipe, tmp_path: Path
) -> None:
    other = make_model(tmp_path / "other")
    swap_tokens(other, ":", "?")
    recipe.data["runs"] = {"other": {"model": {"id": str(other)}}}
    with pytest.raises(UsageError, match="another tokenizer"):
        recipe.build()


def test_random_and_append_need_no_model(recipe: Recipe, no_model: None) -> None:
    recipe.data["scoring"] = None
    recipe.data["placements"] = {
        "random": {"strategy": "random", "positions": 2},
        "append": {"strategy": "append", "tokens": 3},
        "none": {"strategy": "none"},
    }
    recipe.data["exports"] = {"a": {"placement": "append", "format": "tokenized"}}
    recipe.build()
    version = open_version(recipe.out)
    assert version.runs == []
    assert version.placements == ["random", "append", "none"]
    assert whole(recipe.out)


def test_scores_depend_on_no_sharding_beyond_the_last_bits(recipe: Recipe, tmp_path: Path) -> None:
    """And everything that rests on stored scores depends on it not at all."""
    recipe.build()
    one = open_version(recipe.out)
    recipe.out = tmp_path / "whole"
    recipe.data["shard_rows"] = 100
    recipe.build()
    other = open_version(recipe.out)
    assert len(one.table("tokens").shards) == 3
    assert len(other.table("tokens").shards) == 1
    for table in ("examples", "tokens", "vocab", "placements/append"):
        assert one.table(table).entry.content == other.table(table).entry.content
    flat = [
        [x for _, [t] in aligned(v, "scores/base") for row in t["logprob"].to_pylist() for x in row]
        for v in (one, other)
    ]
    assert flat[0] == pytest.approx(flat[1], abs=1e-4)


def test_ids_come_from_the_text_and_repeats_are_numbered(
    recipe: Recipe, rows: list[dict[str, Any]]
) -> None:
    import hashlib

    write_rows(recipe.folder / "rows.jsonl", [rows[0], rows[1], rows[0], rows[0]])
    recipe.build()
    ids = [
        id for _, [t] in aligned(open_version(recipe.out), "examples") for id in t["id"].to_pylist()
    ]
    prompt, response = f"Question: {rows[0]['question']}\nAnswer:", f" {rows[0]['answer']}"
    first = hashlib.sha256(f"{prompt}\0{response}".encode()).hexdigest()[:32]
    assert [ids[0], ids[2], ids[3]] == [first, f"{first}-2", f"{first}-3"]
    assert len(set(ids)) == 4


def test_the_sources_own_ids_and_the_columns_no_template_uses(recipe: Recipe) -> None:
    recipe.data["source"]["id"] = "id"
    recipe.build()
    _, [examples] = next(iter(aligned(open_version(recipe.out), "examples")))
    assert examples["id"][0].as_py() == "wp-001"
    assert set(json.loads(examples["meta"][0].as_py())) == {"topic", "steps"}


def test_a_repeated_id_is_an_error(recipe: Recipe, rows: list[dict[str, Any]]) -> None:
    write_rows(recipe.folder / "rows.jsonl", [rows[0], rows[0]])
    recipe.data["source"]["id"] = "id"
    with pytest.raises(DataError, match="wp-001"):
        recipe.build()


def test_every_row_comes_out_or_is_counted(recipe: Recipe, rows: list[dict[str, Any]]) -> None:
    bad = [
        {"question": "q", "answer": ""},
        {"question": None, "answer": "a"},
        {"question": 5, "answer": "a"},
        {"question": "q", "answer": "has [PAUSE] already"},
        {"answer": "a"},
    ]
    path = write_rows(recipe.folder / "rows.jsonl", [*rows, *bad])
    path.write_bytes(
        path.read_bytes() + b'{"question": broken\n{"question": "\xff", "answer": "a"}\n'
    )
    with pytest.raises(DataError) as error:
        recipe.build()
    message = str(error.value)
    assert "7 of 19 rows cannot be used" in message
    assert "rows.jsonl:18" in message or "and 2 more" in message
    recipe.data["source"]["max_bad_rows"] = 7
    progress = Silent()
    recipe.build(progress=progress)
    counted = open_version(recipe.out).manifest.rows["train"]
    assert (counted.into, counted.out, sum(counted.dropped.values())) == (19, 12, 7)
    assert counted.dropped == {
        "empty_response": 1,
        "null": 1,
        "not_text": 1,
        "has_pause": 1,
        "missing_column": 1,
        "bad_json": 1,
        "bad_utf8": 1,
    }
    assert "7 rows left out" in progress.warnings[0]


def test_overlong_examples_are_skipped_or_cut_and_counted(recipe: Recipe) -> None:
    recipe.data["scoring"] = {"max_length": 240}
    with pytest.raises(DataError, match="overlong"):
        recipe.build()
    recipe.data["scoring"]["overlong"] = "skip"
    recipe.build()
    counted = open_version(recipe.out).manifest.rows["train"]
    assert counted.dropped["overlong"] > 0
    assert counted.into == counted.out + counted.dropped["overlong"]
    recipe.out = recipe.folder / "cut"
    recipe.data["scoring"]["overlong"] = "truncate"
    recipe.build()
    cut = open_version(recipe.out).manifest.rows["train"]
    assert (
        cut.noted["truncated"] + cut.dropped.get("no_response_left", 0)
        == counted.dropped["overlong"]
    )
    assert whole(recipe.out)


def test_a_prompt_longer_than_the_models_context_is_found_before_scoring(
    recipe: Recipe, tmp_path: Path, no_model: None
) -> None:
    recipe.data["model"] = {"id": str(make_model(tmp_path / "short", context=64))}
    with pytest.raises(DataError) as error:
        recipe.build()
    assert "64 tokens" in str(error.value)
    assert "scoring.max_length" in str(error.value)


def test_messages_go_through_the_chat_template(recipe: Recipe, rows: list[dict[str, Any]]) -> None:
    recipe.data["prompt"] = {"messages": [{"role": "user", "content": "{{ question }}"}]}
    recipe.data["response"] = "{{ answer }}"
    recipe.build()
    _, [examples, tokens] = next(iter(aligned(open_version(recipe.out), "examples", "tokens")))
    assert examples["prompt"][0].as_py() == (
        f"<|im_start|>user\n{rows[0]['question']}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert examples["response"][0].as_py() == rows[0]["answer"]
    vocab = (
        open_version(recipe.out)
        .table("vocab")
        .read(open_version(recipe.out).table("vocab").shards[0])
    )
    last = tokens["response_ids"][0].as_py()[-1]
    assert vocab["token"][last].as_py() == "<|im_end|>"


def test_each_assistant_turn_can_be_an_example(recipe: Recipe) -> None:
    turns = [
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "and 1 more?"},
        {"role": "assistant", "content": "3"},
    ]
    write_rows(recipe.folder / "rows.jsonl", [{"messages": turns}])
    del recipe.data["response"]
    recipe.data["prompt"] = {"messages_column": "messages", "turns": "each"}
    recipe.build()
    _, [examples] = next(iter(aligned(open_version(recipe.out), "examples")))
    assert examples["response"].to_pylist() == ["2", "3"]
    assert "2<|im_end|>" in examples["prompt"][1].as_py()
    assert open_version(recipe.out).manifest.rows["train"].into == 2


def test_a_template_that_makes_an_edge_unlikely_is_warned_of(recipe: Recipe) -> None:
    """With figures that the real model gave; test_model.py has the real model give them."""
    from pausedata.pipeline.unseen_format import edges, warning

    recipe.build()
    table = open_version(recipe.out).table("scores/base")

    def said(first: float, last: float, append_eos: bool = True) -> str:
        facts = {
            "first_token_mean_logprob": first,
            "last_token_mean_logprob": last,
            "inner_tokens_mean_logprob": -1.5,
        }
        entry = table.entry.model_copy(update={"provenance": table.entry.provenance | facts})
        run = type(table)(table.name, entry, table.folder)
        found = edges(run, append_eos)
        return warning(run, [], found) if found else ""

    assert said(-6.4, -5.6) == ""
    space = said(-16.1, -5.6)  # a prompt that ends in "Answer: "
    assert "first token" in space and "-16.1" in space and "space" in space
    end = said(-6.4, -13.3)  # an instruct model without its chat template
    assert "end token" in end and "append_eos" in end
    assert said(-6.4, -13.3, append_eos=False) == ""
    both = said(-16.1, -13.3)
    assert "-16.1" in both and "-13.3" in both
    assert [text.count("{warmup: true}") for text in (space, end, both)] == [1, 1, 1]


def test_means_of_first_last_and_inner_tokens_are_noted(recipe: Recipe) -> None:
    recipe.build()
    version = open_version(recipe.out)
    rows = [row for _, [t] in aligned(version, "scores/base") for row in t["logprob"].to_pylist()]
    facts = version.table("scores/base").entry.provenance
    inner = [x for row in rows for x in row[1:-1]]
    assert facts["first_token_mean_logprob"] == pytest.approx(sum(r[0] for r in rows) / 12)
    assert facts["last_token_mean_logprob"] == pytest.approx(sum(r[-1] for r in rows) / 12)
    assert facts["inner_tokens_mean_logprob"] == pytest.approx(sum(inner) / len(inner))


def test_no_path_of_this_machine_is_in_the_dataset(recipe: Recipe) -> None:
    recipe.build()
    machine = str(recipe.folder).encode()
    for path in recipe.out.rglob("*"):
        if path.is_file():
            assert machine not in path.read_bytes(), path


# Stops and restarts, in processes of their own.


def scored_shards(recipe: Recipe) -> list[Path]:
    return sorted(recipe.out.glob("staging/scores-base-*/records/scores/base/*.json"))


@pytest.mark.processes
@pytest.mark.parametrize(
    ("sent", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)],
    ids=["ctrl-c", "sigterm", "sigkill"],
)
def test_stopped_in_the_middle_it_goes_on_where_it_was(
    recipe: Recipe, sent: signal.Signals, status: int, tmp_path: Path
) -> None:
    go = recipe.folder / "go"
    process = start("build", recipe.write(), first=held_scoring(go, after=1))
    wait_until(lambda: (recipe.folder / "held").exists() and scored_shards(recipe), process)
    process.send_signal(sent)
    if sent == signal.SIGINT:  # which waits for the shard under way
        assert process.stderr is not None
        wait_until(lambda: stopping.STOPPING in process.stderr.readline(), process)
        go.touch()
    _, err = process.communicate(timeout=300)
    assert process.returncode == status, err
    assert "Traceback" not in err
    if sent != signal.SIGKILL:
        assert "finished shards are kept" in err
    assert not (recipe.out / "pausedata.json").exists()
    done = scored_shards(recipe)
    assert 1 <= len(done) < 3
    stamps = {path: path.stat().st_mtime_ns for path in done}
    shards = {
        p: p.stat().st_mtime_ns for p in recipe.out.glob("staging/scores-base-*/scores/base/*")
    }

    # A placement that was edited meanwhile loses no scoring.
    recipe.data["placements"]["dit"]["positions"] = 2
    said: list[str] = []
    progress = Silent()
    progress.say = said.append  # type: ignore[method-assign]
    recipe.build(progress=progress)
    assert any(f"{len(done)} of 3 shards were scored before" in line for line in said)
    assert stamps and shards
    assert whole(recipe.out)

    # And the result is that of a build that nothing disturbed, to the last bit.
    undisturbed = Recipe(recipe.folder, recipe.data)
    undisturbed.out = tmp_path / "undisturbed"
    undisturbed.build()
    assert contents(recipe.out) == contents(undisturbed.out)


def test_a_build_that_was_killed_after_scoring_loads_no_model(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pausedata.pipeline.steps import place as place_step

    place = place_step.place

    def killed(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(place_step, "place", killed)
    with pytest.raises(KeyboardInterrupt):
        recipe.build()
    monkeypatch.setattr(place_step, "place", place)
    monkeypatch.setattr(scorers, "load_scorer", lambda *a, **k: pytest.fail("a model was loaded"))
    recipe.data["placements"]["dit"]["positions"] = 1
    recipe.build()
    assert whole(recipe.out)


def test_a_damaged_staged_shard_is_scored_again(recipe: Recipe, monkeypatch: Any) -> None:
    from pausedata.pipeline.steps import place as place_step

    place = place_step.place
    monkeypatch.setattr(
        place_step, "place", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        recipe.build()
    monkeypatch.setattr(place_step, "place", place)
    shard = sorted(recipe.out.glob("staging/scores-base-*/scores/base/*.parquet"))[1]
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    shard.write_bytes(damaged)
    recipe.build()
    assert whole(recipe.out)


def two_builds(recipe: Recipe) -> tuple[Any, Any]:
    """A build that scores when there is a file ``go``, and a second one that waits for it."""
    first = start("build", recipe.write(), first=held_scoring(recipe.folder / "go"))
    wait_until((recipe.folder / "held").exists, first)
    second = start("build", recipe.path)
    assert second.stderr is not None
    said = ""
    while "Waiting" not in said:
        said = second.stderr.readline()
        assert said, "the second build ended"
    assert f"another pausedata process (process {first.pid}, since " in said
    return first, second


@pytest.mark.processes
def test_a_second_build_waits_and_takes_what_the_first_made(recipe: Recipe) -> None:
    first, second = two_builds(recipe)
    (recipe.folder / "go").touch()
    assert first.wait(300) == 0
    _, err = second.communicate(timeout=300)
    assert second.returncode == 0
    assert "up to date (version 1)" in err and "scoring" not in err


@pytest.mark.processes
def test_a_second_build_goes_on_where_a_dead_one_was(recipe: Recipe) -> None:
    first, second = two_builds(recipe)
    first.kill()  # and a dead process holds nothing
    first.communicate(timeout=300)
    second.communicate(timeout=300)
    assert second.returncode == 0
    assert whole(recipe.out)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not beside this checkout")
@pytest.mark.parametrize(
    ("name", "file"),
    [("gsm8k", "gsm8k_train.jsonl"), ("aqua_rat", "aqua_dev.jsonl"), ("mbpp", "mbpp_train.jsonl")],
)
def test_the_recipes_run_on_local_files_and_a_local_model(
    name: str, file: str, model_folder: Path, tmp_path: Path, run: Any
) -> None:
    ended: Run = run(
        "build",
        Path(__file__).parents[1] / "recipes" / f"{name}.yaml",
        "--output",
        tmp_path / name,
        "--limit",
        "20",
        "--set",
        "source.hub=null",
        "--set",
        f"source.files=[{SHARED / file}]",
        "--set",
        f"model.id={model_folder}",
    )
    assert ended.status == 0, ended.err
    assert whole(tmp_path / name)
    assert len(open_version(tmp_path / name).exports) == 3


@pytest.mark.processes
def test_a_full_disk_loses_nothing(recipe: Recipe, tmp_path: Path) -> None:
    """A small file system in memory, filled; then with room again."""
    mount = tmp_path / "small"
    mount.mkdir()
    if os.system(f"mount -t tmpfs -o size=192k tmpfs {mount} 2>/dev/null") != 0:
        pytest.skip("mounting a file system needs root, and to be allowed")
    try:
        recipe.out = mount / "out"
        process = start("build", recipe.write(), "--output", recipe.out)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 1, err
        assert "No space left" in err
        assert "Traceback" not in err
        os.system(f"mount -o remount,size=64m {mount}")
        recipe.build()
        assert whole(recipe.out)
    finally:
        os.system(f"umount {mount}")
