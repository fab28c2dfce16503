"""What ``push`` and ``pull`` did, in words and for programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pausedata.cli.render.gc import size
from pausedata.cli.render.next_steps import dataset_word, next_commands

if TYPE_CHECKING:
    from pausedata.hub.pull import Pulled
    from pausedata.hub.push import Pushed


def describe_push(pushed: Pushed) -> list[str]:
    """What was sent; of a dry run every file that would be."""
    dry = pushed.commit is None and pushed.pull_request is None
    seen = "private" if pushed.private else "public"
    lines = []
    if dry:
        lines += [f"{item.bytes:>15,}  {item.path}" for item in pushed.send]
        lines += [f"{'delete':>15}  {path}" for path in pushed.delete]
        new = f"a new {seen} repository" if pushed.new else seen
        lines.append(f"{pushed.repo} ({new}): {_sent(pushed, 'to send')}")
        lines.append("nothing was sent: --dry-run")
        return lines
    lines.append(f"{pushed.repo} ({seen}): version {pushed.version}, {_sent(pushed, 'sent')}")
    if pushed.pull_request is not None:
        lines.append(f"pull request: {pushed.pull_request}")
        return lines
    if pushed.tag is None:
        lines.append("nothing to propose: the repository holds it all")
        return lines
    lines.append(f"commit {str(pushed.commit)[:12]}, tag {pushed.tag}")
    folder = pushed.repo.rpartition("/")[2]
    if Path(folder).exists():  # the command is to work as it stands
        folder += f"-{pushed.tag}"
    lines.append(f"try: pausedata pull {pushed.repo} {folder} --revision {pushed.tag}")
    return lines


def push_json(pushed: Pushed) -> dict[str, Any]:
    """The same for programs."""
    return {
        "repo": pushed.repo,
        "version": pushed.version,
        "commit": pushed.commit,
        "pull_request": pushed.pull_request,
        "tag": pushed.tag,
        "private": pushed.private,
        "new": pushed.new,
        "files": [{"path": item.path, "bytes": item.bytes} for item in pushed.send],
        "bytes": pushed.bytes,
        "deleted": pushed.delete,
        "kept": pushed.kept,
        "warnings": pushed.warnings,
    }


def describe_pull(pulled: Pulled, folder: Path) -> list[str]:
    """What came, what did not, and what to try."""
    count = f"{pulled.fetched_files:,} file{'' if pulled.fetched_files == 1 else 's'}"
    lines = [
        f"{folder}: version {pulled.version.number} of commit {pulled.commit[:12]}, "
        f"{count} fetched ({size(pulled.fetched_bytes)})",
        f"  tables   {', '.join(pulled.tables) or 'none'}",
    ]
    if pulled.absent:
        lines.append(f"  absent   {', '.join(pulled.absent)}")
    if {"examples", "tokens", "vocab"} <= set(pulled.tables):
        here = [name for name in pulled.tables if name not in pulled.absent]
        commands = next_commands(folder, pulled.version, [n for n in here if "/" in n])
        lines += [f"  try: {command}" for command in commands[:1]]
        lines.append(f"  try: pausedata stats {dataset_word(folder)}")
    return lines


def pull_json(pulled: Pulled) -> dict[str, Any]:
    """The same for programs."""
    return {
        "version": pulled.version.number,
        "commit": pulled.commit,
        "tables": pulled.tables,
        "absent": pulled.absent,
        "files": pulled.fetched_files,
        "bytes": pulled.fetched_bytes,
    }


def _sent(pushed: Pushed, word: str) -> str:
    count = len(pushed.send)
    there = f", {pushed.kept:,} there already" if pushed.kept else ""
    gone = f", {len(pushed.delete):,} deleted" if pushed.delete else ""
    return f"{count:,} file{'' if count == 1 else 's'} {word} ({size(pushed.bytes)}){there}{gone}"
