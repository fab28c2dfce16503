"""How a dataset on the Hub is named: ``ORG/NAME``, or ``hf://ORG/NAME@REV`` in a folder's place."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pausedata.core.errors import UsageError
from pausedata.core.network import COMMIT
from pausedata.core.progress import Progress

SCHEME = "hf://"
_ID = re.compile(r"[A-Za-z0-9_]([\w.-]{0,94}\w)?/[A-Za-z0-9_]([\w.-]{0,94}\w)?", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9_][\w./-]{0,199}", re.ASCII)


@dataclass(frozen=True)
class Reference:
    """A repository of the Hub, and a branch, tag or commit of it (None: main)."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return SCHEME + self.repo + (f"@{self.revision}" if self.revision else "")


def is_repo(text: str) -> bool:
    """Whether ``text`` is an id of the Hub's, of a model or a dataset."""
    return bool(_ID.fullmatch(text)) and ".." not in text and "--" not in text


def checked_repo(text: str) -> str:
    """``ORG/NAME``; UsageError for anything else."""
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
    """The name of a tag; UsageError for what is none, or stands for something else."""
    if text is None:
        return default
    name = checked_revision(text)
    if name in ("main", "HEAD") or name.startswith("refs/") or COMMIT.fullmatch(name):
        raise UsageError(f"--tag '{text}': that names something else already. Give another.")
    return name


def reference(text: str | Path) -> Reference | None:
    """What ``hf://ORG/NAME[@REV]`` names; None where ``text`` is a path of this machine."""
    # A Path has but one of the slashes left.
    match = re.fullmatch(r"hf:/{1,2}(.*)", str(text))
    if match is None:
        return None
    repo, at, revision = match[1].partition("@")
    return Reference(checked_repo(repo), checked_revision(revision) if at else None)


def located(path: str | Path, progress: Callable[[], Progress] | None = None) -> Path:
    """The folder of a dataset; of one on the Hub (``hf://…``) that of its copy in the cache."""
    named = reference(path)
    if named is None:
        return Path(path)
    from pausedata.hub.cached import local_copy

    return local_copy(named, progress() if progress else None)
