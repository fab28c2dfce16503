"""`rm`: a version without a run, placement or export, and what was made from it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from handmade import commit_handmade, stage_corpus

from pausedata.analysis.verify import verify
from pausedata.cli.render.outcome import describe
from pausedata.core.errors import ConflictError, UsageError
from pausedata.core.progress import Silent
from pausedata.pipeline.commands import place, remove
from pausedata.pipeline.plan import plan
from pausedata.pipeline.planner import decide
from pausedata.pipeline.recipe import Placement, load_recipe
from pausedata.pipeline.transaction import Transaction
from pausedata.store.dataset import open_version

CORPUS = ["examples", "vocab", "tokens"]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rm") / "data"
    commit_handmade(root)
    return root


@pytest.fixture
def root(original: Path, tmp_path: Path) -> Path:
    """scores/base → placements/low, placements/spare; placements/low → exports/low-tokenized."""
    return shutil.copytree(original, tmp_path / "data", symlinks=True)


def tables(root: Path) -> list[str]:
    version = open_version(root)
    assert verify(version, Silent()) == []
    return list(version.tables)


def spec(strategy: str, **keys: Any) -> Placement:
    return Placement(strategy=strategy, **keys)


def add_run(root: Path, name: str) -> None:
    """Commit a second run, with the scores of ``base``."""
    version = open_version(root)
    work = Transaction(root, version, Silent())
    base = next(table for table in stage_corpus(root, name) if table.name == "scores/base")
    for shard in base.shards:
        own = base.folder / shard.path.replace("/base/", f"/{name}/")
        own.parent.mkdir(exist_ok=True)
        shutil.copy(base.folder / shard.path, own)
    moved = json.loads(base.entry.model_dump_json().replace("scores/base/", f"scores/{name}/"))
    work.put(type(base)(f"scores/{name}", type(base.entry).model_validate(moved), base.folder))
    work.commit(f"score {name}")


def test_one_version_is_without_what_was_named_and_the_earlier_one_keeps_it(root: Path) -> None:
    outcome = remove(root, ["placements/spare", "exports/low-tokenized"], command="rm both")
    assert (outcome.version.number, outcome.version.manifest.command) == (2, "rm both")
    assert tables(root) == [*CORPUS, "scores/base", "placements/low"]
    assert outcome.removed == {"placements/spare": "as asked", "exports/low-tokenized": "as asked"}
    assert not (outcome.version.folder / "exports").exists()
    assert "placements/spare" in open_version(root, 1).tables


def test_what_others_were_made_from_is_refused_with_the_list(root: Path) -> None:
    with pytest.raises(UsageError) as error:
        remove(root, ["scores/base"])
    assert str(error.value) == (
        "other tables were made from what would be removed: 'placements/low' from 'scores/base'; "
        "'placements/spare' from 'scores/base'; 'exports/low-tokenized' from 'placements/low'. "
        "Name them too, or give --cascade to remove them as well."
    )
    assert open_version(root).number == 1


def test_naming_all_that_rests_on_it_needs_no_cascade(root: Path) -> None:
    outcome = remove(root, ["placements/low", "exports/low-tokenized", "placements/low"])
    assert list(outcome.removed) == ["placements/low", "exports/low-tokenized"]


def test_cascade_takes_what_was_made_from_it_and_nothing_else(root: Path) -> None:
    place(root, {"front": spec("append", tokens=2)})  # rests on no run
    outcome = remove(root, ["scores/base"], cascade=True)
    assert tables(root) == [*CORPUS, "placements/front"]
    assert outcome.removed["placements/low"] == "made from scores/base"
    assert outcome.removed["exports/low-tokenized"] == "made from placements/low"


def test_without_all_that_was_placed_the_dataset_is_whole_and_can_be_placed_on(
    root: Path, run: Callable[..., Any]
) -> None:
    remove(root, ["scores/base"], cascade=True)
    assert tables(root) == CORPUS
    asked = run("sql", root, "select count(*) as n, count(logprob) as scored from tokens", "--json")
    assert json.loads(asked.out) == [{"n": 14, "scored": 0}]  # tokens of the four responses
    assert run("sql", root, "select * from pauses", "--json").out.strip() == "[]"
    shown = json.loads(run("show", root, "a", "--json").out)
    assert (shown["run"], shown["placement"], shown["pauses"]) == (None, None, [])
    with pytest.raises(UsageError, match=r"'lowest_logprob' needs a scored run\. There: none"):
        place(root, {"low": spec("lowest_logprob", positions=1)})
    place(root, {"front": spec("append", tokens=2)})
    assert tables(root) == [*CORPUS, "placements/front"]


def test_without_the_recipes_own_run_the_other_one_is_placed_from(root: Path) -> None:
    add_run(root, "epoch-1")
    remove(root, ["scores/base"], cascade=True)
    outcome = place(root, {"again": spec("lowest_logprob", positions=1)})
    made_from = outcome.version.table("placements/again").entry.provenance["made_from"]
    assert made_from == ["tokens", "scores/epoch-1"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("examples", "'examples' cannot be removed: a version always has examples, vocab"),
        ("tokens", "'tokens' cannot be removed"),
        ("vocab", "'vocab' cannot be removed"),
        ("low", "version 1 has no table 'low'. Did you mean 'placements/low'?"),
        ("score/base", "version 1 has no table 'score/base'. Did you mean 'scores/base'?"),
        ("placements/lo", "has no placement 'lo'. Did you mean 'low'? There: 'low', 'spare'."),
        ("scores/", "version 1 has no table 'scores/'. Did you mean 'scores/base'?"),
    ],
)
def test_a_name_that_cannot_be_removed_is_told(
    root: Path, run: Callable[..., Any], name: str, message: str
) -> None:
    result = run("rm", root, "placements/spare", name)
    assert (result.status, result.out) == (2, "")
    assert message in result.err
    assert open_version(root).number == 1


def test_a_bare_name_that_two_tables_have_is_told_with_both(root: Path) -> None:
    place(root, {"base": spec("append", tokens=1)})
    with pytest.raises(UsageError, match="Did you mean 'scores/base' or 'placements/base'"):
        remove(root, ["base"])


def test_the_command_says_what_went_and_what_the_recipe_would_make_again(
    root: Path, run: Callable[..., Any]
) -> None:
    result = run("rm", root, "scores/base", "--cascade", "--json")
    printed = json.loads(result.out)
    assert (result.status, printed["version"], printed["committed"]) == (0, 2, True)
    # The recipe of the handmade dataset names its run alone.
    again = "; the recipe names it: its next `build` makes it again"
    assert printed["removed"] == {
        "scores/base": "as asked" + again,
        "placements/low": "made from scores/base",
        "placements/spare": "made from scores/base",
        "exports/low-tokenized": "made from placements/low",
    }
    assert open_version(root).manifest.command == "rm data scores/base --cascade --json"


def test_a_placement_that_another_writer_made_from_it_meanwhile_is_a_conflict(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of what rests on the run was made before; nothing may be left without its run."""
    during(monkeypatch, lambda: place(root, {"more": spec("lowest_logprob", positions=2)}))
    with pytest.raises(ConflictError, match="'placements/more' was made from 'scores/base'"):
        remove(root, ["scores/base"], cascade=True)
    assert "scores/base" in tables(root)
    monkeypatch.undo()
    remove(root, ["scores/base"], cascade=True)
    assert tables(root) == CORPUS


def test_what_another_writer_removed_or_remade_meanwhile_is_a_conflict(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = spec("random", positions=1, seed=1)
    for meanwhile in (
        lambda: place(root, {"spare": other}, replace=True),
        lambda: remove(root, ["placements/spare"]),
    ):
        with monkeypatch.context() as patch:
            during(patch, meanwhile)
            with pytest.raises(ConflictError, match="'placements/spare' was changed"):
                remove(root, ["placements/spare"])


def test_what_another_writer_added_elsewhere_meanwhile_stays(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    during(monkeypatch, lambda: place(root, {"more": spec("lowest_logprob", positions=2)}))
    outcome = remove(root, ["placements/spare"])
    assert outcome.version.number == 3
    assert set(outcome.version.placements) == {"low", "more"}


def during(patch: pytest.MonkeyPatch, meanwhile: Callable[[], Any]) -> None:
    """Have ``meanwhile`` happen once, after ``remove`` looked at the dataset."""
    left = [meanwhile]

    def then(*args: Any) -> Any:
        result = list(decide(*args))
        if left:
            left.pop()()
        return result

    patch.setattr("pausedata.pipeline.commands.decide", then)


def test_the_recipe_makes_again_what_it_names(recipe: Any) -> None:
    """After `rm` of a recipe's run, plan and build are those of a dataset that never had it."""
    recipe.data["runs"] = {"second": {"model": recipe.data["model"]}}
    recipe.data["placements"]["append"]["run"] = "second"  # which it does not need
    first = recipe.build().version
    removed = remove(recipe.out, ["scores/base", "scores/second"], cascade=True)
    assert list(removed.version.tables) == [*CORPUS, "placements/append"]
    dropped = [line for line in describe(removed) if "dropped" in line]
    assert len(dropped) == 4 and all("its next `build` makes it again" in d for d in dropped)

    steps = plan(load_recipe(recipe.write()), recipe.out).steps
    assert {s.table: s.action for s in steps if s.action != "keep"} == {
        "scores/base": "make",
        "scores/second": "make",
        "placements/dit": "make",
        "exports/dit-tokenized": "make",
    }
    outcome = recipe.build()
    assert set(outcome.made) == set(removed.removed)
    for name, table in first.tables.items():
        assert outcome.version.table(name).entry.content == table.entry.content
