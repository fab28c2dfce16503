"""What a repository holds before a push, and whether the push may go on from there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pausedata.core.errors import ConflictError, DataError, UsageError
from pausedata.hub.client import Commit, Repository
from pausedata.hub.snapshot import Snapshot, snapshot
from pausedata.store.dataset import Version, read_version
from pausedata.store.manifest import CARD
from pausedata.store.opening import version_folder
from pausedata.store.pointer import read_pointer

_HUBS_OWN = {".gitattributes"}  # in a repository that nobody has put anything into


@dataclass(frozen=True)
class RemoteState:
    """What a repository holds. ``head``: None where there is no such repository."""

    head: Commit | None
    snapshot: Snapshot  # of the main branch
    tags: dict[str, str]


def read_remote_state(repository: Repository, tag: str | None) -> RemoteState:
    """What the main branch holds, and, where a ``tag`` is to be set, which tags there are."""
    head = repository.head()
    if head is None:
        return RemoteState(None, Snapshot(repository.repo, ""), {})
    tags = repository.tags() if tag is not None else {}
    return RemoteState(head, snapshot(repository, head.sha), tags)


def check_visibility(remote: RemoteState, public: bool | None, repo: str) -> None:
    """UsageError where a repository that exists is not as visible as was asked for."""
    if remote.head is not None and public is not None and remote.head.private == public:
        seen, flag = ("private", "--public") if remote.head.private else ("public", "--private")
        raise UsageError(
            f"{repo} is {seen}, and {flag} was given. Change it in its settings on the Hub, or "
            "leave the flag out."
        )


def check_goes_on(root: Path, version: Version, remote: RemoteState, repo: str) -> None:
    """ConflictError unless the repository holds this version, or one that it was made from."""
    if remote.snapshot.manifest is None:
        foreign = sorted(set(remote.snapshot.files) - _HUBS_OWN)
        if foreign:
            raise UsageError(
                f"{repo} holds something else ({', '.join(foreign[:3])}"
                f"{' …' if len(foreign) > 3 else ''}). Push under another name, or delete it there."
            )
        return
    ours = _lineage(root, version, repo)
    if remote.snapshot.sha256 in ours:
        return
    number, parent = remote.snapshot.manifest.version, remote.snapshot.manifest.parent
    if parent is not None and parent.sha256 in ours:
        raise ConflictError(
            f"{repo} has moved on: its version {number} was made from your version "
            f"{parent.version}. Nothing was sent. `pausedata pull {repo} NEW_FOLDER`, make your "
            "changes there, and push that."
        )
    raise ConflictError(
        f"{repo} has a version {number} that yours was not made from. Nothing was sent. "
        f"`pausedata pull {repo} NEW_FOLDER` and make your changes there, or push under another "
        "name."
    )


def check_card(repository: Repository, root: Path, remote: RemoteState) -> None:
    """ConflictError where the card was edited on the Hub since it was pushed from here."""
    pointer, repo = read_pointer(root), repository.repo
    if pointer is None or remote.head is None:
        return
    last = next(iter(pointer.seen_at(repo)), None)
    if last is None or last.sha256 != remote.snapshot.sha256:
        return  # not pushed from here last: check_goes_on decides
    if last.commit == remote.head.sha:
        return
    before, now = repository.files(last.commit).get(CARD), remote.snapshot.files.get(CARD)
    if before is not None and now is not None and before.git_sha1 != now.git_sha1:
        raise ConflictError(
            f"{repo}: its card was edited on the Hub. Nothing was sent. Take what was written "
            "there into CARD.md, then push with --replace-card."
        )


def _lineage(root: Path, version: Version, repo: str) -> set[str]:
    """The manifest hashes of ``version`` and its ancestors, as far as they are known here."""
    known, pointer = {version.sha256}, read_pointer(root)
    if pointer is not None:
        known |= {seen.sha256 for seen in pointer.seen_at(repo)}
    parent = version.manifest.parent
    while parent is not None:
        known.add(parent.sha256)
        folder = version_folder(root, parent.version)
        if not folder.is_dir():
            break
        try:
            before = read_version(root, folder, parent.sha256)
        except DataError:
            break
        parent = before.manifest.parent
    return known


def check_tag(
    repository: Repository, version: Version, remote: RemoteState, tag: str | None
) -> None:
    """ConflictError where the tag names another version."""
    commit = remote.tags.get(tag or "")
    if commit is None:
        return
    tagged = remote.snapshot if commit == remote.snapshot.commit else snapshot(repository, commit)
    if tagged.sha256 != version.sha256:
        raise ConflictError(
            f"{repository.repo} has a tag '{tag}', which names another version. Nothing was sent. "
            "Give another --tag."
        )
