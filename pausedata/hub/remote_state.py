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
class There:
    """What the repository holds now. ``head``: None where there is no such repository."""

    head: Commit | None
    now: Snapshot
    tags: dict[str, str]


def look(repository: Repository, tag: str | None) -> There:
    """What the main branch holds, and where ``tag`` is asked for the tags."""
    head = repository.head()
    if head is None:
        return There(None, Snapshot(repository.repo, ""), {})
    tags = repository.tags() if tag is not None else {}
    return There(head, snapshot(repository, head.sha), tags)


def check_visibility(there: There, public: bool | None, repo: str) -> None:
    """UsageError where a repository that is there is not as it was asked for."""
    if there.head is not None and public is not None and there.head.private == public:
        seen, flag = ("private", "--public") if there.head.private else ("public", "--private")
        raise UsageError(
            f"{repo} is {seen}, and {flag} was given. Change it in its settings on the Hub, or "
            "leave the flag out."
        )


def check_goes_on(root: Path, version: Version, there: There, repo: str) -> None:
    """ConflictError unless what is there is a version that this one was made from, or itself."""
    if there.now.manifest is None:
        foreign = sorted(set(there.now.files) - _HUBS_OWN)
        if foreign:
            raise UsageError(
                f"{repo} holds something else ({', '.join(foreign[:3])}"
                f"{' …' if len(foreign) > 3 else ''}). Push under another name, or delete it there."
            )
        return
    ours = _lineage(root, version, repo)
    if there.now.sha256 in ours:
        return
    number, parent = there.now.manifest.version, there.now.manifest.parent
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


def check_card(repository: Repository, root: Path, there: There) -> None:
    """ConflictError where the card was edited on the Hub since it was pushed from here."""
    pointer, repo = read_pointer(root), repository.repo
    if pointer is None or there.head is None:
        return
    last = next(iter(pointer.seen_at(repo)), None)
    if last is None or last.sha256 != there.now.sha256:
        return  # it came with a version that is not here; that was looked at
    if last.commit == there.head.sha:
        return
    before, now = repository.files(last.commit).get(CARD), there.now.files.get(CARD)
    if before is not None and now is not None and before.git_sha1 != now.git_sha1:
        raise ConflictError(
            f"{repo}: its card was edited on the Hub. Nothing was sent. Take what was written "
            "there into CARD.md, then push with --replace-card."
        )


def _lineage(root: Path, version: Version, repo: str) -> set[str]:
    """The hashes of the manifests that ``version`` goes back to, as far as is known here."""
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


def check_tag(repository: Repository, version: Version, there: There, tag: str | None) -> None:
    """ConflictError where the tag names another version."""
    commit = there.tags.get(tag or "")
    if commit is None:
        return
    tagged = there.now if commit == there.now.commit else snapshot(repository, commit)
    if tagged.sha256 != version.sha256:
        raise ConflictError(
            f"{repository.repo} has a tag '{tag}', which names another version. Nothing was sent. "
            "Give another --tag."
        )
