"""What `plan` says is what `build` does, whatever was done to the dataset before."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Recipe, in_ci, make_model, problems, tiny_recipe, write_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pausedata.analysis.verify import verify
from pausedata.core.errors import PausedataError, UsageError
from pausedata.core.progress import Silent
from pausedata.pipeline.commands import place, remove, score
from pausedata.pipeline.plan import Plan, plan, plan_score
from pausedata.pipeline.recipe import Placement, load_recipe
from pausedata.pipeline.score_request import ScoreRequest
from pausedata.pipeline.transaction import Outcome
from pausedata.scorers import Scores
from pausedata.store.dataset import open_version


class Arithmetic:
    """A scorer without a model: scores that follow from the ids and the model's name alone."""

    name, rank_ties, workers, engines, context_length = "arithmetic", "excluded", 1, 1, None

    def __init__(self, seed: int, counted: list[int]) -> None:
        self._seed, self._counted = seed, counted

    def score(self, examples: Any, on_tokens: Any = None) -> list[Scores]:
        self._counted.append(sum(map(len, examples)))
        return [self._scores(np.asarray(example.response_ids, np.int64)) for example in examples]

    def _scores(self, ids: Any) -> Scores:
        drawn = (ids * 7919 + self._seed + np.arange(len(ids)) * 104729) % 1009
        return Scores(-(drawn / 100).astype(np.float32), (1 + drawn % 50).astype(np.int32))

    def settings(self) -> dict[str, Any]:
        return {"device": "none"}

    def versions(self) -> dict[str, str]:
        return {}

    def close(self) -> None: ...


@pytest.fixture(scope="module")
def models(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models with one tokenizer."""
    return [model_folder, make_model(tmp_path_factory.mktemp("models") / "second", seed=1)]


@pytest.fixture(scope="module")
def counted(models: list[Path]) -> Iterator[list[int]]:
    """The tokens that were scored; no model is loaded."""
    found: list[int] = []

    def load(backend: str, model: Any, **_: Any) -> Arithmetic:
        return Arithmetic(sum(str(model.path or model.name).encode()), found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pausedata.scorers.load_scorer", load)
        yield found


@pytest.fixture(scope="module")
def original(models: list[Path], counted: list[int], tmp_path_factory: Any) -> Path:
    """A dataset with a run that no recipe names, and a placement that reads it."""
    recipe = tiny_recipe(tmp_path_factory.mktemp("planned"), models[0], problems(12))
    recipe.build()
    score(recipe.out, "other", ScoreRequest(model=str(models[1])))
    spec = Placement(strategy="lowest_logprob", positions=2, run="other")  # type: ignore[call-arg]
    place(recipe.out, {"by-other": spec})
    return recipe.out


class World:
    """A copy of the dataset, its recipe, and what can be done to them."""

    def __init__(self, folder: Path, original: Path, models: list[Path], scored: list[int]) -> None:
        self.recipe = tiny_recipe(folder, models[0], problems(12))
        shutil.copytree(original, self.recipe.out, symlinks=True)
        self.root, self.models, self.scored = self.recipe.out, models, scored

    # Edits of the recipe

    def rows(self, first: int, count: int) -> None:
        """The source has other rows."""
        write_rows(self.recipe.folder / "rows.jsonl", problems(20)[first : first + count])

    def template(self, number: int) -> None:
        """Prompts are rendered otherwise."""
        self.recipe.data["prompt"] = ["Question: {{ question }}\nAnswer:", "{{ question }}"][number]

    def positions(self, count: int) -> None:
        """A placement of the recipe has another parameter."""
        self.recipe.data["placements"]["dit"]["positions"] = count

    def pause(self, text: str) -> None:
        """Another pause token."""
        self.recipe.data["pause"] = {"token": text}

    def cut(self, rows: int) -> None:
        """Other shards."""
        self.recipe.data["shard_rows"] = rows

    def named(self, model: int | None) -> None:
        """The recipe names the run ``other``, or does not."""
        self.recipe.data.pop("runs", None)
        if model is not None:
            self.recipe.data["runs"] = {"other": {"model": {"id": str(self.models[model])}}}

    def more(self, name: str, strategy: str) -> None:
        """The recipe has a further placement and export."""
        keys = {"tokens": 2} if strategy == "append" else {"positions": 1, "run": "other"}
        self.recipe.data["placements"][name] = {"strategy": strategy} | keys
        self.recipe.data["exports"][name] = {"placement": name, "format": "tokenized"}

    # Commands

    def score(self, model: int, replace: bool) -> None:
        """Score the run ``other``: what its dry run says is what it does."""
        asked = ScoreRequest(model=str(self.models[model]))
        self.agree(
            lambda: plan_score(self.root, "other", asked, replace=replace),
            lambda: score(self.root, "other", asked, replace=replace),
        )

    def place(self, name: str, count: int) -> None:
        """Place by the run ``other``, where it is there."""
        spec: dict[str, Any] = {"strategy": "lowest_logprob", "positions": count, "run": "other"}
        with suppress(PausedataError):  # the run may have been removed, or damaged
            place(self.root, {name: Placement(**spec)}, replace=True)

    def remove(self, number: int) -> None:
        """Remove a table, and what was made from it."""
        tables = [name for name in open_version(self.root).tables if "/" in name]
        if tables:
            remove(self.root, [tables[number % len(tables)]], cascade=True)

    # Damage

    def damage(self, number: int) -> None:
        """Four bytes of a file of the current version are overwritten."""
        version = open_version(self.root)
        entry = version.files()[number % len(version.files())]
        path = version.folder / entry.path
        raw = bytearray(path.read_bytes())
        at = len(raw) // 2
        raw[at : at + 4] = bytes(byte ^ 255 for byte in raw[at : at + 4])
        path.chmod(0o644)
        path.write_bytes(raw)

    # What has to hold

    def build(self, replace: bool) -> None:
        """Plan, then build; without ``replace`` examples that changed stop both."""
        loaded = load_recipe(self.recipe.write())
        self.agree(
            lambda: plan(loaded, self.root, replace=replace),
            lambda: self.recipe.build(replace=replace),
        )

    def agree(self, planned: Callable[[], Plan], done: Callable[[], Outcome]) -> None:
        """What the first says is what the second does."""
        try:
            told = planned()
        except PausedataError as refused:
            with pytest.raises(type(refused)) as stopped:
                done()
            if isinstance(refused, UsageError):
                assert str(stopped.value) == str(refused)
            return
        actions = {step.table: step.action for step in told.steps}
        self.scored.clear()
        outcome = done()
        by = {action: {t for t, a in actions.items() if a == action} for action in ACTIONS}
        assert set(outcome.made) == by["make"] | by["remake"] | by["resume"] | by["carry over"]
        assert set(outcome.repaired) == by["repair"]
        assert outcome.removed == {s.table: s.why for s in told.steps if s.action == "drop"}
        assert set(outcome.kept) <= by["keep"]
        assert set(outcome.damaged) <= by["leave"]
        if told.tokens_to_score is not None:
            assert sum(self.scored) == told.tokens_to_score
        if not outcome.damaged and "examples" in actions:  # commands look at their own tables
            assert verify(open_version(self.root), Silent()) == []


ACTIONS = ("keep", "make", "remake", "resume", "repair", "carry over", "drop", "leave")
CHANGES = st.one_of(
    st.tuples(st.just("rows"), st.integers(0, 3), st.integers(8, 14)),
    st.tuples(st.just("template"), st.integers(0, 1)),
    st.tuples(st.just("positions"), st.sampled_from([1, 3, 200, 300])),
    st.tuples(st.just("pause"), st.sampled_from(["[PAUSE]", "<wait>"])),
    st.tuples(st.just("cut"), st.sampled_from([4, 5, 6])),
    st.tuples(st.just("named"), st.sampled_from([None, 0, 1])),
    st.tuples(
        *(st.just("more"), st.sampled_from("ab"), st.sampled_from(["append", "lowest_logprob"]))
    ),
    st.tuples(st.just("score"), st.integers(0, 1), st.booleans()),
    st.tuples(st.just("place"), st.sampled_from(["by-other", "c"]), st.integers(1, 3)),
    st.tuples(st.just("remove"), st.integers(0, 7)),
    st.tuples(st.just("damage"), st.integers(0, 30)),
)
BUILDS = st.tuples(st.just("build"), st.sampled_from([True, True, True, False]))


@settings(
    max_examples=in_ci(50),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rounds=st.lists(st.tuples(st.lists(CHANGES, min_size=1, max_size=3), BUILDS), max_size=2))
def test_what_plan_says_is_what_build_does(
    original: Path, models: list[Path], counted: list[int], rounds: list[Any]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), original, models, counted)
        for changes, built in rounds:
            for name, *arguments in [*changes, built]:
                getattr(world, name)(*arguments)


def test_a_placement_that_comes_out_as_it_was_is_remade_as_plan_says(
    original: Path, models: list[Path], counted: list[int], tmp_path: Path
) -> None:
    """More places than a response has tokens are as many as it has: the export says the same."""
    world = World(tmp_path, original, models, counted)
    for count in (300, 400):
        world.positions(count)
        world.build(replace=False)
    assert isinstance(world.recipe, Recipe)
