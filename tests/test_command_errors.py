"""A slip in a command line is told in a line: what, and the nearest right thing."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
import typer.main

from pausedata.cli.app import app

GROUP: Any = typer.main.get_command(app)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "biuld x.yaml",
            "no command 'biuld'. Did you mean 'build'? `pausedata --help`",
        ),
        ("zzzzzz", "no command 'zzzzzz'. `pausedata --help` lists them."),
        (
            "--quite build x",
            "no option '--quite'. Did you mean '--quiet'?",
        ),
        ("show d --placment x", "no option '--placment'. Did you mean '--placement'?"),
        ("show d --placment=x", "no option '--placment'. Did you mean '--placement'?"),
        ("show", "missing argument 'DATASET'. Example: pausedata show build/gsm8k --placement dit"),
        ("place d name", "missing option '--strategy'. Example: pausedata place"),
        ("show d --n many", "invalid value for '-n' / '--n'"),
        ("show d --n 0", "invalid value for '-n' / '--n': "),
        ("show d a b", "got unexpected extra argument"),
        ("show d --placement", "option '--placement' requires an argument"),
        ("show --json", "missing argument 'DATASET'"),
    ],
)
def test_a_slip_is_told_in_one_line(run, words, said):
    done = run(*words.split())
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"error: {said}") and done.err.count("\n") == 1


def test_without_a_command_its_help_is_shown(run):
    done = run()
    assert "Commands:" in done.out + done.err
    assert "Example: pausedata build recipes/quickstart.yaml" in done.out + done.err


def examples() -> list[tuple[str, str]]:
    """Every example in a help text, of a command or of all."""
    found = []
    for name, command in [("", GROUP), *GROUP.commands.items()]:
        _, *parts = (command.help or "").split("Example: ")
        found += [(name, part.partition("\n\n")[0].replace("\n", " ").strip()) for part in parts]
    return found


def test_every_help_text_has_an_example():
    assert {name for name, _ in examples()} == {"", *GROUP.commands}


@pytest.mark.parametrize(("name", "line"), examples())
def test_the_examples_are_commands_that_exist(name, line):
    program, *words = shlex.split(line.partition(" > ")[0])
    assert program == "pausedata"
    if name:
        assert words[0] == name
    command = GROUP.commands[words[0]]
    with command.make_context(words[0], words[1:]) as context:  # it would fail here
        assert context.params
