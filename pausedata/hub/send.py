"""Sending: the bytes first, in groups, and then one commit that names them all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pausedata.core import stopping
from pausedata.core.errors import ConflictError
from pausedata.core.progress import Progress
from pausedata.hub.client import LONGEST_WAIT_S, Commit, HubUnavailableError, Repository
from pausedata.hub.remote_state import There
from pausedata.hub.snapshot import snapshot
from pausedata.store.dataset import Version

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

# What was sent stays there when the next group fails.
_GROUP_BYTES = 256 << 20
_GROUP_FILES = 64
_TRIES = 5  # of a commit whose answer was lost


@dataclass
class UploadPlan:
    """What has to be sent, by path, and what goes."""

    adds: dict[str, Path | bytes] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    sha256s: dict[str, str] = field(default_factory=dict)
    delete: list[str] = field(default_factory=list)
    kept: int = 0

    def add(self, path: str, content: Path | bytes, size: int, sha256: str) -> None:
        """Send a file."""
        self.adds[path], self.sizes[path], self.sha256s[path] = content, size, sha256


def send(
    repository: Repository,
    version: Version,
    there: There,
    plan: UploadPlan,
    *,
    public: bool,
    pr: bool,
    message: str,
    progress: Progress,
) -> tuple[str, str | None]:
    """The commit that holds the version now, and the address of a pull request."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    head = there.head
    if head is None:
        repository.create(private=not public)
        head = repository.commit_of(None)
        if not public and not head.private:
            raise ConflictError(
                f"{repository.repo} appeared meanwhile, and is public. Nothing was sent."
            )
    if not plan.adds and not plan.delete:
        return head.sha, None
    adds = [
        CommitOperationAdd(path, content if isinstance(content, bytes) else str(content))
        for path, content in plan.adds.items()
    ]
    title = f"sending to {repository.repo}"
    with (
        stopping.graceful_shutdown(),
        progress.step(title, sum(plan.sizes.values()), "bytes") as advance,
    ):
        for group in _groups(adds, plan):
            repository.upload(group, pr)
            advance(sum(plan.sizes[add.path_in_repo] for add in group))
            stopping.raise_if_stopped()
    deletions = [CommitOperationDelete(path) for path in plan.delete]
    for left in reversed(range(_TRIES)):
        try:
            return repository.commit([*adds, *deletions], message, head.sha, pr)
        except HubUnavailableError as error:
            # Perhaps it was made, and the answer alone was lost.
            if not pr and (made := _made(repository, version, plan, head)) is not None:
                return made, None
            if not left or pr or (error.wait or 0) > LONGEST_WAIT_S:
                raise
            time.sleep(error.wait or 2.0 ** (_TRIES - left - 2))
        except ConflictError:
            if not pr and (made := _made(repository, version, plan, head)) is not None:
                return made, None
            raise ConflictError(
                f"{repository.repo} was changed by somebody else while this was sent; nothing was "
                "overwritten. Run the command again: what was sent is kept."
            ) from None
    raise AssertionError("the last try returns or raises")


def _made(repository: Repository, version: Version, plan: UploadPlan, before: Commit) -> str | None:
    """The commit on top of ``before`` that brought all that ``plan`` has to bring."""
    now = repository.commit_of(None)
    if now.sha == before.sha:
        return None
    found = snapshot(repository, now.sha)
    there = all(
        path in found.files
        and found.files[path].bytes == plan.sizes[path]
        and found.files[path].sha256 in (None, plan.sha256s[path])
        for path in plan.adds
    )
    return now.sha if there and found.sha256 == version.sha256 else None


def _groups(adds: list[CommitOperationAdd], plan: UploadPlan) -> Iterator[list[CommitOperationAdd]]:
    """Portions of ``adds``, without files whose bytes are in one before."""
    first = {plan.sha256s[add.path_in_repo]: add for add in reversed(adds)}
    group: list[CommitOperationAdd] = []
    size = 0
    for add in adds:
        path = add.path_in_repo
        if first[plan.sha256s[path]] is not add:
            continue
        if group and (size + plan.sizes[path] > _GROUP_BYTES or len(group) >= _GROUP_FILES):
            yield group
            group, size = [], 0
        group.append(add)
        size += plan.sizes[path]
    if group:
        yield group
