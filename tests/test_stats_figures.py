"""``stats``: what a version holds, counted from its tables."""

from __future__ import annotations

import io
import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run, in_ci
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from test_verify import edit_manifest, edit_rows

from pausedata.analysis.stats import ScoreStats, Stats, manifest_stats, stats
from pausedata.analysis.stats.counted import PROBABILITIES, QUANTILES
from pausedata.cli.render.figures import Column, ParallelColumns, draw_bar
from pausedata.cli.render.stats import render_stats
from pausedata.core.errors import DataError, UsageError
from pausedata.core.quantiles import Cells
from pausedata.store.dataset import Table, open_version
from tests.small_dataset import E3, SHARDS, make_dataset


def lines_of(found: Any, width: int = 100, encoding: str = "utf-8") -> list[str]:
    """What is printed to a stream of that width and encoding, without colour."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    Console(file=stream, width=width, highlight=False, markup=False, emoji=False).print(
        found if isinstance(found, ParallelColumns) else render_stats(found)
    )
    stream.flush()
    return [line.rstrip() for line in raw.getvalue().decode(encoding).splitlines()]


# By hand, on the small dataset


def test_a_run_in_figures(tmp_path: Path) -> None:
    """base: 15 tokens with 38.0625 nats in all, entropies of twice as much, 7 first choices.

    Ascending: -9, -7, -6.5, -4.5, -3, -2.5, -1.5, -1, -1, -0.75, -0.5, -0.375, -0.25, -0.125 and
    -0.0625. A quarter of 15 is 3.75, so that the fourth is the least that 25% do not exceed.
    """
    base = stats(make_dataset(tmp_path / "d")).runs["base"]
    mean = -38.0625 / 15
    assert (base.tokens, base.mean_logprob, base.perplexity) == (15, mean, math.exp(-mean))
    assert base.mean_entropy == 2 * 38.0625 / 15
    assert base.share_of_first_choices == 7 / 15
    assert list(base.quantiles) == [
        "0", "0.01", "0.05", "0.1", "0.25", "0.5", "0.75", "0.9", "0.95", "0.99", "1"
    ]  # fmt: skip
    assert (base.quantiles["0"], base.quantiles["1"]) == (-9.0, -0.0625)
    assert base.quantiles["0.25"] == pytest.approx(-4.5, rel=1 / 4096)
    assert base.quantiles["0.5"] == pytest.approx(-1.0, rel=1 / 4096)
    # Probabilities: e^-9 = 0.00012; -7, 0.0009; -6.5, 0.0015; -4.5, 0.011; -3, 0.0498; -2.5, 0.082;
    # -1.5, 0.22; -1, 0.37 twice; -0.75, 0.47; -0.5, 0.61; -0.375, 0.69; -0.25, 0.78;
    # -0.125, 0.88; -0.0625, 0.94.
    assert base.histogram == [0, 0, 0, 2, 1, 3, 1, 3, 2, 2, 1, 0, 0]


def test_the_histogram_says_where_its_bins_end(tmp_path: Path) -> None:
    edges = stats(make_dataset(tmp_path / "d")).histogram_edges
    assert edges is not None
    assert edges.probability == [
        0, 1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 1
    ]  # fmt: skip
    first, *others = edges.logprob
    assert first is None
    assert others == pytest.approx([math.log(p) for p in edges.probability[1:]], rel=1e-7)


def test_a_probability_of_an_edge_is_in_the_bin_that_begins_there(tmp_path: Path) -> None:
    tokens = [(0, 0, 1, math.log(p), 1) for p in (0.5, 0.25, 0.1, 1.0)]
    version = make_dataset(tmp_path / "d", shards=[("train", 0, 1, [("x", "p", "r", tokens)])])
    histogram = stats(version).runs["base"].histogram
    assert histogram is not None
    assert [PROBABILITIES[k] for k, n in enumerate(histogram) if n] == [0.1, 0.25, 0.5, 0.999]


def test_splits_have_figures_of_their_own(tmp_path: Path) -> None:
    """test holds e5 alone: 3 tokens of the prompt, and -0.375 and -6.5."""
    found = stats(make_dataset(tmp_path / "d"))
    assert (found.examples, found.tokens, found.response_tokens) == (5, 5 * 3 + 15, 15)
    e5 = found.splits["test"]
    assert (e5.examples, e5.tokens, e5.response_tokens) == (1, 5, 2)
    base = found.runs["base"].splits
    assert list(base) == ["train", "test"]
    assert (base["train"].tokens, base["train"].share_of_first_choices) == (13, 6 / 13)
    assert (base["test"].mean_logprob, base["test"].quantiles["0"]) == (-6.875 / 2, -6.5)


def test_a_run_without_ranks_and_entropies_says_nothing_of_them(tmp_path: Path) -> None:
    other = stats(make_dataset(tmp_path / "d")).runs["other"]
    assert other.mean_logprob == -(38.0625 + 15) / 15
    assert (other.mean_entropy, other.share_of_first_choices) == (None, None)


def test_where_some_examples_have_no_ranks_the_share_is_of_the_others(tmp_path: Path) -> None:
    """e1 loses its ranks, three of which are first: of the ten other tokens four are."""
    root = make_dataset(tmp_path / "d").root
    edit_rows(root, f"scores/base/{FIRST}", lambda rows: rows[0].update(rank=None, entropy=None))
    base = stats(open_version(root)).runs["base"]
    assert base.share_of_first_choices == 4 / 10
    assert base.mean_entropy == 2 * (38.0625 - 5.375) / 10


def test_pauses_of_an_example(tmp_path: Path) -> None:
    """fixed: 3 + 1 in e1, 4 in e3, 3 in e5, none in e2 and e4."""
    fixed = stats(make_dataset(tmp_path / "d")).placements["fixed"]
    assert (fixed.examples_with_pauses, fixed.places, fixed.pauses) == (3, 4, 11)
    assert (fixed.places_per_example, fixed.pauses_per_example) == (4 / 5, 11 / 5)
    assert (fixed.fewest_pauses, fixed.most_pauses, fixed.share_without_pauses) == (0, 4, 2 / 5)
    three = stats(open_version(tmp_path / "d")).placements["three"]
    assert (three.fewest_pauses, three.most_pauses, three.share_without_pauses) == (1, 3, 0.0)


def test_what_was_counted_is_told_where_another_number_was_recorded(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "d").root

    def edit(manifest: dict[str, Any]) -> None:
        manifest["rows"]["train"] |= {"in": 10, "out": 9, "dropped": {"overlong": 1}}
        manifest["tables"]["scores/base"]["provenance"]["mean_logprob"] = -1.0
        manifest["tables"]["placements/three"]["provenance"] |= {"pauses": 70, "places": 60}

    edit_manifest(root, edit)
    told, found = (count(open_version(root)) for count in (manifest_stats, stats))
    assert (told.counted, told.examples, told.runs["base"].mean_logprob) == (False, 10, -1.0)
    assert (told.placements["three"].pauses, told.placements["three"].places) == (70, 60)
    assert (found.counted, found.examples, found.splits["train"].examples) == (True, 5, 4)
    assert found.runs["base"].mean_logprob == -38.0625 / 15
    assert (found.placements["three"].pauses, found.placements["three"].places) == (7, 6)
    # What no table holds is as it was recorded, in both.
    assert (found.splits["train"].rows, found.splits["train"].dropped) == (10, {"overlong": 1})
    assert (found.bytes, found.exports) == (told.bytes, told.exports)


def test_one_run_alone(tmp_path: Path) -> None:
    version = make_dataset(tmp_path / "d")
    assert list(stats(version, "other").runs) == ["other"]
    assert stats(version, "other").runs["other"] == stats(version).runs["other"]
    for count in (stats, manifest_stats):
        with pytest.raises(UsageError, match=r"has no run 'bse'\. Did you mean 'base'"):
            count(version, "bse")


def test_each_shard_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = make_dataset(tmp_path / "d")
    read, opened = Table.read, []

    def watched(self: Table, shard: Any, columns: Any = None) -> Any:
        opened.append(shard.path)
        return read(self, shard, columns)

    monkeypatch.setattr(Table, "read", watched)
    stats(version)
    kinds = ["examples", "tokens", "scores/base", "scores/other"]
    kinds += ["placements/three", "placements/fixed"]
    assert sorted(opened) == sorted(s.path for kind in kinds for s in version.table(kind).shards)


# Against a plain count


def plain(scored: list[tuple[float, int]]) -> dict[str, Any]:
    """The figures of tokens with these log-probabilities and ranks, the obvious way.

    The dataset's entropies are twice the log-probabilities, with the other sign.
    """
    logprobs = sorted(logprob for logprob, _ in scored)
    n = len(logprobs)
    edges = [float(np.float32(math.log(p))) for p in PROBABILITIES[1:-1]]
    mean = sum(logprobs) / n if n else None
    return {
        "tokens": n,
        "mean_logprob": mean,
        "perplexity": None if mean is None else math.exp(-mean),
        "mean_entropy": None if mean is None else -2 * mean,
        "share_of_first_choices": sum(rank == 1 for _, rank in scored) / n if n else None,
        "quantiles": [logprobs[max(1, math.ceil(q * n)) - 1] if n else None for q in QUANTILES],
        "histogram": [
            sum(low <= x < high for x in logprobs)
            for low, high in zip([-math.inf, *edges], [*edges, math.inf], strict=True)
        ],
    }


def check(found: ScoreStats, scored: list[tuple[float, int]]) -> None:
    for name, expected in plain(scored).items():
        value = getattr(found, name)
        if name == "quantiles":
            near = [x if x is None else pytest.approx(x, rel=2**-12) for x in expected]
            assert list(value.values()) == near
            assert (value["0"], value["1"]) == (expected[0], expected[-1])
        elif isinstance(expected, float):
            assert value == pytest.approx(expected, rel=1e-9, abs=1e-9)
        else:
            assert value == expected


LOGPROBS = st.one_of(
    st.floats(-30, 0, width=32),
    st.sampled_from([float(np.float32(math.log(p))) for p in PROBABILITIES[1:]]),
)


@st.composite
def datasets(draw: st.DrawFn) -> tuple[list[Any], dict[str, Any]]:
    """Shards of one to three splits, some empty, of responses that may be empty, and pauses."""
    shards, pauses, number = [], {}, 0
    for split in draw(st.sampled_from([["train"], ["train", "test"], ["a", "b.c", "d"]])):
        count = draw(st.integers(1, 2))
        for k in range(count):
            examples = []
            for logprobs in draw(st.lists(st.lists(LOGPROBS, max_size=5), max_size=3)):
                tokens = [(i, i, i + 1, x, draw(st.integers(1, 2))) for i, x in enumerate(logprobs)]
                examples.append((f"x{number}", "p", "r" * len(tokens), tokens))
                places = draw(st.sets(st.integers(0, len(tokens))))
                pauses[f"x{number}"] = [(p, draw(st.integers(1, 300))) for p in sorted(places)]
                number += 1
            shards.append((split, k, count, examples))
    return shards, pauses


@settings(max_examples=in_ci(40), deadline=None)
@given(datasets())
def test_figures_agree_with_a_plain_count(made: tuple[list[Any], dict[str, Any]]) -> None:
    shards, pauses = made
    with tempfile.TemporaryDirectory() as folder:
        found = stats(make_dataset(Path(folder) / "d", shards=shards, three=pauses))
    by_split: dict[str, list[Any]] = {}
    for split, _, _, examples in shards:
        by_split.setdefault(split, []).extend(examples)
    every = [example for examples in by_split.values() for example in examples]

    def tokens(examples: list[Any]) -> list[tuple[float, int]]:
        return [(t[3], t[4]) for example in examples for t in example[3]]

    assert found.examples == len(every)
    assert found.response_tokens == len(tokens(every))
    assert found.tokens == 3 * len(every) + len(tokens(every))  # prompts have three tokens
    check(found.runs["base"], tokens(every))
    assert list(found.runs["base"].splits) == list(by_split)
    for split, examples in by_split.items():
        check(found.runs["base"].splits[split], tokens(examples))
        assert found.splits[split].examples == len(examples)
        assert found.splits[split].response_tokens == len(tokens(examples))

    counts = [sum(n for _, n in pauses[example[0]]) for example in every]
    three = found.placements["three"]
    assert three.pauses == sum(counts)
    assert three.places == sum(len(pauses[example[0]]) for example in every)
    assert three.examples_with_pauses == sum(n > 0 for n in counts)
    assert three.fewest_pauses == min(counts, default=None)
    assert three.most_pauses == max(counts, default=None)
    if counts:
        assert three.pauses_per_example == sum(counts) / len(counts)
        assert three.share_without_pauses == counts.count(0) / len(counts)
    json.dumps(found.as_json(), allow_nan=False)
    lines_of(found)


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=in_ci(150), deadline=None)
@given(
    st.lists(st.lists(FLOATS, max_size=20), max_size=5), st.integers(0, 5),
    st.lists(st.floats(0, 1), min_size=1, max_size=4),
)  # fmt: skip
def test_quantiles_of_one_pass_are_within_what_they_say(
    portions: list[list[float]], half: int, asked: list[float]
) -> None:
    """However the numbers come, and whether one or two count them."""
    one, other = Cells(), Cells()
    for k, portion in enumerate(portions):
        (one if k < half else other).add(np.array(portion, np.float32))
    one.merge(other)
    together = sorted(x for portion in portions for x in portion)
    for q, value in zip([0.0, 1.0, *asked], one.quantiles([0.0, 1.0, *asked]), strict=True):
        if not together:
            assert value is None
            continue
        true = together[max(1, math.ceil(q * len(together))) - 1]
        assert value is not None
        # Next to nothing, below 1e-38, floats have fewer digits.
        assert abs(value - true) <= (abs(true) * Cells.WITHIN if 0 < q < 1 else 0) + 1e-38


# Where there is nothing


def test_without_examples(tmp_path: Path) -> None:
    found = stats(make_dataset(tmp_path / "d", shards=[("train", 0, 1, [])]))
    assert (found.examples, found.tokens, found.response_tokens) == (0, 0, 0)
    base = found.runs["base"]
    assert (base.tokens, base.mean_logprob, base.perplexity, base.mean_entropy) == (0, *[None] * 3)
    assert set(base.quantiles.values()) == {None}
    assert set(base.histogram or []) == {0}
    three = found.placements["three"]
    assert (three.pauses, three.pauses_per_example, three.fewest_pauses) == (0, None, None)
    text = "\n".join(lines_of(found))
    assert "small  version 1: 0 examples, 0 tokens" in text
    assert "quantiles" not in text


def test_without_runs_and_placements(tmp_path: Path) -> None:
    found = stats(make_dataset(tmp_path / "d", runs=False, placements=False))
    assert (found.runs, found.placements, found.tokens) == ({}, {}, 30)
    assert not any(line.startswith(("run", "placement", "quantiles")) for line in lines_of(found))


def test_a_perplexity_beyond_all_floats_is_none(tmp_path: Path) -> None:
    example = ("x", "p", "r", [(0, 0, 1, -1e30, 1)])
    found = stats(make_dataset(tmp_path / "d", shards=[("train", 0, 1, [example])]))
    assert found.runs["base"].perplexity is None
    assert found.runs["base"].mean_logprob == pytest.approx(-1e30)


# What does not fit together

FIRST = "train-00000-of-00003.parquet"
NAN = float("nan")


@pytest.mark.parametrize(
    ("path", "column", "value", "message"),
    [
        ("scores/base", "id", "e9", "does not hold the examples of tokens"),
        ("scores/base", "logprob", [-1.0], "a token has no score"),
        ("scores/base", "logprob", [-1.0, NAN, -1.0, -1.0, -1.0], "not finite"),
        ("scores/base", "logprob", [-1.0, -math.inf, -1.0, -1.0, -1.0], "not finite"),
        ("scores/base", "rank", [1, 2], "rank is not one for each token"),
        ("scores/base", "rank", [1, 2, 0, 1, 1], "a rank is below 1"),
        ("scores/base", "entropy", [1.0] * 6, "entropy is not one for each token"),
        ("scores/base", "entropy", [1.0, 1.0, NAN, 1.0, 1.0], "an entropy is missing, or not fin"),
        ("placements/three", "id", "e9", "does not hold the examples of tokens"),
        ("placements/three", "position", [1, 6], "a position lies beyond its response"),
        ("placements/three", "position", [1], "counts are not one for each position"),
    ],
)
def test_what_is_damaged_is_named_and_nothing_is_counted(
    tmp_path: Path, path: str, column: str, value: Any, message: str
) -> None:
    root = make_dataset(tmp_path / "d").root
    edit_rows(root, f"{path}/{FIRST}", lambda rows: rows[0].update({column: value}))
    with pytest.raises(DataError, match=message) as caught:
        stats(open_version(root))
    assert f"{path}/{FIRST}" in str(caught.value)


def test_a_shard_that_is_not_the_manifests_is_refused(tmp_path: Path) -> None:
    version = make_dataset(tmp_path / "d")
    path = version.folder / "scores/base" / FIRST
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=FIRST):
        stats(version)


def test_a_run_in_other_shards_is_refused(tmp_path: Path) -> None:
    of_one = [("train", 0, 1, [e for s, *_, es in SHARDS for e in es if s == "train"]), SHARDS[-1]]
    version = make_dataset(tmp_path / "d", score_shards=of_one)
    with pytest.raises(DataError, match="scores/base: its shards are not those of tokens"):
        stats(version)


# The command


def test_the_command_prints_the_same_for_programs(tmp_path: Path, run: Callable[..., Run]) -> None:
    root = make_dataset(tmp_path / "d").root
    result = run("stats", root, "--json")
    assert (result.status, json.loads(result.out)) == (0, stats(open_version(root)).as_json())
    assert result.err.startswith("counting: 5 examples")
    result = run("stats", root, "--run", "other", "--json")
    assert list(json.loads(result.out)["runs"]) == ["other"]


def test_quick_reads_no_table_which_placements_does(
    tmp_path: Path, run: Callable[..., Run]
) -> None:
    version = make_dataset(tmp_path / "d")
    for path in version.folder.rglob("*.parquet"):
        path.chmod(0o644)
        path.unlink()
    assert run("stats", version.root, "--quick").status == 0
    result = run("stats", version.root)
    assert (result.status, result.out) == (1, "")
    result = run("stats", version.root, "--quick", "--placements")
    assert result.status == 2
    assert "--quick reads no table" in result.err


# What is printed


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Stats:
    return stats(make_dataset(tmp_path_factory.mktemp("small") / "d"))


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_no_line_is_wider_than_the_terminal_and_no_figure_is_cut(
    small: Stats, width: int, encoding: str
) -> None:
    lines = lines_of(small, width, encoding)
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    rows = [line.replace("|", " ").split() for line in lines]
    base = small.runs["base"]
    assert base.mean_logprob is not None and base.perplexity is not None
    assert [
        "base", "(all)", "15", f"{base.mean_logprob:.4f}", f"{base.perplexity:.4f}", "5.0750",
        "46.7%",
    ] in rows  # fmt: skip
    assert ["base", "test", "2", "-3.4375", "31.1091", "6.8750", "50.0%"] in rows
    assert ["fixed", "4", "11", "2.20", "0", "4", "40.0%"] in rows


def test_the_histogram_stands_run_beside_run(small: Stats) -> None:
    lines = lines_of(small, 100)
    head = next(k for k, line in enumerate(lines) if line.startswith("probability "))
    assert lines[head].split() == ["probability", "logprob", "base", "other"]
    bins = {" ".join(line.split()[:3]): line.split()[3:] for line in lines[head + 1 : head + 14]}
    assert [*bins][:1] + [*bins][-1:] == ["0.999 to 1", "0 to 1e-06"]
    # base has -1, -1 and -0.75 there, other -1.375, -1.25, -1.125 and -1.0625.
    floor, share, bar, other, longest = bins["0.25 to 0.5"]
    assert (floor, share, other) == ("-1.386", "20.00%", "26.67%")
    assert len(bar) == pytest.approx(len(longest) * 3 / 4, abs=1)
    assert bins["0.999 to 1"][1:] == ["0", "0"]


def test_bars_are_of_what_the_stream_can_show() -> None:
    assert [draw_bar(x, 4) for x in (0, 0.001, 0.5, 0.53125, 1)] == ["", "▏", "██", "██▏", "████"]
    assert [draw_bar(x, 4, False) for x in (0, 0.001, 0.5, 1)] == ["", ".", "##", "####"]
    columns = [Column("run", ["50%", "100%"], [0.5, 1.0])]
    grid = ParallelColumns([Column("bin", ["a", "b"])], columns)
    assert lines_of(grid, 18) == ["bin  run", "a     50% ████", "b    100% ████████"]
    assert lines_of(grid, 18, "ascii") == ["bin  run", "a     50% ####", "b    100% ########"]


def test_columns_that_do_not_fit_stand_below_and_long_heads_are_folded() -> None:
    columns = [Column(name, ["1.5"]) for name in ("a-long-name", "b", "c")]
    assert lines_of(ParallelColumns([Column("q", ["50%"])], columns), 30) == [
        "q    a-long-name            b",
        "50%          1.5          1.5",
        "",
        "q              c",
        "50%          1.5",
    ]
    assert lines_of(ParallelColumns([Column("q", ["50%"])], columns), 12) == [
        "q    a-long-", "        name", "50%      1.5", "", "q          b", "50%      1.5", "",
        "q          c", "50%      1.5",
    ]  # fmt: skip


def test_a_name_that_leaves_no_room_for_figures_stands_above_them(small: Stats) -> None:
    name = "checkpoint-" + "x" * 53  # as long as one may be
    told = replace(
        small,
        runs={name: small.runs["base"]},
        bytes={f"scores/{name}": small.bytes["scores/base"], **small.bytes},
    )
    lines = lines_of(told, 60)
    assert max(map(len, lines)) <= 60
    assert not any("…" in line for line in lines)
    assert "perplexity" in [line.split()[0] for line in lines if line.endswith("  12.6480")]
    head = next(k for k, line in enumerate(lines) if line.startswith("share below"))
    above = "".join(line.removeprefix("share below").strip() for line in lines[head : head + 2])
    assert above == f"{name} (all)"
    rows = [line.split() for line in lines_of(told, 140)]
    assert [name, "test", "2", "-3.4375", "31.1091", "6.8750", "50.0%"] in rows


def test_names_of_splits_and_texts_cannot_move_the_cursor(small: Stats) -> None:
    assert all(line.isprintable() for line in lines_of(small, 80))
    assert E3[0] not in "\n".join(lines_of(small))  # figures alone: no example is shown
