"""``stats``: what a version's manifest says, and its placements side by side.

What is counted is in test_stats_figures.py.
"""

from __future__ import annotations

import io
import json
import math
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from handmade import commit_handmade
from rich.console import Console
from test_diff import random_shards
from test_verify import edit_manifest, edit_rows

from pausedata.analysis.stats import (
    ExportStats,
    PlacedTokens,
    PlacementStats,
    RunStats,
    SplitStats,
    TokenCount,
    manifest_stats,
    placements_stats,
)
from pausedata.cli.render.stats import hundredths, render_stats
from pausedata.core.errors import DataError, UsageError
from pausedata.pipeline.commands import place
from pausedata.pipeline.grid import grid
from pausedata.store.dataset import Version, open_version
from tests.small_dataset import (
    EMOJI_1,
    EOS,
    FIXED,
    FOUR,
    IS,
    QUOTED,
    SHARDS,
    SUM,
    THE,
    make_dataset,
)


def printed(result: Any, width: int = 100) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width, highlight=False, markup=False, emoji=False).print(
        render_stats(result)
    )
    return [line.rstrip() for line in stream.getvalue().splitlines()]


# Placements side by side, on the small dataset, by hand


def test_what_a_placement_chose(tmp_path: Path) -> None:
    """`three` stands before the tokens with -3, -1.5, -9, -4.5, -7 and -6.5: 31.5 nats of the
    38.0625 that all 15 tokens have.
    """
    found = placements_stats(make_dataset(tmp_path / "d"))
    assert (found.run, found.examples, found.tokens) == ("base", 5, 15)
    assert found.mean_logprob == -38.0625 / 15
    assert found.placements["three"] == PlacedTokens(
        strategy="lowest_logprob",
        parameters={},
        run="base",
        examples_with_pauses=5,
        places=6,
        pauses=7,
        places_per_example=6 / 5,
        pauses_per_example=7 / 5,
        tokens=6,
        share_of_tokens=6 / 15,
        mean_logprob=-31.5 / 6,
        share_of_surprisal=31.5 / 38.0625,
        # Each was chosen once; of six the five with the smallest ids. Four responses end in EOS.
        most_frequent=[
            TokenCount(EOS, "<eos>", 1, 4),
            TokenCount(SUM, " sum", 1, 1),
            TokenCount(FOUR, " 4", 1, 1),
            TokenCount(QUOTED, ' "ok"', 1, 1),
            TokenCount(EMOJI_1, " 🙂", 1, 1),
        ],
    )


def test_a_place_after_the_last_token_counts_among_places_and_not_among_tokens(
    tmp_path: Path,
) -> None:
    """`fixed`: e1 at 0 (-0.5, three pauses) and after its end, e3 after its end (4), e5 at 0."""
    chosen = placements_stats(make_dataset(tmp_path / "d")).placements["fixed"]
    assert (chosen.examples_with_pauses, chosen.places, chosen.pauses) == (3, 4, 3 + 1 + 4 + 3)
    assert (chosen.tokens, chosen.share_of_tokens) == (2, 2 / 15)
    assert chosen.mean_logprob == -(0.5 + 0.375) / 2
    assert chosen.share_of_surprisal == (0.5 + 0.375) / 38.0625
    assert chosen.most_frequent == [
        TokenCount(THE, " The", 1, 2),  # e4 begins with it, too
        TokenCount(IS, " is", 1, 1),
    ]


def test_all_placements_are_seen_through_one_run(tmp_path: Path) -> None:
    """`three` was made from base; in `other` each token has one nat less."""
    found = placements_stats(make_dataset(tmp_path / "d"), "other")
    assert (found.run, found.mean_logprob) == ("other", -(38.0625 + 15) / 15)
    three = found.placements["three"]
    assert (three.run, three.mean_logprob) == ("base", -31.5 / 6 - 1)
    assert three.share_of_surprisal == (31.5 + 6) / (38.0625 + 15)


def test_without_a_run_nothing_is_said_of_scores(tmp_path: Path) -> None:
    found = placements_stats(make_dataset(tmp_path / "d", runs=False))
    assert (found.run, found.mean_logprob) == (None, None)
    three = found.placements["three"]
    assert (three.mean_logprob, three.share_of_surprisal) == (None, None)
    assert (three.places, three.share_of_tokens) == (6, 6 / 15)
    assert "no run" in "\n".join(printed(found))


def test_overlap_is_the_share_of_positions_of_both_among_those_of_either(tmp_path: Path) -> None:
    """Of both: e1's 0, and e1's 5, after the last token; of either also e2's 0, e3's 2, e5's 0
    and 1. Where e2's first place stands in the shard, right behind e1's last, is another one.
    """
    three = {"e1": [(0, 9), (5, 9)], "e2": [(0, 1)], "e5": [(1, 1)]}
    found = placements_stats(make_dataset(tmp_path / "d", three=three))
    assert set(FIXED) == {"e1", "e2", "e3", "e4", "e5"}
    assert found.jaccard == {
        "three": {"three": 1.0, "fixed": 2 / 6},
        "fixed": {"three": 2 / 6, "fixed": 1.0},
    }


def test_placements_without_a_place_overlap_wholly(tmp_path: Path) -> None:
    version = make_dataset(tmp_path / "d", three={})
    found = placements_stats(version)
    assert found.jaccard["three"] == {"three": 1.0, "fixed": 0.0}
    three = found.placements["three"]
    assert (three.places, three.tokens, three.most_frequent) == (0, 0, [])
    assert (three.mean_logprob, three.share_of_surprisal, three.share_of_tokens) == (None, 0, 0)


def test_a_version_without_placements_has_nothing_to_compare(tmp_path: Path) -> None:
    found = placements_stats(make_dataset(tmp_path / "d", placements=False))
    assert (found.placements, found.jaccard, found.tokens) == ({}, {}, 15)
    assert printed(found)[-1] == "no placement: `pausedata place` makes one."


@pytest.mark.parametrize("seed", range(40))
def test_figures_agree_with_a_plain_count(tmp_path: Path, seed: int) -> None:
    """Random shards, tokens and pauses (some 1,200 examples in all) against loops over sets."""
    rng = random.Random(seed)
    shards = random_shards(rng)
    examples = [example for *_, inner in shards for example in inner]
    chosen = {
        id: [(p, rng.randint(1, 3)) for p in range(len(tokens) + 1) if rng.random() < 0.4]
        for id, _, _, tokens in examples
    }
    some = rng.sample(list(chosen), len(chosen) // 2)
    fixed = FIXED | {id: chosen[id] for id in some}
    found = placements_stats(both(tmp_path / "d", shards, chosen, fixed))

    total = sum(-t[3] for *_, tokens in examples for t in tokens)
    sets = []
    for name, placed in (("three", chosen), ("fixed", fixed)):
        at = [tokens[p] for id, _, _, tokens in examples for p, _ in placed.get(id, [])
              if p < len(tokens)]  # fmt: skip
        figures = found.placements[name]
        assert figures.places == sum(len(placed.get(e[0], [])) for e in examples)
        assert figures.pauses == sum(n for e in examples for _, n in placed.get(e[0], []))
        assert figures.examples_with_pauses == sum(bool(placed.get(e[0])) for e in examples)
        assert figures.tokens == len(at)
        surprisal = sum(-t[3] for t in at)
        assert figures.mean_logprob == pytest.approx(-surprisal / len(at), rel=1e-5)
        assert figures.share_of_surprisal == pytest.approx(surprisal / total, rel=1e-5)
        counts = Counter(t[0] for t in at)
        frequent = sorted(counts, key=lambda id: (-counts[id], id))[:5]
        there = Counter(t[0] for *_, tokens in examples for t in tokens)
        assert [(t.token_id, t.count, t.occurrences) for t in figures.most_frequent] == [
            (id, counts[id], there[id]) for id in frequent
        ]
        sets.append({(e[0], p) for e in examples for p, _ in placed.get(e[0], [])})
    a, b = sets
    assert found.jaccard["three"]["fixed"] == len(a & b) / len(a | b)


def both(root: Path, shards: Any, three: Any, fixed: Any) -> Version:
    """A dataset whose placements are these."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.small_dataset.FIXED", fixed)
        return make_dataset(root, shards=shards, three=three)


# What does not fit together


def test_an_unknown_run_is_told_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no run 'bse'\. Did you mean 'base'"):
        placements_stats(make_dataset(tmp_path / "d"), "bse")


def test_a_run_in_other_shards_is_refused(tmp_path: Path) -> None:
    examples = [(split, e) for split, *_, inner in SHARDS for e in inner]
    other = [("train", 0, 1, [e for s, e in examples if s == "train"])]
    other += [("test", 0, 1, [e for s, e in examples if s == "test"])]
    version = make_dataset(tmp_path / "d", score_shards=other)
    with pytest.raises(DataError, match="scores/base: its shards are not those of tokens"):
        placements_stats(version)


FIRST = "train-00000-of-00003.parquet"


@pytest.mark.parametrize(
    ("path", "column", "value", "message"),
    [
        ("placements/three", "position", [1, 6], "a position lies beyond its response"),
        ("placements/three", "position", [-1, 3], "a position lies beyond its response"),
        ("placements/three", "id", "e9", "does not hold the examples of tokens"),
        ("scores/base", "id", "e9", "does not hold the examples of tokens"),
        ("scores/base", "logprob", [-1.0], "a token has no score"),
        ("scores/base", "logprob", [-1.0, float("nan"), -1.0, -1.0, -1.0], "not finite"),
    ],
)
def test_what_is_damaged_is_named_and_nothing_is_counted(
    tmp_path: Path, path: str, column: str, value: Any, message: str
) -> None:
    root = make_dataset(tmp_path / "d").root
    edit_rows(root, f"{path}/{FIRST}", lambda rows: rows[0].update({column: value}))
    with pytest.raises(DataError, match=message) as caught:
        placements_stats(open_version(root))
    assert f"{path}/{FIRST}" in str(caught.value)


# What the manifest says


def test_a_version_in_figures(tmp_path: Path) -> None:
    """The handmade dataset: prompts of 3 + 1 + 3 + 1 tokens, responses of 4 + 6 + 2 + 2; its
    export has the two pauses of `low` in each of four examples.
    """
    version = commit_handmade(tmp_path / "d")
    found = manifest_stats(version)
    assert (found.name, found.version, found.examples) == ("handmade", 1, 4)
    assert (found.tokens, found.response_tokens) == (22, 14)
    assert found.splits == {
        "train": SplitStats(rows=3, examples=3, dropped={}, noted={}),
        "test": SplitStats(rows=1, examples=1, dropped={}, noted={}),
    }
    low = PlacementStats(
        strategy="lowest_logprob",
        parameters=version.table("placements/low").entry.provenance["inputs"]["parameters"],
        run="base",
        examples_with_pauses=4,
        places=4,
        pauses=8,
        places_per_example=1.0,
        pauses_per_example=2.0,
        share_without_pauses=0.0,
    )
    assert found.placements == {"low": low, "spare": low}
    assert found.exports == {
        "low-tokenized": ExportStats(
            placement="low", format="tokenized", rows=4, tokens=30, pauses=8, longest=6 + 1 + 2
        )
    }
    assert list(found.bytes) == list(version.manifest.tables)
    for name, table in version.tables.items():
        sizes = [(version.folder / file.path).stat().st_size for file in table.files()]
        assert found.bytes[name] == sum(sizes)
    assert found.total_bytes == sum(found.bytes.values())


def test_no_table_is_read(tmp_path: Path) -> None:
    version = commit_handmade(tmp_path / "d")
    before = manifest_stats(version)
    for path in version.folder.rglob("*.parquet"):
        path.chmod(0o644)
        path.unlink()
    assert manifest_stats(version) == before


def test_dropped_rows_stand_by_reason_and_runs_with_their_model(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "d").root

    def edit(manifest: dict[str, Any]) -> None:
        manifest["rows"]["train"] = {
            "in": 10, "out": 4, "dropped": {"overlong": 5, "has_pause": 1},
            "noted": {"truncated": 0, "boundary_mismatch": 2},
        }  # fmt: skip
        manifest["tables"]["scores/base"]["provenance"] = {
            "inputs": {"run": "base", "dtype": "float32", "backend": "transformers"},
            "model": {"id": "org/model"},
            "mean_logprob": -2.5375,
            "carried_examples": 0,
            "scored_tokens": 30,
        }

    edit_manifest(root, edit)
    found = manifest_stats(open_version(root))
    assert found.splits["train"] == SplitStats(
        10, 4, {"overlong": 5, "has_pause": 1}, {"boundary_mismatch": 2}
    )
    assert found.runs["base"] == RunStats(
        scored_by={"model": "org/model", "dtype": "float32", "backend": "transformers"},
        mean_logprob=-2.5375,
        perplexity=math.exp(2.5375),
    )
    # No export tells of responses alone; the run scored every token of prompts and responses.
    assert (found.tokens, found.response_tokens) == (30, None)
    lines = printed(found)
    assert "small  version 1: 5 examples, 30 tokens" in lines[0]
    (train,) = [line for line in lines if line.startswith("train ")]
    assert " ".join(train.split()) == "train 10 4 5 overlong, 1 has_pause; 2 boundary_mismatch"
    (base,) = [line for line in lines if line.startswith("base ")]
    assert base.split()[:5] == ["base", "org/model", "float32,", "transformers", "-2.5375"]


def test_what_nobody_recorded_is_unknown_and_not_nothing(tmp_path: Path) -> None:
    """Placements that were written by hand, or by a later release in its own way."""
    found = manifest_stats(make_dataset(tmp_path / "d"))
    assert (found.tokens, found.response_tokens) == (None, None)
    assert found.placements["fixed"] == PlacementStats("by-hand", {}, None)
    lines = printed(found)
    assert "tokens not recorded" in lines[0]
    (fixed,) = [line for line in lines if line.startswith("fixed ")]
    assert fixed.split()[:6] == ["fixed", "by-hand", "-", "-", "-", "-"]


# The command


@pytest.fixture(scope="module")
def twenty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The handmade dataset with twenty placements."""
    root = commit_handmade(tmp_path_factory.mktemp("twenty") / "d").root
    parameters = {"positions": [1, 2, 3], "tokens": [1, 2, 3], "temperature": [0.5, 2.0]}
    placements = grid("drawn", "sampled", None, parameters)
    place(root, placements)
    return root


def test_the_command_prints_the_same_for_programs(tmp_path: Path, run: Callable[..., Run]) -> None:
    root = make_dataset(tmp_path / "d").root
    version = open_version(root)
    result = run("stats", root, "--quick", "--json")
    assert (result.status, json.loads(result.out)) == (0, manifest_stats(version).as_json())
    result = run("stats", root, "--placements", "--run", "other", "--json")
    assert json.loads(result.out) == placements_stats(version, "other").as_json()
    assert json.loads(result.out)["jaccard"]["three"]["fixed"] == 0


def test_an_earlier_version_is_told_as_it_was(twenty: Path, run: Callable[..., Run]) -> None:
    words = ["stats", twenty, "--placements", "--json"]
    assert len(json.loads(run(*words).out)["placements"]) == 20
    assert list(json.loads(run(*words, "--version", 1).out)["placements"]) == ["low", "spare"]


@pytest.mark.parametrize("width", [80, 100])
def test_twenty_placements_fit_the_terminal(twenty: Path, width: int) -> None:
    found = placements_stats(open_version(twenty))
    lines = printed(found, width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "…" not in text[: text.index("most paused")]  # no name and no figure is cut

    # Figures: the twenty by number. One with its name over two lines has its end on the next.
    rows = [line.split() for line in lines if line[:2].strip().isdigit()]
    table, tokens, matrix = rows[:20], rows[20:40], rows[40:]
    assert [row[0] for row in table] == [row[0] for row in tokens] == [
        str(n) for n in range(1, 21)
    ]  # fmt: skip
    first = found.placements["low"]
    assert first.mean_logprob is not None and first.share_of_surprisal is not None
    assert table[0][-6:] == [
        "4", "1.00", "2.00", f"{first.mean_logprob:.2f}",
        f"{first.share_of_surprisal:.1%}", f"{4 / 14:.1%}",
    ]  # fmt: skip
    # The matrix: a row for each but the first, with a share for each before it.
    head = lines[next(i for i, line in enumerate(lines) if line.startswith("overlap")) + 1]
    assert head.split() == [str(n) for n in range(1, 20)]
    assert [row[0] for row in matrix] == [str(n) for n in range(2, 21)]
    shares = [list(row.values()) for row in found.jaccard.values()]
    for i, row in enumerate(matrix, 1):
        shown = row[-i:]
        assert [float(share) for share in shown] == pytest.approx(shares[i][:i], abs=0.0051)
        assert head.index(f" {i:>2}") + 3 == len(lines[lines.index(head) + i].rstrip())


def test_a_narrow_terminal_gets_the_matrix_in_parts(twenty: Path) -> None:
    found = placements_stats(open_version(twenty))
    lines = printed(found, 46)
    begin = next(i for i, line in enumerate(lines) if line.startswith("overlap"))
    parts = "\n".join(lines[begin + 2 :]).split("\n\n")
    assert max(len(line) for line in lines[begin + 2 :]) <= 46
    heads = [int(n) for part in parts for n in part.splitlines()[0].split()]
    assert heads == list(range(1, 20))
    shown = sum(len(line.split()) - 1 for part in parts for line in part.splitlines()[1:])
    assert shown == 20 * 19 // 2


def test_shares_next_to_nothing_and_to_all_do_not_look_like_it() -> None:
    shown = [hundredths(x) for x in (0.0, 0.0001, 0.384, 0.9999, 1.0)]
    assert shown == ["0", ".00", ".38", ".99", "1"]


def test_no_colour_is_printed_where_none_is_wanted(
    tmp_path: Path, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_dataset(tmp_path / "d").root
    monkeypatch.setenv("NO_COLOR", "1")
    for words in (["stats", root], ["stats", root, "--quick"], ["stats", root, "--placements"]):
        result = run(*words)
        assert result.status == 0
        assert "\x1b" not in result.out


def test_tokens_are_shown_so_that_none_can_move_the_cursor(tmp_path: Path) -> None:
    """e1's token 2 is a newline; e4's, ` [bold]x`, is no markup."""
    three = {"e1": [(2, 1)], "e4": [(1, 1)]}
    lines = printed(placements_stats(make_dataset(tmp_path / "d", three=three)))
    assert "1 three  '⏎' 1 of 1 (100%)  ' [bold]x' 1 of 1 (100%)" in lines


@pytest.mark.parametrize("width", range(56, 110, 3))
def test_a_name_is_whole_at_any_width_or_stands_below(tmp_path: Path, width: int) -> None:
    """No name is folded: the strategy gives way first, then the name, which the tokens have too."""
    lines = printed(placements_stats(make_dataset(tmp_path / "d")), width)
    head = next(k for k, line in enumerate(lines) if line.startswith("#"))
    rows = lines[head + 2 : head + 4]
    assert [row.split()[0] for row in rows] == ["1", "2"]
    assert lines[head + 4].startswith("examples: ")  # each has one line
    assert ("three" in rows[0]) == ("placement" in lines[head])
    assert ("lowest_logprob" in rows[0]) == ("strategy" in lines[head])
    assert any(line.startswith("1 three  ") for line in lines)
