"""What long work shows, what is left of it under --quiet, and how it stops."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main
from conftest import Recipe, Run, held_scoring, make_model, start, wait_until

from pausedata.cli.app import app
from pausedata.cli.render.progress import draws
from pausedata.cli.words import without_everywhere
from pausedata.core import stopping
from pausedata.store.dataset import open_version

PLACE = ("--strategy", "lowest_logprob", "--param", "positions=2")


@pytest.fixture
def built(built: Recipe) -> Path:
    """A dataset of three shards."""
    return built.out


# Ctrl-C.


def staged(recipe: Recipe) -> list[Path]:
    return sorted(recipe.out.glob("staging/scores-base-*/records/scores/base/*.json"))


def stopped_in_scoring(recipe: Recipe, times: int) -> tuple[int, str, int, int]:
    """Press Ctrl-C while the second of three shards is scored: status, words, shards then, later.

    A second time once the first was heard; else the shard's scoring ends then.
    """
    go = recipe.folder / "go"
    process = start("build", recipe.write(), first=held_scoring(go, after=1))
    assert process.stderr is not None
    wait_until(lambda: (recipe.folder / "held").exists() and staged(recipe), process)
    before = len(staged(recipe))
    process.send_signal(signal.SIGINT)
    heard = ""
    while stopping.STOPPING not in heard:
        heard += (line := process.stderr.readline())
        assert line, heard
    if times == 2:
        process.send_signal(signal.SIGINT)
    else:
        go.touch()
    _, rest = process.communicate(timeout=300)
    return process.returncode, heard + rest, before, len(staged(recipe))


@pytest.mark.processes
def test_ctrl_c_waits_until_the_shard_under_way_is_kept_and_says_how_to_go_on(
    recipe: Recipe, run: Callable[..., Run]
) -> None:
    status, said, before, after = stopped_in_scoring(recipe, 1)
    assert status == 130 and "Traceback" not in said
    assert said.index(stopping.STOPPING) < said.index("error: interrupted")
    assert after == before + 1 == 2
    # What it says can be pasted, and does the rest.
    told = re.search(
        r"^error: interrupted; finished shards are kept\. To go on: pausedata (.+)$", said, re.M
    )
    assert told and shlex.split(told[1]) == ["build", str(recipe.path)]
    done = run(*shlex.split(told[1]))
    assert done.status == 0 and "2 of 3 shards were scored before and are kept" in done.err


@pytest.mark.processes
def test_ctrl_c_twice_stops_now_and_what_was_under_way_is_lost(recipe: Recipe) -> None:
    status, said, before, after = stopped_in_scoring(recipe, 2)
    assert status == 130 and "Traceback" not in said
    assert after == before == 1
    assert "finished shards are kept" in said


@pytest.mark.processes
def test_where_there_is_nothing_to_wait_for_ctrl_c_stops_at_once_and_says_what_is_true(
    built: Path,
) -> None:
    for words, told in (
        (("verify", built), "error: interrupted; nothing was changed."),
        (("stats", built), "error: interrupted; nothing was changed."),
        (
            ("place", built, "a", *PLACE),
            "error: interrupted; the dataset is whole. To begin again: pausedata place "
            f"{shlex.quote(str(built))} a --strategy lowest_logprob --param positions=2",
        ),
    ):
        held = (
            "import time, pausedata.store.dataset as d, pausedata.store.shards as s\n"
            "def slow(*a, **k): print('here', flush=True); time.sleep(60)\n"
            "d.Table.read = slow"
        )
        if words[0] == "verify":
            held = held.replace("d.Table.read", "import pausedata.analysis.verify as v; v.verify")
        if words[0] == "place":  # while it waits for another process, as at any step between
            held = held.replace(
                "d.Table.read", "import pausedata.pipeline.commands as c; c.when_free"
            )
        process = start(*words, first=held)
        assert process.stdout is not None and process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 130, said
        assert said.splitlines()[-1] == told and stopping.STOPPING not in said


@pytest.mark.processes
def test_placing_stops_after_a_shard_and_leaves_the_version_as_it_was(built: Path) -> None:
    held = (
        "import time, pausedata.strategies as s, pausedata.core.stopping as stopping\n"
        "def slow(*a, place=s.place, **k):\n"
        "    print('here', flush=True)\n"
        "    while not stopping.asked(): time.sleep(0.02)\n"
        "    return place(*a, **k)\n"
        "s.place = slow"
    )
    process = start("place", built, "late", *PLACE, first=held)
    assert process.stdout is not None and process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=60)
    assert process.returncode == 130 and stopping.STOPPING in said
    assert out == ""  # the shard under way was the last that was begun
    assert open_version(built).number == 1
    assert list(built.glob("staging/placements-late-*/placements/late/*.parquet"))


@pytest.mark.processes
def test_who_is_started_to_ignore_ctrl_c_ignores_it(recipe: Recipe) -> None:
    ignoring = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    go = recipe.folder / "go"
    process = start("build", recipe.write(), first=ignoring + held_scoring(go))
    wait_until((recipe.folder / "held").exists, process)
    process.send_signal(signal.SIGINT)
    go.touch()
    assert process.wait(300) == 0


def test_a_library_user_keeps_python_s_own_ctrl_c() -> None:
    handler = signal.getsignal(signal.SIGINT)
    with stopping.graceful_shutdown():
        stopping.raise_if_stopped()
        assert signal.getsignal(signal.SIGINT) is handler
    assert not stopping.asked()


# --quiet, --verbose, --log-file.


def test_quiet_leaves_standard_output_as_it_is_and_says_nothing_else(
    built: Path, run: Callable[..., Run]
) -> None:
    loud, quiet = run("stats", built, "--json"), run("stats", built, "--json", "--quiet")
    assert quiet.out == loud.out and quiet.out
    assert run("--quiet", "stats", built).err == ""
    placed = run("place", built, "a", *PLACE, "--quiet")
    assert (placed.status, placed.out, placed.err) == (0, "", "")
    wrong = run("place", built, "a", "--strategy", "append", "--param", "tokens=2", "--quiet")
    assert wrong.status == 2 and wrong.err.startswith("error: placements/a is there already")
    none = run(
        "place", built, "b", "--strategy", "threshold", "--param", "logprob=-1000", "--quiet"
    )
    assert none.status == 0 and none.err.startswith("warning: placements/b has no pause at all")
    assert len(none.err.splitlines()) == 1


def test_quiet_and_verbose_exclude_each_other(built: Path, run: Callable[..., Run]) -> None:
    for words in (
        ("--quiet", "stats", built, "--verbose"),
        ("stats", built, "--verbose", "--quiet"),
    ):
        both = run(*words)
        assert both.status == 2 and "--quiet and --verbose: give one" in both.err


def test_verbose_tells_versions_folders_shards_and_where_things_go(
    built: Path, run: Callable[..., Run]
) -> None:
    plain = run("place", built, "a", *PLACE)
    more = run("--verbose", "place", built, "b", *PLACE)
    assert "3 of 3 shards done, the last in" in more.err
    assert "versions: Python" in more.err and f"cache {os.environ['PAUSEDATA_CACHE']}" in more.err
    assert re.search(
        rf"^placements/b: reads tokens, scores/base; writes to {re.escape(str(built))}/staging/",
        more.err,
        re.M,
    )
    assert "versions:" not in plain.err and "shards done" not in plain.err
    assert "placing a: 12 examples in 3 shards" in plain.err


def test_a_log_has_all_that_verbose_tells_with_times_also_under_quiet(
    built: Path, tmp_path: Path, run: Callable[..., Run]
) -> None:
    log = tmp_path / "a log.txt"
    log.write_text("what was there\n")
    assert run("place", built, "a", *PLACE, "--quiet", "--log-file", log).err == ""
    wrong = run("--log-file", log, "place", built, "a", "--strategy", "nothing")
    assert wrong.status == 2
    first, *lines = log.read_text().splitlines()
    assert first == "what was there"
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} ", line) for line in lines)
    text = "\n".join(line[25:] for line in lines)
    assert "pausedata place out a --strategy lowest_logprob --param positions=2" in text
    for told in ("versions: Python", "placing a: 3 of 3 shards done", "try: pausedata show"):
        assert told in text
    assert "error: " in text and wrong.err.splitlines()[-1] in text
    assert re.findall(r"^ended with status (\d)", text, re.M) == ["0", "2"]


def test_a_log_that_cannot_be_written_is_an_error_before_any_work(
    built: Path, tmp_path: Path, run: Callable[..., Run]
) -> None:
    for path in (tmp_path, tmp_path / "none" / "log.txt"):
        wrong = run("place", built, "a", *PLACE, "--log-file", path)
        assert wrong.status == 2 and f"--log-file {path}: " in wrong.err
    assert open_version(built).number == 1


def test_a_log_has_no_secret(
    built: Path, tmp_path: Path, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    key, own = "hf_" + "a1B2" * 9, "what-my-server-wants-to-hear"
    monkeypatch.setenv("VLLM_API_KEY", own)
    log = tmp_path / "log.txt"
    strategy = f"{key}-{own}"
    wrong = run("place", built, "a", "--strategy", strategy, "--log-file", log)
    assert wrong.status == 2 and own in wrong.err  # on the terminal a person sees what they typed
    text = log.read_text()
    assert key not in text and own not in text and "[a secret]" in text


def test_the_recorded_command_does_not_say_how_it_was_to_talk(
    built: Path, tmp_path: Path, run: Callable[..., Run]
) -> None:
    log = tmp_path / "log.txt"
    words = ("--log-file", log, "place", built, "a", *PLACE, "--quiet", f"--log-file={log}")
    assert run(*words).status == 0
    command = open_version(built).manifest.command
    assert command == "place out a --strategy lowest_logprob --param positions=2"
    assert str(tmp_path).encode() not in (built / "current" / "manifest.json").read_bytes()


def test_an_option_s_value_that_looks_like_one_of_them_is_kept() -> None:
    words = ["--debug", "push", "d", "o/n", "--message", "--quiet", "--verbose", "--log-file", "x"]
    commands = typer.main.get_command(app)
    assert without_everywhere(words, commands) == ["push", "d", "o/n", "--message", "--quiet"]
    before = ["--log-file", "place", "stats", "d", "--debug"]
    assert without_everywhere(before, commands) == ["stats", "d"]
    text = ["show", "d", "--", "--debug"]
    assert without_everywhere(text, commands) == text


def test_every_command_takes_them_behind_its_name(run: Callable[..., Run]) -> None:
    from pausedata.cli.app import app

    group: Any = typer.main.get_command(app)
    for command in group.commands:
        help = run(command, "--help").out
        assert all(option in help for option in ("--quiet", "--verbose", "--log-file", "--debug"))


# The summary.


def tries(said: str) -> list[list[str]]:
    """The words of the commands that were printed to be tried."""
    return [shlex.split(line) for line in re.findall(r"^ *try: (.+)$", said, re.M)]


def test_the_commands_to_try_work_as_they_stand(
    recipe: Recipe, tmp_path: Path, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a folder whose name has a space and a quote, with an id that looks like an option."""
    monkeypatch.chdir(tmp_path)  # one of them writes a page into the current folder
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    lines = [json.dumps(row | {"name": f"--row {k}"}) for k, row in enumerate(rows)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    recipe.data["source"]["id"] = "name"
    recipe.data["exports"] = {}
    root = tmp_path / "it's mine"
    built = run("build", recipe.write(), "--output", root)
    other = make_model(tmp_path / "epoch-1", seed=1)
    scored = run("score", root, "--run", "epoch-1", "--model", other)
    placed = run("place", root, "three", *PLACE)
    made = run("export", root, "--placement", "three", "--format", "tokenized")
    outside = run(
        *("export", root, "--placement", "dit", "--format", "tokenized"),
        *("-o", tmp_path / "to train" / "rows.jsonl"),
    )
    for done in (built, scored, placed, made, outside):
        assert done.status == 0, done.err
        commands = tries(done.err)
        assert commands and any(str(root) in words for words in commands)
        for program, *words in commands:
            if program == "cat":
                assert Path(words[0]).read_text()
                continue
            assert program == "pausedata"
            tried = run(*words)
            assert tried.status == 0, (words, tried.err)
    assert ["pausedata", "show", str(root), "--placement", "three", "--", "--row 0"] in tries(
        placed.err
    )
    assert ["pausedata", "diff", str(root), "scores/base", "scores/epoch-1"] in tries(scored.err)


def test_the_summary_says_where_each_thing_is(recipe: Recipe, run: Callable[..., Run]) -> None:
    said = run("build", recipe.write()).err
    found = dict(re.findall(r"^  made     (\S+) .*  (/\S+)$", said, re.M))
    assert set(found) == set(open_version(recipe.out).tables)
    assert all(Path(path).exists() for path in found.values())
    assert Path(found["exports/dit-tokenized"]).is_file()


# Terminals, notebooks, CI.


def on_terminal(columns: int, *words: object, **environment: str) -> str:
    """What a command writes to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    own = {k: v for k, v in os.environ.items() if k not in ("CI", "COLUMNS", "JPY_PARENT_PID")}
    process = subprocess.Popen(
        [sys.executable, "-m", "pausedata", *map(str, words)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=own | {"TERM": "xterm-256color"} | environment,
    )
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 4096):
            said += part
    except OSError:  # Linux's way to say that the other end was closed
        pass
    os.close(ours)
    assert process.wait(60) == 0, said
    return said.decode()


def drawn(said: str) -> list[str]:
    """The lines as they stand at the end: without colours, each redrawn one once."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said)
    return [line.rstrip("\r").rpartition("\r")[2] for line in plain.split("\n")]


@pytest.mark.processes
@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_step_is_one_line_of_any_terminal(built: Path, columns: int) -> None:
    said = on_terminal(columns, "place", built, "a", *PLACE)
    steps = [line for line in drawn(said) if line.startswith("placing a ")]
    assert len(steps) == 1 and len(steps[0]) <= columns
    for told in ("100%", "3/3", "examples/s", "0:00:0", "left"):
        assert told in steps[0]
    assert "\x1b[1A" not in said  # never up: a line that was too long would be drawn again


@pytest.mark.processes
@pytest.mark.parametrize(
    "where",
    [{"CI": "1"}, {"CI": "true", "FORCE_COLOR": "1"}, {"TERM": "dumb"}, {"JPY_PARENT_PID": "7"}],
)
def test_ci_and_notebooks_get_plain_lines_even_on_a_terminal(
    built: Path, where: dict[str, str]
) -> None:
    said = on_terminal(100, "place", built, "a", *PLACE, **where)
    assert "\x1b" not in said and "\r" not in said.replace("\r\n", "\n")
    assert "placing a: 12 examples in 3 shards" in said


def test_what_is_piped_has_no_control_characters_whatever_the_colours(
    built: Path, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    said = run("place", built, "a", *PLACE).err
    assert "\x1b" not in said and "\r" not in said and "placing a: 12 examples" in said


def test_which_terminals_can_be_drawn_on() -> None:
    assert draws({"TERM": "xterm"}) and draws({"TERM": "screen", "CI": "false"})
    assert not draws({"TERM": "xterm", "CI": "1"}) and not draws({})


def test_a_plain_line_tells_shards_pace_elapsed_and_left(monkeypatch: Any) -> None:
    from pausedata.cli.render import progress

    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    said: list[str] = []
    with progress.Lines(said.append).step("scoring base", 12_000, "tokens", 12) as advance:
        clock[0] += 20
        advance(3_000, 3)
        clock[0] += 60
        advance(9_000, 9)
    assert said == [
        "scoring base: 12,000 tokens in 12 shards",
        # 3,000 in 20 s are 150 a second; the 9,000 that are left take 60 s.
        "scoring base: 3,000 of 12,000 tokens, 3 of 12 shards, 150 tokens/s, 20 s elapsed, "
        "60 s left",
        "scoring base: 12,000 of 12,000 tokens, 12 of 12 shards, 150 tokens/s, 80 s elapsed, "
        "0.0 s left",
        "scoring base: 12,000 tokens in 80 s, 150 tokens/s",
    ]
