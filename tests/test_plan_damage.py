"""`plan` of a damaged dataset: what build would make again, and what that costs."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import TABLES, Recipe
from planning import actions, planned, why

from pausedata.pipeline.commands import place
from pausedata.pipeline.recipe import Placement
from pausedata.scorers.transformers import TransformersScorer
from pausedata.store.dataset import open_version


def damage(root: Path, path: str) -> None:
    """Overwrite four bytes in the middle of a file of the first version."""
    file = root / "versions" / "0001" / path
    raw = bytearray(file.read_bytes())
    at = len(raw) // 2
    raw[at : at + 4] = bytes(byte ^ 255 for byte in raw[at : at + 4])
    file.chmod(0o644)
    file.write_bytes(raw)


def test_what_is_damaged_is_told_to_be_made_again(
    built: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = open_version(built.out).table("scores/base").shards[1].path
    damage(built.out, shard)
    before = {path: path.read_bytes() for path in built.out.rglob("*") if path.is_file()}
    result = planned(built)
    assert {path: path.read_bytes() for path in built.out.rglob("*") if path.is_file()} == before
    assert actions(result) == dict.fromkeys(TABLES, "keep") | {"scores/base": "repair"}
    assert why(result, "scores/base").startswith("damaged")
    scored: list[int] = []
    score = TransformersScorer.score
    monkeypatch.setattr(
        TransformersScorer,
        "score",
        lambda self, examples, *rest: (
            scored.append(sum(map(len, examples))) or score(self, examples, *rest)
        ),
    )
    outcome = built.build()
    assert outcome.repaired == ["scores/base"] and not outcome.committed
    assert sum(scored) == result.tokens_to_score  # those of one shard of three
    assert 0 < sum(scored) < (result.prompt_tokens or 0) + (result.response_tokens or 0)


@pytest.mark.parametrize(
    ("path", "table"),
    [
        ("examples/train-00000-of-00003.parquet", "examples"),
        ("vocab.parquet", "vocab"),
        ("tokens/train-00001-of-00003.parquet", "tokens"),
        ("placements/dit/train-00000-of-00003.parquet", "placements/dit"),
        ("exports/dit-tokenized/train.jsonl", "exports/dit-tokenized"),
    ],
)
def test_damage_to_any_table_is_told(built: Recipe, path: str, table: str) -> None:
    damage(built.out, path)
    result = planned(built)
    assert actions(result) == dict.fromkeys(TABLES, "keep") | {table: "repair"}
    assert result.tokens_to_score == 0
    assert built.build().repaired == [table]


def test_what_another_version_holds_whole_costs_nothing(built: Recipe) -> None:
    place(built.out, {"more": Placement(strategy="append", tokens=2)})  # type: ignore[call-arg]
    path = open_version(built.out).folder / "scores/base/train-00000-of-00003.parquet"
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[:-4])
    result = planned(built)
    assert set(actions(result).values()) == {"keep"} and result.tokens_to_score == 0
    assert built.build().repaired == []


def test_a_damaged_run_that_nobody_can_score_again_is_told(built: Recipe) -> None:
    built.data["runs"] = {"more": {"model": built.data["model"]}}
    built.build()
    del built.data["runs"]
    damage(built.out.parent / "out", "scores/base/train-00000-of-00003.parquet")
    path = open_version(built.out).folder / "scores/more/train-00000-of-00003.parquet"
    path.unlink()
    result = planned(built)
    assert actions(result)["scores/more"] == "leave"
    assert "Score it again: pausedata score" in why(result, "scores/more")
    outcome = built.build()
    assert outcome.damaged == ["scores/more"] and outcome.repaired == ["scores/base"]


def test_what_would_rest_on_a_damaged_run_is_not_made(built: Recipe) -> None:
    built.data["runs"] = {"more": {"model": built.data["model"]}}
    built.build()
    del built.data["runs"]
    path = open_version(built.out).folder / "scores/more/train-00000-of-00003.parquet"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-9])
    built.data["placements"]["new"] = {"strategy": "lowest_logprob", "positions": 1, "run": "more"}
    built.data["exports"]["new"] = {"placement": "new", "format": "tokenized"}
    steps = actions(planned(built))
    assert (steps["placements/new"], steps["exports/new"]) == ("leave", "drop")
    outcome = built.build()
    assert outcome.made == [] and list(outcome.removed) == ["exports/new"]


@pytest.mark.parametrize(("lost", "state"), [("pausedata.json", 2), ("its manifest", 1)])
def test_where_the_current_version_is_lost_plan_goes_on_as_build_does(
    built: Recipe, lost: str, state: int
) -> None:
    """And writes nothing: what is damaged stays so until a build."""
    place(built.out, {"spare": Placement(strategy="append", tokens=1)})  # type: ignore[call-arg]
    folder = open_version(built.out).folder
    path = folder / "manifest.json" if lost == "its manifest" else built.out / lost
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-9])
    damaged = path.read_bytes()
    result = planned(built)
    assert set(actions(result).values()) == {"keep"} and result.state == f"version {state}"
    assert path.read_bytes() == damaged
    outcome = built.build()
    assert not outcome.committed and outcome.version.number == state
