"""How a dataset on the Hub is named: ``ORG/NAME``, or ``hf://ORG/NAME@REV`` in a folder's place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pausedata.core.cache import cache_folder
from pausedata.core.errors import UsageError
from pausedata.core.network import COMMIT, is_repo

SCHEME = "hf://"
_REVISION = re.compile(r"[A-Za-z0-9_][\w./-]{0,199}", re.ASCII)


@dataclass(frozen=True)
class HubReference:
    """A repository of the Hub, and a branch, tag or commit of it (None: main)."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return SCHEME + self.repo + (f"@{self.revision}" if self.revision else "")


def checked_repo(text: str) -> str:
    """``ORG/NAME``, without ``hf://`` and ``datasets/``; UsageError for anything else."""
    repo = text.removeprefix(SCHEME).removeprefix("datasets/")
    if not is_repo(repo) or repo.endswith(".git"):
        raise UsageError(f"'{text}' names no repository of the Hub: write ORG/NAME.")
    return repo


def checked_revision(text: str) -> str:
    """A branch, tag or commit; UsageError for what git would not take as one."""
    if not _REVISION.fullmatch(text) or re.search(r"\.\.|//|/\.|\.lock(/|$)|[/.]$", text):
        raise UsageError(f"'{text}' names no branch, tag or commit.")
    return text


def checked_tag(text: str | None, default: str) -> str:
    """``text``, or ``default`` for None; UsageError for a name that a tag cannot have."""
    if text is None:
        return default
    name = checked_revision(text)
    if name in ("main", "HEAD") or name.startswith("refs/") or COMMIT.fullmatch(name):
        raise UsageError(f"--tag '{text}': that names something else already. Give another.")
    return name


def reference(text: str | Path) -> HubReference | None:
    """What ``hf://ORG/NAME[@REV]`` names; None where ``text`` is a path of this machine."""
    # Of the two slashes a Path keeps one.
    match = re.fullmatch(r"hf:/{1,2}(.*)", str(text))
    if match is None:
        return None
    repo, at, revision = match[1].partition("@")
    return HubReference(checked_repo(repo), checked_revision(revision) if at else None)


def is_cached(root: Path) -> bool:
    """Whether ``root`` is a copy in the cache of a dataset on the Hub."""
    return root.absolute().parent.parent == cached_folder()


def cached_folder() -> Path:
    """Where copies of datasets of the Hub are."""
    return cache_folder() / "hub"
