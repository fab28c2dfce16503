"""A damaged shard of tokens, and a source that has changed since: what that costs of the scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Recipe, make_model, write_rows
from planning import planned, why
from test_plan_damage import damage

from pausedata.analysis.verify import verify
from pausedata.core.progress import Silent
from pausedata.pipeline.commands import score
from pausedata.pipeline.score_request import ScoreRequest
from pausedata.store.dataset import open_version

SHARD = "train-00001-of-00003.parquet"
NEW = [{"question": "What is 1 + 1?", "answer": "2"}]


class Heard(Silent):
    """Keeps what a command says."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture
def grown(built: Recipe, rows: list[dict[str, Any]]) -> Recipe:
    """A dataset with a damaged shard of tokens, whose source has a row more than it had."""
    damage(built.out, f"tokens/{SHARD}")
    write_rows(built.folder / "rows.jsonl", [*rows, *NEW])
    return built


def test_it_is_made_again_from_the_examples_and_no_score_is_lost(
    grown: Recipe, counted: list[int]
) -> None:
    before = {path: path.read_bytes() for path in grown.out.rglob("*") if path.is_file()}
    told = planned(grown, replace=True)
    assert {path: path.read_bytes() for path in grown.out.rglob("*") if path.is_file()} == before
    assert "the scores of 12 examples are carried over" in why(told, "scores/base")
    progress = Heard()
    outcome = grown.build(replace=True, progress=progress)
    assert sum(counted) == 1
    assert f"tokens/{SHARD}: put back, as it was" in progress.said
    assert not outcome.marked
    assert verify(open_version(grown.out), Silent()) == []
    assert verify(open_version(grown.out, 1), Silent()) == []  # the version before is whole again


def test_a_chat_s_tokens_come_out_as_they_were_too(
    recipe: Recipe, rows: list[dict[str, Any]], counted: list[int]
) -> None:
    recipe.data["prompt"] = {"messages": [{"role": "user", "content": "{{ question }}"}]}
    recipe.build()
    damage(recipe.out, f"tokens/{SHARD}")
    write_rows(recipe.folder / "rows.jsonl", [*NEW, *rows])
    counted.clear()
    recipe.build(replace=True)
    assert sum(counted) == 1


def without_the_examples(recipe: Recipe, _: Any = None) -> None:
    """The shard's examples are damaged as well."""
    damage(recipe.out, f"examples/{SHARD}")


def by_other_libraries(_: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards come out with other bytes, as under another release of pyarrow."""
    monkeypatch.setattr("pausedata.store.shards.COMPRESSION_LEVEL", 1)


@pytest.mark.parametrize("spoil", [without_the_examples, by_other_libraries])
def test_where_it_cannot_be_made_again_both_say_which_scores_are_lost(
    grown: Recipe, counted: list[int], spoil: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(grown, monkeypatch)
    said = f"those of up to 4 examples cannot be: tokens/{SHARD} is damaged"
    told = planned(grown, replace=True)
    assert f"the scores of 8 examples are carried over; {said}" in why(told, "scores/base")
    progress = Silent()
    grown.build(replace=True, progress=progress)
    assert sum(counted) == 5
    assert any(said in line for line in progress.warnings if line.startswith("scores/base: "))


def test_of_a_run_that_no_recipe_names_both_say_so_too(
    built: Recipe, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    other = make_model(tmp_path / "other", seed=1)
    score(built.out, "other", ScoreRequest(model=str(other)))
    damage(built.out, f"tokens/{SHARD}")
    without_the_examples(built)
    write_rows(built.folder / "rows.jsonl", [*rows, *NEW])
    said = f"those of up to 4 examples cannot be: tokens/{SHARD} is damaged"
    told = planned(built, replace=True)
    assert why(told, "kept/other") == f"the scores of 8 of 13 examples; {said}"
    progress = Silent()
    built.build(replace=True, progress=progress)
    assert any(said in line for line in progress.warnings if line.startswith("kept/other: "))


def test_a_damaged_shard_that_costs_nothing_is_not_told_of(
    grown: Recipe, rows: list[dict[str, Any]], counted: list[int]
) -> None:
    """The examples that are left all have scores in other shards."""
    without_the_examples(grown)
    write_rows(grown.folder / "rows.jsonl", rows[:4])
    assert "cannot be" not in why(planned(grown, replace=True), "scores/base")
    progress = Silent()
    grown.build(replace=True, progress=progress)
    assert sum(counted) == 0
    assert not any(line.startswith("scores/base: ") for line in progress.warnings)
