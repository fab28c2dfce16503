"""A run that no recipe names, when the examples change: its scores are kept, in ``kept/RUN``."""

from __future__ import annotations

import gc as collector
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import Recipe, Run, make_model, write_rows
from planning import planned

from pausedata.analysis.verify import verify
from pausedata.core.errors import UsageError
from pausedata.core.progress import Silent
from pausedata.pipeline.commands import place, remove, score
from pausedata.pipeline.plan import Plan, plan_score
from pausedata.pipeline.recipe import Placement
from pausedata.pipeline.score_request import ScoreRequest
from pausedata.pipeline.transaction import Transaction
from pausedata.store.dataset import Version, open_version
from pausedata.store.tables import schema_of

Command = Callable[..., Run]
MORE = [
    {"question": "What is 1 + 1?", "answer": "2"},
    {"question": "What is 2 + 3?", "answer": "5"},
]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model with the same tokenizer."""
    return make_model(tmp_path_factory.mktemp("models") / "other", seed=1)


@pytest.fixture
def scored(built: Recipe, other: Path) -> Recipe:
    """A dataset with a run ``other`` that `score` added, and a placement that reads it."""
    score(built.out, "other", ScoreRequest(model=str(other)))
    spec = Placement(strategy="lowest_logprob", positions=2, run="other")  # type: ignore[call-arg]
    place(built.out, {"by-other": spec})
    return built


@pytest.fixture
def grown(scored: Recipe, rows: list[dict[str, Any]]) -> Recipe:
    """The same, with a source that has grown by two rows since."""
    write_rows(scored.folder / "rows.jsonl", [MORE[0], *rows, MORE[1]])
    return scored


def told(result: Plan) -> dict[str, tuple[str, str]]:
    return {step.table: (step.action, step.why) for step in result.steps}


def whole(root: Path) -> bool:
    return verify(open_version(root), Silent()) == []


def logprobs(version: Version, table: str = "scores/base") -> dict[str, list[float]]:
    """The scores of each example of a table, by its id."""
    found: dict[str, list[float]] = {}
    stored = version.table(table)
    for shard in stored.shards:
        rows = stored.read(shard, ["id", "logprob"]).to_pydict()
        found |= dict(zip(rows["id"], rows["logprob"], strict=True))
    return found


def test_plan_names_what_build_drops_and_what_is_kept_of_it(grown: Recipe) -> None:
    steps = told(planned(grown, replace=True))
    assert steps["scores/other"][0] == steps["placements/by-other"][0] == "drop"
    assert steps["kept/other"][0] == "carry over"
    assert "12 of 14 examples" in steps["kept/other"][1]
    outcome = grown.build(replace=True)
    assert {name: why for name, (action, why) in steps.items() if action == "drop"} == (
        outcome.removed
    )
    assert "kept/other" in outcome.made
    assert "2 examples are without scores" in outcome.removed["scores/other"]
    assert "--run other" in outcome.removed["scores/other"]


def test_why_examples_change_is_told_once(grown: Recipe) -> None:
    result = planned(grown, replace=True)
    assert [step.table for step in result.steps if "source.files: " in step.why] == ["examples"]
    steps = told(result)
    assert steps["vocab"] == steps["tokens"] == ("remake", "examples is made anew")


def test_the_scores_of_unchanged_examples_are_kept_to_the_last_bit(grown: Recipe) -> None:
    before = logprobs(open_version(grown.out), "scores/other")
    version = grown.build(replace=True).version
    assert logprobs(version, "kept/other") == before
    kept = version.table("kept/other")
    assert kept.entry.rows == 12 and version.table("tokens").entry.rows == 14
    assert [s.split for s in kept.shards] == [s.split for s in version.table("tokens").shards]
    assert kept.entry.provenance["made_from"] == ["tokens"]
    assert kept.entry.provenance["inputs"]["tokens"] == version.table("tokens").entry.content
    assert "other" not in version.runs
    assert whole(grown.out)


@pytest.mark.parametrize("collected", [False, True], ids=["", "after gc"])
def test_scoring_it_again_costs_the_new_examples_alone(
    grown: Recipe, other: Path, counted: list[int], run: Command, collected: bool
) -> None:
    before = logprobs(open_version(grown.out), "scores/other")
    grown.build(replace=True)
    if collected:
        collector.collect()  # else what is garbage here might hold a version
        assert run("gc", grown.out, "--yes", "--older-than", "0").status == 0
        assert len(list((grown.out / "versions").iterdir())) == 1
    told = plan_score(grown.out, "other", ScoreRequest(model=str(other)))
    assert [(step.table, step.action) for step in told.steps] == [
        ("scores/other", "make"),
        ("kept/other", "drop"),
    ]
    assert "the scores of 12 examples are carried over" in told.steps[0].why
    counted.clear()
    outcome = score(grown.out, "other", ScoreRequest(model=str(other)))
    assert sum(counted) == 2
    assert outcome.made == ["scores/other"] and list(outcome.removed) == ["kept/other"]
    facts = outcome.version.table("scores/other").entry.provenance
    assert (facts["scored_examples"], facts["carried_examples"]) == (2, 12)
    after = logprobs(outcome.version, "scores/other")
    assert {id: after[id] for id in before} == before and len(after) == 14
    assert whole(grown.out)


def test_what_is_kept_stays_while_nothing_it_is_of_changes(
    grown: Recipe, other: Path, run: Command
) -> None:
    grown.build(replace=True)
    kept = open_version(grown.out).table("kept/other").entry
    place(grown.out, {"more": Placement(strategy="append", tokens=2)})  # type: ignore[call-arg]
    assert not grown.build().committed
    assert open_version(grown.out).table("kept/other").entry == kept
    for words in (("stats", grown.out), ("log", grown.out), ("verify", grown.out)):
        ended = run(*words)
        assert ended.status == 0, ended.err
    query = "select run, count(*) as n from scores group by run"
    assert json.loads(run("sql", grown.out, query, "--format", "json").out) == [
        {"run": "base", "n": 14}
    ]


def test_examples_that_change_again_leave_what_is_still_of_them(
    grown: Recipe, rows: list[dict[str, Any]]
) -> None:
    grown.build(replace=True)
    write_rows(grown.folder / "rows.jsonl", [MORE[0], *rows[4:]])
    steps = told(planned(grown, replace=True))
    assert steps["kept/other"][0] == "carry over"
    assert "8 of 9 examples" in steps["kept/other"][1]
    version = grown.build(replace=True).version
    assert version.table("kept/other").entry.rows == 8
    assert whole(grown.out)


def test_a_run_is_whole_again_where_all_its_examples_are(
    grown: Recipe, rows: list[dict[str, Any]]
) -> None:
    before = logprobs(open_version(grown.out), "scores/other")
    grown.build(replace=True)
    write_rows(grown.folder / "rows.jsonl", rows[:8])
    steps = told(planned(grown, replace=True))
    assert (steps["scores/other"][0], steps["kept/other"][0]) == ("carry over", "drop")
    outcome = grown.build(replace=True)
    assert list(outcome.removed) == ["kept/other"] and "scores/other" in outcome.made
    found = logprobs(outcome.version, "scores/other")
    assert found == {id: before[id] for id in found} and len(found) == 8
    assert whole(grown.out)


def test_scores_that_a_detour_left_out_are_found_in_the_versions_before(
    scored: Recipe, rows: list[dict[str, Any]], other: Path, counted: list[int]
) -> None:
    """With fewer examples, then with all and two more: nothing is scored twice."""
    before = logprobs(open_version(scored.out), "scores/other")
    write_rows(scored.folder / "rows.jsonl", rows[:5])
    scored.build(replace=True)
    write_rows(scored.folder / "rows.jsonl", [*MORE, *rows])
    assert told(planned(scored, replace=True))["kept/other"][1].startswith("the scores of 12 of 14")
    kept = logprobs(scored.build(replace=True).version, "kept/other")
    assert len(kept) == 12 and sorted(kept.values()) == sorted(before.values())
    counted.clear()
    score(scored.out, "other", ScoreRequest(model=str(other)))
    assert sum(counted) == 2 and whole(scored.out)


def test_a_run_whose_files_were_not_pulled_is_asked_for_before_anything_is_scored(
    grown: Recipe, counted: list[int]
) -> None:
    pointer = grown.out / "pausedata.json"
    said = json.loads(pointer.read_text())
    said["absent"] = {"scores/other": [open_version(grown.out).table("scores/other").entry.content]}
    pointer.write_text(json.dumps(said))
    for act in (planned, lambda recipe, replace: recipe.build(replace=replace)):
        with pytest.raises(UsageError, match=r"'scores/other' was not pulled\. Fetch it"):
            act(grown, replace=True)
    assert sum(counted) == 0


def test_what_is_kept_says_how_its_run_was_scored(
    built: Recipe, other: Path, rows: list[dict[str, Any]], counted: list[int]
) -> None:
    score(built.out, "half", ScoreRequest(model=str(other), dtype="bfloat16"))
    write_rows(built.folder / "rows.jsonl", [*rows, MORE[0]])
    built.build(replace=True)
    counted.clear()
    outcome = score(built.out, "half", ScoreRequest(model=str(other)))
    assert outcome.version.table("scores/half").entry.provenance["inputs"]["dtype"] == "bfloat16"
    assert sum(counted) == 1


def test_damage_to_what_is_kept_is_found_in_the_version_before(
    grown: Recipe, other: Path, counted: list[int]
) -> None:
    grown.build(replace=True)
    shard = open_version(grown.out).table("kept/other").paths()[0]
    shard.chmod(0o644)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    counted.clear()
    score(grown.out, "other", ScoreRequest(model=str(other)))
    assert sum(counted) == 2 and whole(grown.out)  # the version before has the scores too


def test_where_no_example_is_the_same_nothing_can_be_kept_and_both_say_so(scored: Recipe) -> None:
    scored.data["prompt"] = "Q: {{ question }}\nA:"
    steps = told(planned(scored, replace=True))
    assert steps["scores/other"][0] == "drop" and "kept/other" not in steps
    outcome = scored.build(replace=True)
    assert steps["scores/other"][1] == outcome.removed["scores/other"]
    assert "none of its scores" in outcome.removed["scores/other"]
    assert "kept/other" not in outcome.version.tables


def test_another_model_under_its_name_needs_replace(
    grown: Recipe, model_folder: Path, counted: list[int]
) -> None:
    grown.build(replace=True)
    counted.clear()
    asked = ScoreRequest(model=str(model_folder))
    for act in (plan_score, score):
        with pytest.raises(UsageError, match=r"kept/other .*--replace"):
            act(grown.out, "other", asked)
    outcome = score(grown.out, "other", asked, replace=True)
    assert sum(counted) == 14 and "kept/other" in outcome.removed
    assert whole(grown.out)


def test_a_recipe_that_names_the_run_takes_the_kept_scores(
    grown: Recipe, other: Path, counted: list[int]
) -> None:
    grown.build(replace=True)
    counted.clear()
    grown.data["runs"] = {"other": {"model": {"id": str(other)}}}
    steps = told(planned(grown))
    assert steps["kept/other"][0] == "drop" and steps["scores/other"][0] == "make"
    outcome = grown.build()
    assert sum(counted) == 2 and list(outcome.removed) == ["kept/other"]
    assert whole(grown.out)


@pytest.mark.parametrize(
    "keys",
    [{"strategy": "lowest_logprob", "run": "other"}, {"strategy": "excess", "reference": "other"}],
    ids=["the run", "what it is compared with"],
)
def test_a_placement_by_a_kept_run_is_told_what_scores_the_rest(
    grown: Recipe, other: Path, run: Command, keys: dict[str, str]
) -> None:
    grown.build(replace=True)
    spec = Placement(positions=1, **keys)  # type: ignore[arg-type]
    said = (
        "no run 'other'. There: 'base'. Of run 'other' the scores of 12 of 14 examples are kept: "
    )
    with pytest.raises(UsageError) as refused:
        place(grown.out, {"new": spec})
    assert said in str(refused.value)
    command = str(refused.value).partition(said)[2].removesuffix(" scores the rest.").strip("`")
    words = command.replace("PATH-OF-other", str(other)).split()
    assert words[:5] == ["pausedata", "score", str(grown.out), "--run", "other"]
    grown.data["placements"]["new"] = {"positions": 1, **keys}
    for act in (planned, lambda recipe: recipe.build()):
        with pytest.raises(UsageError) as refused:
            act(grown)
        assert said in str(refused.value)
    assert run(*words[1:]).status == 0
    assert place(grown.out, {"new": spec}).made == ["placements/new"]


def test_where_no_other_run_is_there_a_placement_is_told_of_what_is_kept(
    grown: Recipe, other: Path
) -> None:
    grown.build(replace=True)
    remove(grown.out, ["scores/base"], cascade=True)
    spec = Placement(strategy="lowest_logprob", positions=1)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match=r"needs a scored run\. There: none\. Of run 'other'"):
        place(grown.out, {"new": spec})


def test_of_a_large_source_plan_says_what_it_depends_on(
    grown: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pausedata.pipeline.plan.PREPARED", 5)
    result = planned(grown, replace=True)
    steps = told(result)
    assert steps["scores/other"][0] == "carry over"
    assert steps["scores/other"][1].startswith("if it has scores of all examples")
    assert "which of the examples were scored before: there are many" in result.unknown


def test_it_can_be_removed_and_comes_with_a_copy(grown: Recipe, run: Command) -> None:
    grown.build(replace=True)
    assert run("diff", grown.out, "kept/other", "scores/base").status == 2
    outcome = remove(grown.out, ["kept/other"])
    assert list(outcome.removed) == ["kept/other"]
    assert whole(grown.out)
    with pytest.raises(UsageError, match="has no kept run 'other'"):
        remove(grown.out, ["kept/other"])


def test_verify_finds_scores_that_are_of_no_example(grown: Recipe) -> None:
    version = grown.build(replace=True).version
    kept = version.table("kept/other")
    with Transaction(grown.out, version, Silent()) as work:
        stage, paths = work.staging.stage("kept/bad", {}), []
        for number, shard in enumerate(kept.shards):
            rows = kept.read(shard)
            if number == 0:
                ids = pa.array(["nobody", *rows["id"].to_pylist()[1:]])
                rows = rows.set_column(0, rows.schema.field(0), ids)
            paths.append((shard.split, shard.path.replace("/other/", "/bad/")))
            stage.write(paths[-1][1], rows)
        facts = {"inputs": {}, "made_from": ["tokens"]}
        work.put(stage.table("kept/bad", schema_of("kept/bad"), paths, facts))
        work.commit("by hand")
    (problem,) = verify(open_version(grown.out), Silent())
    assert "kept/bad/train-00000" in problem and "not those of tokens" in problem


def test_damage_to_a_run_costs_the_scores_of_that_shard_alone(grown: Recipe) -> None:
    version = open_version(grown.out)
    path = version.folder / version.table("scores/other").shards[1].path
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-9])
    steps = told(planned(grown, replace=True))
    assert "8 of 14 examples" in steps["kept/other"][1]
    assert grown.build(replace=True).version.table("kept/other").entry.rows == 8
    assert whole(grown.out)
