"""What is done once: parameters read, datasets opened, references checked, tokens measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Recipe, Run

from pausedata import strategies
from pausedata.pipeline import targets
from pausedata.pipeline.commands import place
from pausedata.pipeline.plan import plan
from pausedata.pipeline.recipe import Placement, load_recipe
from pausedata.store import commit, dataset
from pausedata.store.dataset import Table, open_version
from pausedata.strategies import _registry

Count = Callable[[Any, str], list[Any]]
LOWEST = {"strategy": "lowest_logprob", "positions": 2}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Count:
    """Note the arguments of each call of a function from here on."""

    def count(owner: Any, name: str) -> list[Any]:
        found: list[Any] = []
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, **k: (found.append(a), real(*a, **k))[1])
        return found

    return count


def parsed(calls: list[Any]) -> Counter[str]:
    """How often the parameters of each strategy were read."""
    return Counter(item.name for item, *_ in calls)


def test_parameters_are_read_once_for_each_placement(recipe: Recipe, calls: Count) -> None:
    found = calls(_registry, "parse")
    recipe.build()
    assert parsed(found) == {"lowest_logprob": 1, "append": 1}
    found.clear()
    plan(load_recipe(recipe.path), recipe.out)
    assert parsed(found) == {"lowest_logprob": 1, "append": 1}
    found.clear()
    place(recipe.out, {"more": Placement(**LOWEST)})  # type: ignore[arg-type]
    # `more`, and those that are there, which might have been made from it.
    assert parsed(found) == {"lowest_logprob": 2, "append": 1}
    assert strategies.get("append").name == "append"


def test_what_placements_read_is_checked_once(recipe: Recipe, calls: Count) -> None:
    found = calls(targets, "check_references")
    recipe.build()
    assert len(found) == 1
    place(recipe.out, {"more": Placement(**LOWEST)})  # type: ignore[arg-type]
    assert len(found) == 2


def test_tokens_are_read_once_before_scoring(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[str, str]] = []
    real = Table.read

    def reading(self: Table, shard: Any, *rest: Any, **more: Any) -> Any:
        read.append((self.name, shard.path))
        return real(self, shard, *rest, **more)

    monkeypatch.setattr(Table, "read", reading)
    recipe.data["placements"], recipe.data["exports"] = {}, {}
    version = recipe.build().version
    # Once to know how long the examples are, before a model is loaded, and once to score them.
    times = Counter(path for name, path in read if name == "tokens")
    assert times == {shard.path: 2 for shard in version.table("tokens").shards}


@pytest.mark.parametrize(
    "words",
    [
        ("place", "more", "--strategy", "append", "--param", "tokens=2"),
        ("export", "--placement", "append", "--format", "tokenized"),
        ("rm", "placements/append"),
    ],
    ids=lambda words: words[0],
)
def test_a_dataset_is_opened_once_for_each_command(
    built: Recipe, run: Callable[..., Run], calls: Count, words: tuple[str, ...]
) -> None:
    opened = [calls(module, "read_version") for module in (commit, dataset)]
    command, *rest = words
    assert run(command, built.out, *rest).status == 0
    versions = [Path(folder).name for found in opened for _, folder, *_ in found]
    # Opened, looked at again under the commit's lock, and the new one.
    assert sorted(versions)[:3] == ["0001", "0001", "0002"]
    assert versions.count("0001") == 2
    assert open_version(built.out).number == 2
