"""CONTRIBUTING.md is true: its map is the folders, its paragraphs add what they say they add."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Recipe
from handmade import commit_handmade

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_map_is_the_list_of_folders() -> None:
    table = TEXT.partition("| `pausedata/` | |")[2].partition("\n\n")[0]
    named = [name for row in table.splitlines() for name in re.findall(r"`(\w+)/`", row[:40])]
    rooms = {path.parent.name for path in (ROOT / "pausedata").glob("*/__init__.py")}
    assert set(named) == rooms and len(named) == len(rooms)


def paragraph(title: str) -> str:
    return TEXT.partition(f"### {title}\n")[2].partition("\n### ")[0]


def follow(title: str, source: Path) -> None:
    """Do what a paragraph says, in a copy of the code."""
    steps = re.findall(r"`(pausedata/[\w/]+\.py)`:\n\n```(\w+)\n(.*?)```", paragraph(title), re.S)
    assert [kind for _, kind, _ in steps] == ["python", "diff"]
    for name, kind, content in steps:
        path = source / name
        path.write_text(content if kind == "python" else patched(path.read_text(), content))


def patched(text: str, diff: str) -> str:
    """``text`` with each line that is added in ``diff`` behind the line that stands before it."""
    lines = diff.splitlines()
    for before, line in itertools.pairwise(lines):
        if line.startswith("+"):
            assert text.count(f"\n{before[1:]}\n") == 1, before
            text = text.replace(f"\n{before[1:]}\n", f"\n{before[1:]}\n{line[1:]}\n")
    return text


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the code."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "pausedata", tmp_path / "pausedata", ignore=ignored)
    return tmp_path


def pausedata(source: Path, *words: str) -> str:
    """A command of the copy, which is found first where it is the folder that one stands in."""
    ended = subprocess.run(
        [sys.executable, "-m", "pausedata", *words],
        cwd=source,
        capture_output=True,
        text=True,
        env=os.environ | {"NO_COLOR": "1", "COLUMNS": "100"},
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_strategy_is_added_as_the_paragraph_says(source: Path) -> None:
    follow("A strategy", source)
    commit_handmade(source / "data")  # responses of 4, 6, 2 and 2 tokens
    assert "before_last" in pausedata(source, "strategies")
    pausedata(source, "place", "data", "new", "--strategy", "before_last")
    query = "select id, position, count from placements where placement = 'new' order by id"
    found = pausedata(source, "sql", "data", query, "--format", "jsonl")
    assert [json.loads(line)["position"] for line in found.splitlines()] == [[3], [5], [1], [1]]


@pytest.mark.processes
def test_an_exporter_is_added_as_the_paragraph_says(
    source: Path, built: Recipe, model_folder: Path
) -> None:
    follow("An exporter", source)
    assert "plain-text" in pausedata(source, "formats")
    words = (
        "export",
        str(built.out),
        "--name",
        "texts",
        "--placement",
        "dit",
        "--format",
        "plain-text",
    )
    pausedata(source, *words, "--allow-unmasked", "--tokenizer", str(model_folder))
    rows = [
        json.loads(line)
        for path in (built.out / "current" / "exports" / "texts").glob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert len(rows) == 12 and all("[PAUSE]" in row["text"] for row in rows)
