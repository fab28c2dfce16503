"""Write docs/cli.md from the command line's own help.

    python scripts/make_cli_docs.py            write it
    python scripts/make_cli_docs.py --check    exit 1 where it is not what would be written

The help is laid out by Typer, so that another release of Typer can word it otherwise.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from generated import write_or_check

from pausedata.cli.app import app

TARGET = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
WIDTH = 80
HEAD = """\
# The command line

<!-- Made by `make docs` from the help of the commands. Edit the help, not this file. -->

Exit status: 0 done; 1 the data or a check failed; 2 the command, the recipe or an argument is \
wrong; 130 interrupted, 143 terminated, with all finished shards kept.

Long work shows the step, its shards, the pace, and the time that went and is left: a bar on a \
terminal, plain lines in a pipe, in CI (`CI`, `TERM=dumb`) and in a notebook. At the end it says \
what was made, where, and what to try next. `--quiet`, `--verbose`, `--log-file` and `--debug` may \
stand before the command or after it; no manifest records them. `--quiet` leaves out all but \
warnings and errors, and changes nothing on standard output. `--log-file` appends, also under \
`--quiet`; secrets are masked there.

Ctrl-C stops where nothing is lost: while shards are scored, placed or exported, and files fetched \
or sent, it waits until what is under way is kept; elsewhere it stops at once. A second Ctrl-C \
waits for no more than the batch, or the files on the network, that it comes in. What is left, \
and the command that goes on, is said at the end.

Results go to standard output, progress and messages to standard error. With `--json` a command \
prints one JSON document on standard output and nothing else there.
"""


def render() -> str:
    """The whole of docs/cli.md."""
    parts = [HEAD]
    for names, text in pages():
        parts.append(f"## {' '.join(names)}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def pages() -> Iterator[tuple[list[str], str]]:
    """Each command's name, as words, with its help: the application first, then its commands."""
    yield from _walk(typer.main.get_command(app), None, ["pausedata"])


def _walk(command: Any, parent: Any, names: list[str]) -> Iterator[tuple[list[str], str]]:
    # Typer carries a Click of its own in some releases: the command says which Context is its.
    context = command.context_class(
        command,
        info_name=names[-1],
        parent=parent,
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        color=False,
        **command.context_settings,
    )
    with context:
        text = command.get_help(context)
    yield names, "\n".join(line.rstrip() for line in text.strip().splitlines())
    for name, child in getattr(command, "commands", {}).items():
        if not child.hidden:
            yield from _walk(child, context, [*names, name])


def main() -> int:
    """Write, or check, docs/cli.md."""
    return write_or_check(TARGET, render, __doc__ or "", "the commands' help says")


if __name__ == "__main__":
    sys.exit(main())
