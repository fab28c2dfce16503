"""``place`` over stored tables: what a strategy reads, what rests on what, what cannot be used."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Recipe, Run
from small_dataset import E1, E2, E3, make_dataset

import pausedata
from pausedata import strategies

Places = dict[str, list[tuple[int, int]]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five examples, runs base and other, no placement."""
    return make_dataset(tmp_path / "data", placements=False).root


def placed(root: Path, name: str) -> Places:
    """{id: [(position, count)]} of the examples that have pauses."""
    rows = pausedata.open(root).placements(name).to_table().to_pylist()
    found = {r["id"]: list(zip(r["position"], r["count"], strict=True)) for r in rows}
    return {id: places for id, places in found.items() if places}


def provenance(root: Path, name: str) -> dict[str, Any]:
    return pausedata.open(root).manifest.tables[f"placements/{name}"].provenance


# What a strategy reads


def test_special_tokens_are_told_by_the_vocabulary(root: Path, run: Callable[..., Run]) -> None:
    """EOS is the least likely token of e5 (-6.5 against -0.375), and the one special token."""
    words = ["place", root, "p", "--strategy", "lowest_logprob", "--param", "positions=1"]
    assert run(*words).status == 0
    assert placed(root, "p")["e5"] == [(1, 1)]
    words[2] = "q"
    assert run(*words, "--param", "eligible={without: [special]}").status == 0
    assert placed(root, "q")["e5"] == [(0, 1)]
    assert provenance(root, "q")["made_from"] == ["tokens", "scores/base", "vocab"]


def test_texts_are_told_by_the_examples(root: Path, run: Callable[..., Run]) -> None:
    """e1 is " The sum", a line's end, " 4": the line's end is at -0.25, the digit at -1.5."""
    words = ["place", root, "p", "--strategy", "lowest_logprob", "--param", "positions=1"]
    assert run(*words, "--param", r"eligible={inside: '\d'}").status == 0
    assert placed(root, "p") == {"e1": [(3, 1)]}
    assert provenance(root, "p")["made_from"] == ["tokens", "scores/base", "examples"]


def test_a_placement_says_what_it_was_made_from(root: Path, run: Callable[..., Run]) -> None:
    assert run("place", root, "p", "--strategy", "random", "--param", "positions=1").status == 0
    tables = pausedata.open(root).manifest.tables
    assert provenance(root, "p")["inputs"] == {
        "strategy": "random",
        "parameters": {"positions": 1, "tokens": 1, "seed": 0},
        "run": None,
        "tokens": tables["tokens"].content,
        "scores": None,
    }
    words = ["--strategy", "excess", "--param", "positions=1", "--param", "reference=other"]
    assert run("place", root, "q", *words).status == 0
    assert provenance(root, "q")["inputs"] == {
        "strategy": "excess",
        "parameters": {"positions": 1, "tokens": 1, "reference": "other"},
        "run": "base",
        "tokens": tables["tokens"].content,
        "scores": tables["scores/base"].content,
        "reads": {"scores/other": tables["scores/other"].content},
    }


def test_excess_reads_two_runs(tmp_path: Path, run: Callable[..., Run]) -> None:
    """`other` is one nat below `base` everywhere: the excess is the same, the first token wins."""
    root = make_dataset(tmp_path / "data", placements=False).root
    words = ["--strategy", "excess", "--param", "positions=1", "--param", "reference=other"]
    assert run("place", root, "p", *words).status == 0
    assert placed(root, "p") == {id: [(0, 1)] for id in ("e1", "e2", "e3", "e4", "e5")}


def test_a_budget_is_found_for_each_split_and_recorded(root: Path, run: Callable[..., Run]) -> None:
    """train has 5 + 4 + 2 + 2 = 13 response tokens, test 2.

    30 pauses for each 100 tokens are three places of 3.9 in train: -7 (e4), -9 (e2) and -4.5 (e3);
    of test's 0.6 none. 50 are six and one: in train also -3 (e1), -2.5 (e2), -1.5 (e1).
    """
    words = ["--strategy", "budget", "--param"]
    assert run("place", root, "p", *words, "per_100=30").status == 0
    assert placed(root, "p") == {"e2": [(0, 1)], "e3": [(0, 1)], "e4": [(1, 1)]}
    fitted = provenance(root, "p")["fitted"]
    assert fitted["train"]["threshold"] == -4.5
    assert (fitted["train"]["response_tokens"], fitted["train"]["places"]) == (13, 3)
    assert (fitted["test"]["threshold"], fitted["test"]["places"]) == (None, 0)
    assert run("place", root, "q", *words, "per_100=50").status == 0
    assert placed(root, "q") == {
        "e1": [(1, 1), (3, 1)],
        "e2": [(0, 1), (2, 1)],
        "e3": [(0, 1)],
        "e4": [(1, 1)],
        "e5": [(1, 1)],
    }


def test_what_a_budget_keeps_off_a_character_is_counted(
    root: Path, run: Callable[..., Run]
) -> None:
    """e2's second token lies inside the emoji; with every token wanted it would have been one."""
    words = ["--strategy", "threshold", "--param", "logprob=0"]
    assert run("place", root, "p", *words).status == 0
    assert provenance(root, "p")["kept_off_characters"] == 1
    assert [position for position, _ in placed(root, "p")["e2"]] == [0, 2, 3]


# What rests on what


def combine(run: Callable[..., Run], root: Path, name: str, *of: str, how: str = "union") -> Run:
    words = ["--strategy", "combine", "--param", f"of=[{', '.join(of)}]", "--param", f"how={how}"]
    return run("place", root, name, *words)


@pytest.fixture
def two(root: Path, run: Callable[..., Run]) -> Path:
    """a: the least likely token of each, two pauses; b: position 0, three pauses."""
    words = ["--strategy", "lowest_logprob", "--param", "positions=1", "--param", "tokens=2"]
    assert run("place", root, "a", *words).status == 0
    assert run("place", root, "b", "--strategy", "append", "--param", "tokens=3").status == 0
    assert placed(root, "a") == {
        "e1": [(1, 2)], "e2": [(0, 2)], "e3": [(0, 2)], "e4": [(1, 2)], "e5": [(1, 2)],
    }  # fmt: skip
    return root


def test_union_intersection_and_difference(two: Path, run: Callable[..., Run]) -> None:
    assert combine(run, two, "any", "a", "b").status == 0
    assert placed(two, "any") == {
        "e1": [(0, 3), (1, 2)],
        "e2": [(0, 3)],
        "e3": [(0, 3)],
        "e4": [(0, 3), (1, 2)],
        "e5": [(0, 3), (1, 2)],
    }
    assert combine(run, two, "all", "a", "b", how="intersection").status == 0
    assert placed(two, "all") == {"e2": [(0, 2)], "e3": [(0, 2)]}
    assert combine(run, two, "only", "a", "b", how="difference").status == 0
    assert placed(two, "only") == {"e1": [(1, 2)], "e4": [(1, 2)], "e5": [(1, 2)]}
    assert provenance(two, "only")["made_from"] == ["tokens", "placements/a", "placements/b"]


def test_a_placement_without_itself_is_nothing(two: Path, run: Callable[..., Run]) -> None:
    assert combine(run, two, "none", "a", "b", "a", how="difference").status == 0
    assert placed(two, "none") == {}
    assert combine(run, two, "same", "a", "a", how="intersection").status == 0
    assert placed(two, "same") == placed(two, "a")


def test_what_rests_on_a_placement_is_made_again_with_it(
    two: Path, run: Callable[..., Run]
) -> None:
    assert combine(run, two, "only", "a", "b", how="difference").status == 0
    assert combine(run, two, "twice", "only", "b").status == 0
    export = run("export", two, "--placement", "twice", "--format", "tokenized", "--name", "x")
    assert export.status == 0
    words = ["--strategy", "lowest_logprob", "--param", "positions=2", "--replace", "--json"]
    done = run("place", two, "a", *words)
    assert done.status == 0
    assert json.loads(done.out)["made"] == [
        "placements/a", "placements/only", "placements/twice", "exports/x",
    ]  # fmt: skip
    assert placed(two, "only")["e1"] == [(1, 1), (3, 1)]  # -3 and -1.5
    assert placed(two, "twice")["e1"] == [(0, 3), (1, 1), (3, 1)]
    assert run("verify", two).status == 0


def test_rm_of_a_placement_that_another_reads_is_refused(
    two: Path, run: Callable[..., Run]
) -> None:
    assert combine(run, two, "any", "a", "b").status == 0
    refused = run("rm", two, "placements/a")
    assert refused.status == 2 and "'placements/any' from 'placements/a'" in refused.err
    assert run("rm", two, "placements/a", "--cascade").status == 0
    assert pausedata.open(two).placement_names == ["b"]


def test_a_placement_cannot_rest_on_itself(two: Path, run: Callable[..., Run]) -> None:
    assert combine(run, two, "any", "a", "b").status == 0
    words = ["--strategy", "combine", "--param", "of=[any]", "--replace"]
    done = run("place", two, "a", *words)
    assert done.status == 2
    assert "cannot rest on itself" in done.err and "Traceback" not in done.err
    assert placed(two, "a")["e1"] == [(1, 2)]


def test_a_placement_that_is_not_there_is_named_with_the_nearest(
    two: Path, run: Callable[..., Run]
) -> None:
    done = combine(run, two, "any", "a", "bb")
    assert done.status == 2
    assert "there is no placement 'bb'. Did you mean 'b'? There: 'a', 'b', 'any'" in done.err


def test_of_many_placements_an_error_lists_some(root: Path, run: Callable[..., Run]) -> None:
    positions = ",".join(str(m) for m in range(15))
    words = ["--strategy", "random", "--param", f"positions={positions}"]
    assert run("place", root, "r", *words).status == 0
    done = combine(run, root, "any", "r-positions-3", "zzz")
    assert done.err.rstrip().endswith("'r-positions-11' and 4 more.")  # `any` itself, too


def test_a_recipe_may_name_them_in_any_order(recipe: Recipe) -> None:
    recipe.data["placements"] = {
        "all": {"strategy": "combine", "of": ["both", "append"], "how": "union"},
        "both": {"strategy": "combine", "of": ["dit", "ran"], "how": "intersection"},
        **recipe.data["placements"],
        "ran": {"strategy": "random", "positions": 3},
    }
    outcome = recipe.build()
    made = [name for name in outcome.made if name.startswith("placements/")]
    assert made.index("placements/dit") < made.index("placements/both")
    assert made.index("placements/both") < made.index("placements/all")
    assert not recipe.build().committed


@pytest.mark.parametrize(
    ("placements", "message"),
    [
        ({"x": {"strategy": "combine", "of": ["y"]}}, "placements.x: there is no placement 'y'."),
        (
            {
                "x": {"strategy": "combine", "of": ["y"]},
                "y": {"strategy": "combine", "of": ["x"]},
            },
            "placements.x: 'x' reads 'y' reads 'x': a placement cannot rest on itself.",
        ),
        (
            {"x": {"strategy": "excess", "positions": 1, "reference": "bas"}},
            "placements.x: there is no run 'bas'. Did you mean 'base'?",
        ),
        (
            {"x": {"strategy": "lowest_logprob", "positions": 1, "run": "epoch-1"}},
            "placements.x: there is no run 'epoch-1'. There: 'base'.",
        ),
    ],
)
def test_a_recipe_with_a_wrong_reference_costs_no_scoring(
    recipe: Recipe, run: Callable[..., Run], placements: dict[str, Any], message: str
) -> None:
    recipe.data |= {"placements": placements, "exports": {}}
    for command in ("plan", "build"):
        done = run(command, recipe.write(), "--output", recipe.out)
        assert done.status == 2
        assert f"{recipe.path}: {message}" in done.err
    assert not list(recipe.out.glob("staging/scores-*"))


# What cannot be used


def damaged(root: Path, *, rows: list[Any], **options: Any) -> Path:
    """A dataset of one shard of these examples."""
    shards = [("train", 0, 1, rows)]
    return make_dataset(root, shards=shards, placements=False, **options).root


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_named_and_nothing_is_placed(
    tmp_path: Path, run: Callable[..., Run], value: float
) -> None:
    id, prompt, response, tokens = E2
    tokens = [*tokens[:2], (*tokens[2][:3], value, 4), tokens[3]]
    root = damaged(tmp_path / "data", rows=[E1, (id, prompt, response, tokens), E3])
    words = ["--strategy", "lowest_logprob", "--param", "positions=1"]
    done = run("place", root, "p", *words)
    assert done.status == 1
    assert f"scores/base: logprob of token 2 of example 'e2' is {value}" in done.err
    assert "pausedata score DATASET --run base --replace" in done.err
    assert pausedata.open(root).version == 1
    # What needs no scores is not held up by them.
    assert run("place", root, "p", "--strategy", "random", "--param", "positions=1").status == 0


def test_scores_of_other_tokens_are_refused(tmp_path: Path, run: Callable[..., Run]) -> None:
    """As if a run had been made with another tokenizer, which gave e2 a token less."""
    id, prompt, response, tokens = E2
    root = make_dataset(
        tmp_path / "data",
        placements=False,
        shards=[("train", 0, 1, [E1, E2])],
        score_shards=[("train", 0, 1, [E1, (id, prompt, response, tokens[:3])])],
    ).root
    done = run("place", root, "p", "--strategy", "lowest_logprob", "--param", "positions=1")
    assert done.status == 1
    assert "scores/base: example 'e2' has 3 scores for 4 tokens" in done.err


def test_a_run_without_the_column_says_so(root: Path, run: Callable[..., Run]) -> None:
    """`other` has neither ranks nor entropies."""
    for words in (
        ["highest_entropy", "--param", "positions=1"],
        ["threshold", "--param", "rank=1"],
    ):
        assert run("place", root, "p", "--run", "base", "--strategy", *words).status == 0
        assert run("place", root, "q", "--run", "other", "--strategy", *words).status == 1
        assert run("rm", root, "placements/p").status == 0


def test_a_run_that_is_not_there_is_named_with_the_nearest(
    root: Path, run: Callable[..., Run]
) -> None:
    words = ["--strategy", "lowest_logprob", "--param", "positions=1", "--run", "bsae"]
    done = run("place", root, "p", *words)
    assert done.status == 2
    assert "there is no run 'bsae'. Did you mean 'base'? There: 'base', 'other'" in done.err


def test_without_any_run_a_strategy_by_score_says_what_it_needs(
    tmp_path: Path, run: Callable[..., Run]
) -> None:
    root = make_dataset(tmp_path / "data", placements=False, runs=False).root
    done = run("place", root, "p", "--strategy", "lowest_logprob", "--param", "positions=1")
    assert done.status == 2
    assert "'lowest_logprob' needs a scored run. There: none." in done.err


def test_more_places_than_tokens_are_all_and_none_is_none(
    root: Path, run: Callable[..., Run]
) -> None:
    words = ["--strategy", "lowest_logprob", "--param"]
    assert run("place", root, "all", *words, "positions=99").status == 0
    assert [position for position, _ in placed(root, "all")["e1"]] == [0, 1, 2, 3, 4]
    assert run("place", root, "nothing", *words, "positions=0").status == 0
    assert placed(root, "nothing") == {}


def test_a_placement_without_any_pause_is_told_of(root: Path, run: Callable[..., Run]) -> None:
    """It is made all the same; where nothing was asked for there is nothing to tell."""
    done = run("place", root, "p", "--strategy", "regex", "--param", "pattern=nowhere")
    assert done.status == 0 and "placements/p has no pause at all" in done.err
    for words in (["none"], ["lowest_logprob", "--param", "positions=0"]):
        assert "no pause at all" not in run("place", root, words[0], "--strategy", *words).err


def test_a_run_is_not_compared_with_itself(root: Path, run: Callable[..., Run]) -> None:
    words = ["--strategy", "excess", "--param", "positions=1", "--param", "reference=base"]
    done = run("place", root, "p", *words)
    assert done.status == 2 and "'base' would be compared with itself" in done.err
    assert run("place", root, "p", *words, "--run", "other").status == 0


@pytest.mark.parametrize("problem", [ZeroDivisionError("by zero"), None])
def test_a_plug_in_that_fails_is_told_with_its_name_and_nothing_is_made(
    root: Path, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, problem: Any
) -> None:
    """Its function raises, or gives something that is no placement."""

    def place(batch: Any, parameters: Any) -> Any:
        if problem:
            raise problem
        return [0, 1]

    stranger = strategies.Strategy("stranger", strategies.Choosing, place)
    made_by = {"distribution": "strange", "version": "1.2"}
    monkeypatch.setitem(strategies._registry._own, "stranger", stranger)
    monkeypatch.setattr(strategies, "origin", lambda name: made_by if name == "stranger" else None)
    done = run("place", root, "p", "--strategy", "stranger")
    assert done.status == 1 and "Traceback" not in done.err
    assert "strategy 'stranger' of strange 1.2 is at fault: " in done.err
    assert ("ZeroDivisionError: by zero" if problem else "it gives no Placed") in done.err
    assert pausedata.open(root).version == 1


def test_plan_says_why_a_placement_is_made_again(built: Recipe, run: Callable[..., Run]) -> None:
    words = ["--output", built.out, "--set", "placements.dit.positions=4", "--json"]
    steps = json.loads(run("plan", built.write(), *words).out)["steps"]
    told = {step["table"]: (step["action"], step["why"]) for step in steps}
    assert told["placements/dit"] == (
        "remake",
        "lowest_logprob from scores/base; parameters.positions: 3 → 4",
    )
    assert told["placements/append"][0] == "keep"


def test_a_misspelled_strategy_key_is_named(recipe: Recipe, run: Callable[..., Run]) -> None:
    recipe.data["placements"]["dit"] = {"stratgy": "random", "positions": 1}
    done = run("plan", recipe.write())
    assert done.status == 2
    assert "'placements.dit.strategy' is missing. Is it meant by 'stratgy'?" in done.err
