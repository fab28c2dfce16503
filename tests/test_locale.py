"""Names of folders that are not ASCII, in every locale; a home folder that is not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_dataset import make_dataset

NAME = "dät ä 数据"
# ASCII, and neither Python's UTF-8 mode nor the locale that it would take instead.
ASCII = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def pausedata(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A command as a person starts it, with hardly anything in its environment."""
    env = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"} | environment
    return subprocess.run([sys.executable, "-m", "pausedata", *words], env=env, capture_output=True)


@pytest.mark.processes
@pytest.mark.parametrize("environment", [ASCII, {"LC_ALL": "C.UTF-8"}], ids=["ASCII", "UTF-8"])
def test_a_folder_with_a_name_that_is_not_ascii(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    root = tmp_path / NAME
    make_dataset(root)
    environment = environment | {"HOME": str(tmp_path / "no such home")}
    for words in (
        ["show", root, "e1", "--placement", "three"],
        ["sql", root, "select min(response) from examples", "-o", root.with_name("Öl.csv")],
        ["place", root, "more", "--strategy", "random", "--param", "positions=1"],
        ["report", root, "-o", root.with_name("数.html")],
        ["verify", root],
    ):
        done = pausedata(*words, **environment)
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False), (words, done.stderr)
    assert root.with_name("Öl.csv").is_file() and root.with_name("数.html").is_file()
    # Recorded as it is called, not as the locale spells it.
    assert NAME in (root / "versions/0002/manifest.json").read_text(encoding="utf-8")


def test_what_is_printed_stays_in_the_locale_s_encoding(tmp_path: Path) -> None:
    make_dataset(tmp_path / "small")
    query = ["sql", tmp_path / "small", "select response from examples where id = 'e2'"]
    assert pausedata(*query, LC_ALL="C.UTF-8").stdout.decode("utf-8").endswith(" 🙂.\n")
    printed = pausedata(*query, **ASCII)
    assert printed.returncode == 0
    assert printed.stdout.decode("ascii").endswith(" \\U0001f642.\n")


@pytest.mark.parametrize("width", [{}, {"TTY_COMPATIBLE": "1"}], ids=["a pipe", "a terminal"])
def test_a_table_s_rule_is_of_what_the_encoding_has(tmp_path: Path, width: dict[str, str]) -> None:
    make_dataset(tmp_path / "small")
    query = ["sql", tmp_path / "small", "select count(*) as rows from examples"]
    for environment, rule in (({"LC_ALL": "C.UTF-8"}, "────"), (ASCII, "----")):
        printed = pausedata(*query, **environment, **width, NO_COLOR="1")
        assert printed.stdout.decode().splitlines()[1] == rule
    wide = [*query[:2], "select prompt, response, prompt as a, response as b from examples limit 1"]
    printed = pausedata(*wide, **ASCII, TTY_COMPATIBLE="1", NO_COLOR="1", COLUMNS="20")
    assert printed.stdout.decode().splitlines()[0] == f"-- 1 {'-' * 15}"


def test_python_is_started_again_once_at_most() -> None:
    # Who turns UTF-8 mode off on Python's own command line has the last word.
    command = [sys.executable, "-X", "utf8=0", "-m", "pausedata", "--help"]
    env = {"PATH": os.environ["PATH"], "LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(command, env=env, capture_output=True, timeout=60)
    assert done.returncode == 0 and b"Usage" in done.stdout


def test_a_name_that_is_not_utf_8_is_refused_by_name(tmp_path: Path) -> None:
    root = tmp_path / os.fsdecode(b"l\xe4t")
    try:
        make_dataset(tmp_path / "small").root.rename(root)
    except OSError:
        pytest.skip("this file system takes names in UTF-8 alone")
    done = pausedata("show", root, "e1", LC_ALL="C.UTF-8")
    assert done.returncode == 1
    assert "l?t" in done.stderr.decode() and "not UTF-8. Rename" in done.stderr.decode()
