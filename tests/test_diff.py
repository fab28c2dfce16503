"""`diff`: what differs between two versions, two runs, two placements, and how far they moved."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run, in_ci
from handmade import commit_handmade
from hypothesis import given, settings
from hypothesis import strategies as st

from pausedata.analysis.diff import PlacementsDiff, RunsDiff, VersionsDiff, diff
from pausedata.analysis.diff.join import join
from pausedata.analysis.diff.placements import PausePosition, PlacedExample
from pausedata.analysis.diff.runs import RankOne
from pausedata.core.errors import DataError, UsageError
from pausedata.core.quantiles import quantiles
from pausedata.store.dataset import open_version
from pausedata.store.shards import write_shard
from tests.small_dataset import (
    DOT,
    E1,
    E2,
    E3,
    E4,
    E5,
    FOUR,
    IS,
    SHARDS,
    THE,
    VOCAB,
    make_dataset,
    resealed,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Placements: `three` (base's) and `fixed`; runs: `base`, and `other`, one nat lower each."""
    root = tmp_path_factory.mktemp("diff") / "small"
    make_dataset(root)
    return root


def placements(root: Path, a: str, b: str, **options: Any) -> PlacementsDiff:
    found = diff(root, a, b, **options)
    assert isinstance(found, PlacementsDiff)
    return found


def runs(root: Path, a: str, b: str, **options: Any) -> RunsDiff:
    found = diff(root, a, b, **options)
    assert isinstance(found, RunsDiff)
    return found


def versions(root: Path, a: int, b: int, **options: Any) -> VersionsDiff:
    found = diff(root, str(a), str(b), **options)
    assert isinstance(found, VersionsDiff)
    return found


# Placements


def test_placements_in_figures(tmp_path: Path) -> None:
    """By hand. three: e1 at 0 (1 pause), 1 (2), 4 (1); e2 at 2; e3 at 0.
    fixed: e1 at 0 (3 pauses) and 5; e2 none; e3 at 2 (4); e4 none; e5 at 0 (3).
    """
    three = {"e1": [(0, 1), (1, 2), (4, 1)], "e2": [(2, 1)], "e3": [(0, 1)]}
    make_dataset(tmp_path / "d", three=three)
    found = placements(tmp_path / "d", "placements/three", "placements/fixed")
    assert (found.a.positions, found.a.pauses) == (5, 6)
    assert (found.b.positions, found.b.pauses) == (4, 11)
    assert (found.examples, found.differing, found.not_compared) == (5, 4, 0)
    # Kept: e1's 0 alone, with 3 pauses for 1. Either has 5 + 4 - 1 = 8 positions.
    assert (found.kept, found.recounted) == (1, 1)
    assert (found.share_of_a, found.share_of_union) == (1 / 5, 1 / 8)
    # e1's 1 and 4 went to 5 (4 and 1 tokens), e3's 0 to 2; e2's went nowhere: B has none there.
    assert (found.moved, found.mean_distance) == (3, (4 + 1 + 2) / 3)
    # Before which tokens, of how many in all responses: e1's <eos> of four, its " The" in both,
    # its " sum", e5's " is", e3's ' "ok"', e2's ".". Their positions 5 and 2 of fixed are after
    # the last token.
    assert [(t.token, t.occurrences, t.a, t.b) for t in found.most_paused] == [
        ("<eos>", 4, 1, 0),
        (" The", 2, 1, 1),
        (" sum", 1, 1, 0),
        (" is", 1, 0, 1),
        (' "ok"', 1, 1, 0),
        (".", 1, 1, 0),
    ]


def test_the_most_paused_tokens_stand_side_by_side(root: Path, run: Callable[..., Run]) -> None:
    """Of four <eos> three has a pause before e5's; of two " The" fixed before e1's."""
    lines = run("diff", root, "placements/three", "placements/fixed").out.splitlines()
    rows = [line.split() for line in lines]
    assert ["'<eos>'", *["1", "of", "4", "(25%)"], *["0", "of", "4", "(0%)"]] in rows
    assert ["'", "The'", *["0", "of", "2", "(0%)"], *["1", "of", "2", "(50%)"]] in rows


def test_the_most_changed_examples_are_shown_with_the_tokens_that_follow(root: Path) -> None:
    found = placements(root, "placements/three", "placements/fixed", most=2)
    assert found.most_changed == [
        PlacedExample(
            id="e1",
            kept=0,
            left=[PausePosition(1, " sum", 2, 0), PausePosition(3, " 4", 1, 0)],
            came=[
                PausePosition(0, " The", 0, 3),
                PausePosition(5, None, 0, 1),
            ],  # 5: after the last token
            recounted=[],
        ),
        PlacedExample(
            id="e3",
            kept=0,
            left=[PausePosition(0, ' "ok"', 1, 0)],
            came=[PausePosition(2, None, 0, 4)],
            recounted=[],
        ),
    ]


def test_a_placement_differs_in_nothing_from_itself(root: Path) -> None:
    found = placements(root, "placements/three", "placements/three")
    assert (found.differing, found.share_of_a, found.share_of_union) == (0, 1.0, 1.0)
    assert (found.moved, found.mean_distance, found.most_changed) == (0, None, [])


def test_placements_without_a_position_have_no_shares(tmp_path: Path) -> None:
    make_dataset(tmp_path / "d", three={})
    found = placements(tmp_path / "d", "placements/three", "placements/three")
    assert (found.kept, found.share_of_a, found.share_of_union) == (0, None, None)


@pytest.mark.parametrize("seed", range(6))
def test_placements_agree_with_a_plain_count(tmp_path: Path, seed: int) -> None:
    """Random shards, tokens and pauses against loops over sets."""
    rng = random.Random(seed)
    shards = random_shards(rng)
    ids = [example[0] for *_, examples in shards for example in examples]
    lengths = {e[0]: len(e[3]) for *_, examples in shards for e in examples}
    chosen = [
        {
            id: [(p, rng.randint(1, 2)) for p in range(lengths[id] + 1) if rng.random() < 0.4]
            for id in ids
        }
        for _ in range(2)
    ]
    first = make_dataset(tmp_path / "d", shards=shards, three=chosen[0])
    make_dataset(tmp_path / "d", shards=shards, three=chosen[1], base=first)
    (found,) = versions(tmp_path / "d", 1, 2, most=3).tables
    assert isinstance(found, PlacementsDiff)
    kept = recounted = union = differing = 0
    distances, changed = [], {}
    for id in ids:
        a, b = dict(chosen[0][id]), dict(chosen[1][id])
        kept += len(a.keys() & b.keys())
        union += len(a.keys() | b.keys())
        counts = sum(a[p] != b[p] for p in a.keys() & b.keys())
        recounted += counts
        differing += a != b
        changed[id] = len(a.keys() ^ b.keys()) + counts
        new = b.keys() - a.keys()
        distances += [min(abs(p - q) for q in new) for p in a.keys() - b.keys() if new]
    assert (found.kept, found.recounted, found.differing) == (kept, recounted, differing)
    assert found.share_of_union == kept / union
    assert found.moved == len(distances)
    assert found.mean_distance == pytest.approx(sum(distances) / len(distances))
    order = sorted(ids, key=lambda id: -changed[id])  # a stable sort: the earlier of equals
    assert [e.id for e in found.most_changed] == order[:3]


def random_shards(rng: random.Random) -> list[tuple[str, int, int, list[Any]]]:
    """Some 30 examples of 1 to 12 tokens, in shards of 1 to 9."""
    shards, number = [], 0
    for k in range(6):
        examples = []
        for _ in range(rng.randint(1, 9)):
            tokens = [
                (rng.randrange(len(VOCAB)), i, i + 1, -rng.random() * 8, rng.randint(1, 3))
                for i in range(rng.randint(1, 12))
            ]
            examples.append((f"x{number}", "p", "r" * len(tokens), tokens))
            number += 1
        shards.append(("train", k, 6, examples))
    return shards


# Runs


def rescored(example: Any, changes: dict[int, tuple[float, int]]) -> Any:
    """The example with other log-probabilities and ranks at some positions."""
    id, prompt, response, tokens = example
    return id, prompt, response, [
        (*t[:3], *changes.get(i, t[3:])) for i, t in enumerate(tokens)
    ]  # fmt: skip


def test_runs_in_figures(tmp_path: Path) -> None:
    """By hand: two of the 15 tokens are scored anew, one of them from rank 9 to 1."""
    first = make_dataset(tmp_path / "d")
    e1 = rescored(E1, {1: (-1.0, 1)})  # " sum": -3.0, rank 9
    e4 = rescored(E4, {0: (-1.5, 3)})  # " The": -1.0, rank 2
    e5 = rescored(E5, {0: (-0.5, 2)})  # " is": -0.375, rank 1
    anew = [("train", 0, 3, [e1, E2]), ("train", 1, 3, [E3]), ("train", 2, 3, [e4]), SHARDS[3]]
    anew[3] = ("test", 0, 1, [e5])
    make_dataset(tmp_path / "d", shards=anew, base=first)
    found = versions(tmp_path / "d", 1, 2)
    assert (found.changed.count, found.tables_differ) == (0, ["scores/base", "scores/other"])
    base, other = found.tables
    assert isinstance(base, RunsDiff) and isinstance(other, RunsDiff)
    assert (base.tokens, base.examples, base.differing) == (15, 5, 3)
    total = sum(t[3] for e in (E1, E2, E3, E4, E5) for t in e[3])
    assert base.a.mean_logprob == pytest.approx(total / 15)
    assert base.b.mean_logprob == pytest.approx((total + 2 - 0.5 - 0.125) / 15)
    assert base.shift_per_token == pytest.approx((2 - 0.5 - 0.125) / 15)
    # Means of examples: e1 of 5 tokens, e4 and e5 of 2.
    assert base.shift_per_example == pytest.approx((2 / 5 - 0.5 / 2 - 0.125 / 2) / 5)
    assert base.quantiles["0"] == -0.5 and base.quantiles["1"] == 2.0
    assert base.quantiles["0.5"] == 0.0
    # Rank 1 in A: 3 of e1, 1 of e2, 1 of e3, 1 of e5.
    assert sum(t[4] == 1 for e in (E1, E2, E3, E4, E5) for t in e[3]) == 7
    assert base.rank_one == RankOne(a=7 / 15, b=7 / 15, became=1 / 15, ceased=1 / 15)
    assert other.rank_one is None  # that run has no ranks
    most = base.most_changed
    assert [e.id for e in most] == ["e1", "e4", "e5"]
    assert (most[0].mean_a, most[0].mean_b) == pytest.approx((-1.075, -0.675))
    assert (most[0].pos, most[0].token) == (1, " sum")
    assert (most[0].logprob_a, most[0].logprob_b, most[0].tokens) == (-3.0, -1.0, 5)


def test_two_runs_of_a_version(root: Path) -> None:
    found = runs(root, "scores/base", "scores/other")
    assert (found.a.table, found.b.table) == ("scores/base", "scores/other")
    assert found.a.scored_by == {"model": "by-hand"}
    assert (found.shift_per_token, found.shift_per_example) == (-1.0, -1.0)
    assert set(found.quantiles.values()) == {-1.0}
    assert found.rank_one is None


def test_a_run_differs_in_nothing_from_itself(root: Path) -> None:
    found = runs(root, "scores/base", "scores/base")
    assert (found.differing, found.most_changed, found.shift_per_token) == (0, [], 0.0)
    assert found.rank_one == RankOne(a=7 / 15, b=7 / 15, became=0.0, ceased=0.0)


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=in_ci(100), deadline=None)
@given(st.lists(st.lists(FLOATS, max_size=20), max_size=5), st.lists(st.floats(0, 1), max_size=4))
def test_quantiles_are_exact_however_the_numbers_come(
    portions: list[list[float]], asked: list[float]
) -> None:
    arrays = [np.array(portion, np.float32) for portion in portions]
    found = quantiles(lambda: arrays, asked)
    together = np.sort(np.concatenate([*arrays, np.zeros(0, np.float32)]))
    if not len(together):
        assert found == [None] * len(asked)
        return
    for q, value in zip(asked, found, strict=True):
        assert value == together[max(1, math.ceil(q * len(together))) - 1]


# Versions


def test_examples_are_told_apart_by_id_whatever_their_shards(tmp_path: Path) -> None:
    """2 has lost e3, has e6, another token in e2, another split for e5, and e4 before e1."""
    e2 = ("e2", "Smile:", " 🙂.", [*E2[3][:2], (FOUR, 2, 3, -2.5, 4), E2[3][3]])
    e6 = ("e6", "z", " is.", [(IS, 0, 3, -0.5, 1), (DOT, 3, 4, -0.5, 1)])
    first = make_dataset(tmp_path / "d")
    second = [("train", 0, 2, [E4, E1]), ("train", 1, 2, [e6, E5, e2])]
    moved = {"e1": [(1, 2), (4, 1)], "e4": [(1, 1)], "e5": [(0, 1)], "e6": [(0, 1)]}
    make_dataset(tmp_path / "d", shards=second, three=moved, base=first)
    found = versions(tmp_path / "d", 1, 2)
    assert (found.examples_a, found.examples_b) == (5, 5)
    assert (found.added.count, found.added.ids) == (1, ["e6"])
    assert (found.removed.count, found.removed.ids) == (1, ["e3"])
    assert (found.changed.count, found.changed.ids) == (1, ["e2"])
    assert (found.moved.count, found.moved.ids) == (1, ["e5"])
    three = next(t for t in found.tables if t.a.table == "placements/three")
    # e1, e4 and e5 have the same response in both; not e2, nor e3 and e6, which one has alone.
    assert (three.examples, three.not_compared) == (3, 3)
    assert isinstance(three, PlacementsDiff)
    # e1: 1 stays, 3 goes to 4; e4's 1 stays; e5's 1 goes to 0.
    assert (three.a.positions, three.b.positions, three.kept, three.moved) == (4, 4, 2, 2)
    went = [(e.id, [p.pos for p in e.left], [p.token for p in e.came]) for e in three.most_changed]
    assert went == [("e1", [3], ["<eos>"]), ("e5", [1], [" is"])]
    base = next(t for t in found.tables if t.a.table == "scores/base")
    assert isinstance(base, RunsDiff)
    assert (base.examples, base.differing, base.tokens) == (3, 0, 9)


def test_another_prompt_is_a_change_but_its_response_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_dataset(tmp_path / "d")
    monkeypatch.setattr("tests.small_dataset.THE", FOUR)  # the first of the prompts' three ids
    make_dataset(tmp_path / "d", base=first)
    found = versions(tmp_path / "d", 1, 2)
    assert (found.changed.count, found.changed.ids) == (5, ["e1", "e2", "e3", "e4", "e5"])
    assert found.tables_differ == ["tokens"] and found.tables == []
    assert join(open_version(tmp_path / "d", 1), open_version(tmp_path / "d", 2)).compared == 5


def test_tables_are_told_apart_by_their_content(tmp_path: Path) -> None:
    first = make_dataset(tmp_path / "d", runs=False, placements=False)
    make_dataset(tmp_path / "d", three={"e3": [(1, 1)]}, base=first)
    there = versions(tmp_path / "d", 1, 2)
    added = ["scores/base", "scores/other", "placements/three", "placements/fixed"]
    assert (there.tables_added, there.tables_removed, there.tables_differ) == (added, [], [])
    back = versions(tmp_path / "d", 2, 1)
    assert (back.tables_added, back.tables_removed) == ([], added)
    assert versions(tmp_path / "d", 2, 2).tables_differ == []


@pytest.mark.parametrize("seed", range(4))
def test_a_corpus_in_any_order_and_any_shards_is_the_same(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    shards = random_shards(rng)
    examples = [example for *_, those in shards for example in those]
    chosen = {e[0]: [(p, 1) for p in range(len(e[3])) if rng.random() < 0.3] for e in examples}
    first = make_dataset(tmp_path / "d", shards=shards, three=chosen)
    rng.shuffle(examples)
    shuffled = [("train", k, 3, examples[k::3]) for k in range(3)]
    make_dataset(tmp_path / "d", shards=shuffled, three=chosen, base=first)
    found = versions(tmp_path / "d", 1, 2)
    assert found.added.count == found.removed.count == found.changed.count == 0
    assert len(found.tables) == 4  # other orders have other content hashes, and equal values
    for table in found.tables:
        assert (table.examples, table.differing, table.most_changed) == (len(examples), 0, [])


# What cannot be compared


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ("scores/base", "placements/three", "are of different kinds"),
        ("1", "scores/base", "'1' is a version and 'scores/base' is not"),
        ("scores/base", "1", "'1' is a version and 'scores/base' is not"),
        ("scores/base", "scores/othr", "has no run 'othr'. Did you mean 'other'?"),
        ("placements/four", "placements/three", "has no placement 'four'"),
        ("base", "other", "version 1 has no table 'base'. Did you mean 'scores/base'?"),
        ("examples", "examples", "there is one table 'examples' in a version"),
        ("1", "7", "no version 7. There: 1."),
    ],
)
def test_what_cannot_be_compared_is_told(
    root: Path, run: Callable[..., Any], a: str, b: str, message: str
) -> None:
    result = run("diff", root, a, b)
    assert (result.status, result.out) == (2, "") and message in result.err


def test_exports_are_compared_by_their_placements(tmp_path: Path) -> None:
    commit_handmade(tmp_path / "d")
    with pytest.raises(UsageError, match="exports are not compared"):
        diff(tmp_path / "d", "exports/low-tokenized", "exports/low-tokenized")


def test_version_goes_with_two_tables(tmp_path: Path) -> None:
    first = make_dataset(tmp_path / "d")
    make_dataset(tmp_path / "d", three={}, base=first)
    pair = ("placements/three", "placements/fixed")
    assert placements(tmp_path / "d", *pair).a.positions == 0
    assert placements(tmp_path / "d", *pair, version=1).a.positions == 6
    with pytest.raises(UsageError, match="--version says where two tables are"):
        diff(tmp_path / "d", "1", "2", version=1)


def test_rows_that_are_not_of_one_example_are_never_compared(tmp_path: Path) -> None:
    """No writer makes such runs; what is found by its place has its id checked."""
    make_dataset(tmp_path / "turned")
    other = open_version(tmp_path / "turned").table("scores/other")
    path = other.paths()[0]
    path.chmod(0o644)
    write_shard(path, other.read(other.shards[0]).take([1, 0]))
    resealed(open_version(tmp_path / "turned"))
    with pytest.raises(DataError, match="do not hold the examples that tokens has there"):
        diff(tmp_path / "turned", "scores/base", "scores/other")

    sharded_otherwise = [("train", 0, 1, [E1, E2, E3, E4]), SHARDS[3]]
    make_dataset(tmp_path / "otherwise", score_shards=sharded_otherwise)
    with pytest.raises(DataError, match="its shards are not those of tokens"):
        diff(tmp_path / "otherwise", "scores/base", "scores/other")


# The command


def test_json_has_all_of_it_and_is_alone_on_standard_output(
    root: Path, run: Callable[..., Any]
) -> None:
    result = run("diff", root, "placements/three", "placements/fixed", "--json", "-n", 1)
    printed = json.loads(result.out)
    assert (result.status, printed["kind"], printed["moved"]) == (0, "placements", 4)
    assert [e["id"] for e in printed["most_changed"]] == ["e1"]
    assert printed["most_changed"][0]["left"][0] == {"pos": 1, "token": " sum", "a": 2, "b": 0}
    assert json.loads(run("diff", root, 1, 1, "--json").out)["tables_differ"] == []


def test_the_terminal_shows_figures_and_examples(root: Path, run: Callable[..., Any]) -> None:
    lines = run("diff", root, "placements/three", "placements/fixed").out.splitlines()
    assert (
        "A  placements/three  lowest_logprob of base  (version 1): 6 positions, 7 pauses" in lines
    )
    assert "kept: 0 positions: 0.0% of A's, 0.0% of A's and B's together" in lines
    assert "    left  1:' sum' ×2  3:' 4'" in lines and "    came  0:' The' ×3  5:end" in lines
    lines = run("diff", root, "scores/base", "scores/other", "-n", 1).out.splitlines()
    assert any("-1.0000 per token (15), -1.0000 per example" in line for line in lines)
    assert lines[-1].split() == ["e1", "5", "-1.0750", "-2.0750", "0", "The", "-0.5000", "-1.5000"]
    assert "nothing differs" in run("diff", root, 1, 1).out


def test_versions_are_shown_with_what_moved_in_them(
    tmp_path: Path, run: Callable[..., Any]
) -> None:
    first = make_dataset(tmp_path / "d")
    e7 = ("e7", "w", " The", [(THE, 0, 4, -1.0, 2)])
    grown = [*SHARDS[:3], ("test", 0, 1, [E5, e7])]
    make_dataset(tmp_path / "d", shards=grown, base=first)
    lines = run("diff", tmp_path / "d", 1, 2).out.splitlines()
    assert lines[:3] == ["version 1 → version 2", "examples: 5 → 6", "  1 added: e7"]
    assert "  1 not compared: in one version alone, or with another response" in lines
    assert "examples: 5 compared, 0 differ" in lines
