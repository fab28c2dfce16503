"""The benchmarks run, at sizes that say nothing about speed, and print what they are there for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, SMOLLM2
from handmade import commit_handmade

pytestmark = pytest.mark.processes


def benchmark(name: str, *words: object) -> str:
    """What a benchmark prints."""
    script = ROOT / "benchmarks" / f"{name}.py"
    done = subprocess.run(
        [sys.executable, str(script), *map(str, words)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_score_vllm_prints_what_pausedata_costs_around_an_engine() -> None:
    """The engine's own speed needs vLLM: make test-vllm."""
    stand_in, benchmarks = ROOT / "tests" / "stand_in", ROOT / "benchmarks"
    code = "import score_vllm; score_vllm.around_the_engine('float32', 20)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (stand_in, benchmarks)))},
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"4,000 tokens: [\d.]+ microseconds a token", done.stdout)


def test_store_prints_speed_opening_and_memory(tmp_path: Path) -> None:
    out = benchmark(
        "store", "--examples", 40, "--shards", 3, "--shard-rows", 2, "--folder", tmp_path
    )
    for what in ("writing", "reading"):
        assert re.search(rf"^{what}: store .* speed of the store to bare \d", out, re.MULTILINE)
    for view in ("examples", "tokens"):
        assert re.search(rf"3 shards and count\(\*\) of {view}: .* ratio \d", out)
    for what in ("writing", "reading"):
        assert re.search(rf"peak memory of {what}: .* for 4 examples, .* for 40; ratio", out)
    assert not list(tmp_path.iterdir())


def test_size_prints_every_column_in_every_layout(tmp_path: Path) -> None:
    commit_handmade(tmp_path / "data")
    out = benchmark("size", "--dataset", tmp_path / "data")
    # 4 + 6 + 2 + 2 response tokens.
    assert "4 examples, 14 response tokens, 3 shards, run base" in out
    lines = [line for line in out.splitlines() if re.search(r"( +\d+\.\d{3}){3}", line)]
    sizes = {line.split()[0]: line.split()[1:4] for line in lines}
    for name in ("response", "response_ids", "logprob", "examples", "tokens", "scores/base"):
        assert all(float(size) > 0 for size in sizes[name]), name
    assert "meta" not in sizes
    assert "rounded to 2^-16 nats would save" in out


def test_those_that_score_run_with_a_model_of_two_layers(
    tmp_path: Path, model_folder: Path
) -> None:
    out = benchmark("score_cpu", "--model", model_folder, "--n", 4)
    assert re.search(r"\(b\) pausedata.*tokens/s", out)
    out = benchmark("memory", "--model", model_folder, "--n", 2, "--shard-rows", 8)
    assert re.search(r"2 rows: [\d,]+ MiB; 20 rows: [\d,]+ MiB", out)


@pytest.mark.model
def test_size_builds_its_own_dataset() -> None:
    assert "2 examples" in benchmark("size", "--rows", 2, "--model", SMOLLM2)


def test_place_prints_every_strategy_beside_a_loop(tmp_path: Path) -> None:
    from pausedata import strategies

    out = benchmark("place", "--tokens", 6_000, "--folder", tmp_path)
    assert re.search(r"^in memory, lowest_logprob .* loop over sorted\(\) .*; ratio \d", out, re.M)
    assert re.search(r"^again: reading and writing alone .* M tokens/s$", out, re.MULTILINE)
    for name in strategies.own():
        assert re.search(rf"^{name} .* M tokens/s; ratio to the loop .*; to again \d", out, re.M)
    assert not list(tmp_path.iterdir())


def test_sql_prints_the_ratios_to_a_flat_file_and_uses_its_data_again(tmp_path: Path) -> None:
    """That both answer alike is what it asserts itself."""
    words = ("--tokens", 20_000, "--repeats", 1, "--folder", tmp_path / "kept")
    out = benchmark("sql", *words)
    assert "made the dataset" in out and "made the flat file" in out
    # 20 examples of 20 to 2,000 tokens, two of them in the second split.
    assert "20 examples, 2 shards" in out
    ratios = re.findall(r"(?:view|copy): [\d.]+ s, ratio [\d.]+, peak memory \d", out)
    assert len(ratios) == 6
    assert len(re.findall(r"geometric mean \d", out)) == 2
    assert "made the d" not in benchmark("sql", *words)


def test_cold_prints_the_ratios_of_cold_starts(tmp_path: Path) -> None:
    out = benchmark("cold", "--tokens", 4_000, "--starts", 1, "--folder", tmp_path / "kept")
    assert re.search(r"^4 examples, 1 shards; MB: examples \d", out, re.MULTILINE)
    assert re.search(r"^sql +[\d.]+ s, DuckDB alone [\d.]+ s, ratio \d", out, re.MULTILINE)
    for command in ("show", "place", "--help"):
        assert re.search(rf"^{command} +[\d.]+ s, import typer [\d.]+ s, ratio \d", out, re.M)


def test_a_flat_file_has_the_rows_of_the_view_in_its_order(tmp_path: Path) -> None:
    benchmarks = ROOT / "benchmarks"
    code = (
        "import sys; from pathlib import Path; import sql; folder = Path(sys.argv[1])\n"
        "sql.prepare(folder, 20_000)\n"
        "columns = 'id, split, run, pos, token_id, token, char_start, char_end, logprob, rank, '\n"
        "query = f'SELECT {columns} entropy FROM tokens'\n"
        "view, copy, flat = (sql.connect(folder, side)(query) for side in sql.SIDES)\n"
        "sql.check_equal(view, flat)\n"
        "sql.check_equal(copy, flat)\n"
        "print(len(flat), *flat[0][1:3], *flat[-1][1:3])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(benchmarks)},
    )
    assert done.returncode == 0, done.stderr
    rows, *ends = done.stdout.splitlines()[-1].split()
    assert int(rows) > 20 * 20 * 2  # 20 examples of at least 20 tokens, in two runs
    assert ends == ["train", "base", "test", "other"]


def test_export_prints_the_ratios_to_duckdb_and_to_a_loop(tmp_path: Path) -> None:
    out = benchmark("export", "--examples", 300, "--folder", tmp_path)
    assert "300 examples of 250 tokens" in out
    assert re.search(r"ratio to DuckDB \d+\.\d\d, to the loop \d+\.\d", out)
    assert re.search(r"peak memory \d+ MiB for a tenth of them, \d+ MiB for all", out)
    assert not list(tmp_path.iterdir())


def test_warmup_prints_every_line_and_makes_none_again(tmp_path: Path, model_folder: Path) -> None:
    source = ROOT / "recipes" / "data" / "word_problems.jsonl"
    words = ("--quick", "--model", model_folder, "--source", source, "--folder", tmp_path)
    out = benchmark("warmup", *words)
    scored = re.findall(r"^\| (.*?) \| -\d+\.\d\d \| \d+% \| \d+% \| [01]\.\d\d \|", out, re.M)
    assert len(scored) == 5 and scored[0] == "the model as it is"
    # The reference shares every place with itself.
    assert re.search(r"^\| the reference: full, 16 rows \|.*\| 1\.00 \|", out, re.MULTILINE)
    assert "training" not in json.loads((tmp_path / "gsm8k-quick" / "base.json").read_text())
    again = benchmark("warmup", *words)
    assert "step" not in again
    assert re.findall(r"^\| .*", again, re.MULTILINE) == re.findall(r"^\| .*", out, re.MULTILINE)


def test_gate_error_rate_prints_a_row_for_each_shape_and_verdict() -> None:
    printed = benchmark("gate_error_rate", "--tries", 40, "--examples", 200)
    assert "from the n-th example on" in printed and "clusters of five" in printed
    for verdict in ("go", "no-go", "once"):
        rows = re.findall(rf"^  {verdict} +(.*)$", printed, re.M)
        assert len(rows) == 10 and all(0 <= float(v) <= 1 for row in rows for v in row.split())
    # Of 5 % that lose much, twenty examples often hold none: a go too early, and rarely at 100.
    few = printed.split("5 % lose much")[1].splitlines()[1].split()[1:]
    assert float(few[0]) > 0.1 > float(few[2])
    assert re.search(r"^  50% right +0\.\d+", printed, re.M)
