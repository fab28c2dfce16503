"""Sending: the bytes of large files first, in groups, and then one commit that names all files.

``HfApi.upload_folder`` would do both at a time. Here a push that breaks off keeps the groups that
arrived, can be stopped between two of them, and finds out whether a commit whose answer was lost
was made.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pausedata.core import stopping
from pausedata.core.errors import ConflictError
from pausedata.core.progress import Progress
from pausedata.hub.client import LONGEST_WAIT_S, Commit, HubUnavailableError, Repository
from pausedata.hub.remote_state import RemoteState
from pausedata.hub.snapshot import snapshot
from pausedata.store.dataset import Version

_GROUP_BYTES = 256 << 20
_GROUP_FILES = 64
_TRIES = 5  # of a commit whose answer was lost
Content = Path | bytes  # the dataclass below has a field of that name


@dataclass(frozen=True)
class Upload:
    """A file to send: one of the version's folder, or what was written for the repository."""

    path: str
    content: Content
    bytes: int
    sha256: str


@dataclass(frozen=True)
class UploadPlan:
    """What a commit adds and deletes, and how many files stay as they are."""

    adds: dict[str, Upload]  # by path
    delete: list[str]
    kept: int


def send(
    repository: Repository,
    version: Version,
    remote: RemoteState,
    plan: UploadPlan,
    *,
    public: bool,
    pr: bool,
    message: str,
    progress: Progress,
) -> tuple[str, str | None]:
    """The commit that holds the version now, and the address of a pull request."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    head = remote.head
    if head is None:
        repository.create(private=not public)
        head = repository.commit_of(None)
        if not public and not head.private:
            raise ConflictError(
                f"{repository.repo} appeared meanwhile, and is public. Nothing was sent."
            )
    if not plan.adds and not plan.delete:
        return head.sha, None
    adds = {
        upload.path: CommitOperationAdd(
            upload.path,
            upload.content if isinstance(upload.content, bytes) else str(upload.content),
        )
        for upload in plan.adds.values()
    }
    title, size = f"sending to {repository.repo}", sum(u.bytes for u in plan.adds.values())
    with stopping.graceful_shutdown(), progress.step(title, size, "bytes") as advance:
        for group in _groups(plan.adds.values()):
            repository.upload([adds[upload.path] for upload in group], pr)
            advance(sum(upload.bytes for upload in group))
            stopping.raise_if_stopped()
    operations = [*adds.values(), *map(CommitOperationDelete, plan.delete)]
    for attempt in range(1, _TRIES + 1):
        try:
            return repository.commit(operations, message, head.sha, pr)
        except (HubUnavailableError, ConflictError) as error:
            # Perhaps it was made, and the answer alone was lost.
            if not pr and (made := _made(repository, version, plan, head)) is not None:
                return made, None
            if isinstance(error, ConflictError):
                raise ConflictError(
                    f"{repository.repo} was changed by somebody else while this was sent; nothing "
                    "was overwritten. Run the command again: what was sent is kept."
                ) from None
            if pr or attempt == _TRIES or (error.wait or 0) > LONGEST_WAIT_S:
                raise
            time.sleep(error.wait or 2.0 ** (attempt - 2))
    raise AssertionError("the last try returns or raises")


def _made(repository: Repository, version: Version, plan: UploadPlan, before: Commit) -> str | None:
    """The commit on top of ``before`` that brought all that ``plan`` has to bring."""
    now = repository.commit_of(None)
    if now.sha == before.sha:
        return None
    found = snapshot(repository, now.sha)
    arrived = all(
        upload.path in found.files
        and found.files[upload.path].bytes == upload.bytes
        and found.files[upload.path].sha256 in (None, upload.sha256)
        for upload in plan.adds.values()
    )
    return now.sha if arrived and found.sha256 == version.sha256 else None


def _groups(uploads: Iterable[Upload]) -> Iterator[list[Upload]]:
    """Portions of what is to be sent; of files with the same bytes, the first alone."""
    distinct: dict[str, Upload] = {}
    for upload in uploads:
        distinct.setdefault(upload.sha256, upload)
    group: list[Upload] = []
    size = 0
    for upload in distinct.values():
        if group and (size + upload.bytes > _GROUP_BYTES or len(group) >= _GROUP_FILES):
            yield group
            group, size = [], 0
        group.append(upload)
        size += upload.bytes
    if group:
        yield group
