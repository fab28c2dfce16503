"""``place`` with a grid: a placement for each combination of values, all in one version."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from handmade import commit_handmade

from pausedata import strategies
from pausedata.cli.common import parameters
from pausedata.core.errors import UsageError
from pausedata.pipeline.grid import grid
from pausedata.store.dataset import open_version
from pausedata.strategies import Ranked as RANKED


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Version 1 of the handmade dataset: placements ``low`` and ``spare``."""
    return commit_handmade(tmp_path / "d").root


def made(*params: str, strategy: str = "lowest_logprob", name: str = "x") -> dict[str, Any]:
    """{name: parameters} that ``--param`` options ask for."""
    placements = grid(
        name, strategy, None, parameters(list(params), strategies.get(strategy).options)
    )
    return {own: placement.parameters for own, placement in placements.items()}


# What is a grid, and what it makes


def test_values_with_commas_make_a_placement_each() -> None:
    assert made("positions=1,3, 10") == {
        "x-positions-1": {"positions": 1},
        "x-positions-3": {"positions": 3},
        "x-positions-10": {"positions": 10},
    }


def test_a_list_does_the_same() -> None:
    assert made("positions=[1, 3]") == made("positions=1,3")


def test_several_grids_make_every_combination_in_the_order_given() -> None:
    assert list(made("positions=1,3", "seed=0,1", strategy="random")) == [
        "x-positions-1-seed-0",
        "x-positions-1-seed-1",
        "x-positions-3-seed-0",
        "x-positions-3-seed-1",
    ]
    assert list(made("seed=0,1", "positions=3,1", strategy="random")) == [
        "x-seed-0-positions-3",
        "x-seed-0-positions-1",
        "x-seed-1-positions-3",
        "x-seed-1-positions-1",
    ]


def test_parameters_with_one_value_are_in_every_placement_and_in_no_name() -> None:
    assert made("tokens=2", "positions=1,3") == {
        "x-positions-1": {"tokens": 2, "positions": 1},
        "x-positions-3": {"tokens": 2, "positions": 3},
    }
    assert made("positions=3") == made("positions=[3]") == {"x": {"positions": 3}}
    assert made(strategy="none") == {"x": {}}


def test_items_are_read_as_yaml() -> None:
    assert made("fraction=0.1,0.25") == {
        "x-fraction-0.1": {"fraction": 0.1},
        "x-fraction-0.25": {"fraction": 0.25},
    }
    assert made("positions=1", "max_positions=null,2") == {
        "x-max_positions-null": {"positions": 1, "max_positions": None},
        "x-max_positions-2": {"positions": 1, "max_positions": 2},
    }


def test_a_value_that_the_parameter_itself_takes_is_no_grid() -> None:
    """A text with commas is one pattern, a list is one list."""
    assert made("positions=1", "eligible.inside=a,b", "eligible.without=[first, eos]") == {
        "x": {"positions": 1, "eligible": {"inside": "a,b", "without": ["first", "eos"]}}
    }


def test_a_list_in_a_list_gives_each_inner_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a parameter that takes a list; its values can stand in no name, and that is said."""
    from pausedata.strategies import Parameters, Strategy
    from pausedata.strategies.none import place

    class Several(Parameters):
        """Takes a list."""

        of: list[str]
        pattern: str = ""

    several = Strategy("several", Several, place)
    monkeypatch.setattr("pausedata.strategies.get", lambda name, where="": several)
    assert made("of=[a,b]", "pattern=a,b") == {"x": {"of": ["a", "b"], "pattern": "a,b"}}
    with pytest.raises(UsageError) as caught:
        made("of=[[a],[b]]")
    assert str(caught.value) == (
        "the grid makes 'x-of-['a']', which cannot name a placement: use letters, digits, '.', "
        "'_' and '-', at most 64, beginning with a letter or digit. Place these values one at a "
        "time, each under a name of its own."
    )


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (["positions=1,3,1"], "the grid makes 'x-positions-1' twice: give each value once."),
        (["fraction=0.1,0.10"], "the grid makes 'x-fraction-0.1' twice: give each value once."),
        (
            ["positions=1,"],
            "--param positions=1,: there is no value before or after a comma.",
        ),
        (["positions=[]"], "--param positions: the list has no value. Give at least one."),
        (
            ["positions=1,'2"],
            "--param positions=1,'2: ''2' is not YAML. Write values with brackets or commas in "
            "them as a list: [[a, b], [c]].",
        ),
    ],
)
def test_what_makes_no_grid_is_said(params: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        made(*params)
    assert str(caught.value) == message


def test_a_name_that_becomes_too_long_is_refused() -> None:
    assert len(made("positions=1,2", name="n" * 52)) == 2  # 64 characters
    with pytest.raises(UsageError, match=r"cannot name a placement: .* at most 64"):
        made("positions=1,2", name="n" * 53)


# Dotted keys


def test_dotted_keys_nest() -> None:
    given = ["eligible.without=[first,whitespace]", "eligible.inside=x", "a=1"]
    assert parameters(given, RANKED) == {
        "eligible": {"without": ["first", "whitespace"], "inside": "x"},
        "a": 1,
    }
    assert parameters(None, RANKED) == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a=1", "a.b=2"], "--param a.b: 'a' has a value already. Give one."),
        (["a.b=2", "a=1"], "--param a: it has a value already. Give it once."),
    ],
)
def test_a_key_and_one_inside_it_do_not_go_together(given: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parameters(given, RANKED)
    assert str(caught.value) == message


# The command


def test_a_grid_is_placed_in_one_version(root: Path, run: Callable[..., Run]) -> None:
    words = ["place", root, "g", "--strategy", "lowest_logprob", "--param", "positions=1,2"]
    result = run(*words, "--param", "tokens=2,3", "--json")
    assert (result.status, json.loads(result.out)["version"]) == (0, 2)
    names = [f"g-positions-{p}-tokens-{t}" for p in (1, 2) for t in (2, 3)]
    assert json.loads(result.out)["made"] == [f"placements/{name}" for name in names]
    version = open_version(root)
    assert version.placements == ["low", "spare", *names]
    for name in names:
        table = version.table(f"placements/{name}")
        inputs = table.entry.provenance["inputs"]
        asked = [int(word) for word in name.split("-")[2::2]]
        assert [inputs["parameters"][key] for key in ("positions", "tokens")] == asked
        rows = [row for split in version.splits for rows in table.read_all(split) for row in
                rows.to_pylist()]  # fmt: skip
        assert max(len(row["position"]) for row in rows) == asked[0]
        assert {count for row in rows for count in row["count"]} == {asked[1]}
    assert version.manifest.command == (
        "place d g --strategy lowest_logprob --param positions=1,2 --param tokens=2,3 --json"
    )


def test_again_nothing_is_made_and_a_larger_grid_makes_what_is_missing(
    root: Path, run: Callable[..., Run]
) -> None:
    words = ["place", root, "g", "--strategy", "random", "--json", "--param"]
    assert json.loads(run(*words, "positions=1,2").out)["version"] == 2
    again = json.loads(run(*words, "positions=1,2").out)
    assert (again["version"], again["committed"], again["made"]) == (2, False, [])
    more = json.loads(run(*words, "positions=1,2,3").out)
    assert (more["version"], more["made"]) == (3, ["placements/g-positions-3"])
    assert more["kept"][:2] == ["placements/g-positions-1", "placements/g-positions-2"]


def test_nothing_is_placed_where_one_of_the_grid_is_wrong(
    root: Path, run: Callable[..., Run]
) -> None:
    words = ["place", root, "g", "--strategy", "lowest_logprob", "--param"]
    for values in ("positions=1,2,-1", "positions=1,many"):
        result = run(*words, values)
        bad = values.rpartition(",")[2]
        assert result.status == 2
        assert f"placements.g-positions-{bad}.positions" in result.err
    result = run(*words, "positons=1,2")
    assert "has no key 'positons'. Did you mean 'positions'?" in result.err
    assert (open_version(root).number, open_version(root).placements) == (1, ["low", "spare"])


def test_one_that_is_there_made_otherwise_stops_all_but_for_replace(
    root: Path, run: Callable[..., Run]
) -> None:
    words = ["place", root]
    low = ["--strategy", "lowest_logprob", "--param"]
    assert run(*words, "g-positions-2", *low, "positions=5").status == 0
    result = run(*words, "g", *low, "positions=1,2")
    assert result.status == 2
    assert "placements/g-positions-2 is there already, made otherwise" in result.err
    assert open_version(root).placements == ["low", "spare", "g-positions-2"]

    replaced = json.loads(run(*words, "g", *low, "positions=1,2", "--replace", "--json").out)
    assert replaced["made"] == ["placements/g-positions-1", "placements/g-positions-2"]
    inputs = open_version(root).table("placements/g-positions-2").entry.provenance["inputs"]
    assert inputs["parameters"]["positions"] == 2


def test_with_one_value_the_name_stays(root: Path, run: Callable[..., Run]) -> None:
    result = run("place", root, "three", "--strategy", "random", "--param", "positions=3", "--json")
    assert json.loads(result.out)["made"] == ["placements/three"]


def test_a_run_that_cannot_be_one_is_refused_without_a_traceback(
    root: Path, run: Callable[..., Run]
) -> None:
    result = run("place", root, "x", "--strategy", "none", "--run", "a/b")
    assert (result.status, result.err.splitlines()[0][:34]) == (
        2,
        "error: 'a/b' cannot name a run: us",
    )


# Values that are text


@pytest.mark.parametrize(
    "pattern", ["[a-z]", "#### ", "12", "a,b", r"\d{1,3}", "x: y", "null", "{a"]
)
def test_a_pattern_is_taken_as_it_is(pattern: str) -> None:
    """Not as YAML, in which these are a list, a comment, a number …"""
    assert made(f"pattern={pattern}", strategy="regex") == {"x": {"pattern": pattern}}
    inside = made(f"eligible.inside={pattern}", "positions=1")
    assert inside == {"x": {"eligible": {"inside": pattern}, "positions": 1}}


def test_a_text_may_stand_in_quotes() -> None:
    assert made("pattern='[a-z] '", strategy="regex") == {"x": {"pattern": "[a-z] "}}
    with pytest.raises(UsageError, match="Leave the inner quotes out: text is taken as it is"):
        made(r'pattern="\d,\d"', strategy="regex")


def test_a_text_that_has_to_be_a_name_may_be_a_grid() -> None:
    found = made("reference=base,second", "positions=1", strategy="excess")
    assert list(found) == ["x-reference-base", "x-reference-second"]


def test_a_list_needs_no_brackets() -> None:
    assert made("of=dit,random", strategy="combine") == {"x": {"of": ["dit", "random"]}}
    assert made("of=dit", strategy="combine") == {"x": {"of": ["dit"]}}


def test_a_number_may_have_an_exponent_without_a_point() -> None:
    assert made("fraction=1e-3,1E-2") == {
        "x-fraction-0.001": {"fraction": 0.001},
        "x-fraction-0.01": {"fraction": 0.01},
    }


def test_a_key_that_is_given_twice_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"--param positions: it is given twice. Give it once"):
        made("positions=5", "positions=6")
