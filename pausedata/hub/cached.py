"""``hf://ORG/NAME[@REV]`` in a dataset's place: a copy in the cache, fetched as it is needed."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from pausedata.core.errors import UnreachableError, UsageError
from pausedata.core.network import COMMIT
from pausedata.core.progress import Progress, Silent
from pausedata.hub.client import Repository
from pausedata.hub.pull import pull_from
from pausedata.hub.reference import HubReference, cached_folder
from pausedata.hub.snapshot import snapshot
from pausedata.store import files, not_downloaded
from pausedata.store.manifest import TableEntry
from pausedata.store.pointer import read_pointer
from pausedata.store.staging import when_free


def local_copy(reference: HubReference, progress: Progress | None = None) -> Path:
    """The folder of a dataset of the Hub, in the cache: at first the manifest alone.

    A table is fetched when it is first read. What ``place`` and ``export`` add stays in the cache,
    on top of that commit. Without a network the commit that was seen last under that revision is
    taken.
    """
    listener = progress or Silent()
    repository = Repository(reference.repo, listener)
    commit = _commit(repository, reference, listener)
    root = cached_folder() / reference.repo.replace("/", "--") / commit
    remote = cache(lambda: snapshot(repository, commit))
    if read_pointer(root) is None:
        when_free(lambda: pull_from(repository, remote(), root, listener, only=[]), listener)

    def fetch(name: str, entry: TableEntry) -> None:
        if name in remote().tables()[1]:
            raise UsageError(f"{reference}: '{name}' was not pushed there.")
        when_free(lambda: pull_from(repository, remote(), root, listener, only=[name]), listener)

    not_downloaded.fetch_with(root, fetch)
    return root


def _commit(repository: Repository, reference: HubReference, progress: Progress) -> str:
    if COMMIT.fullmatch(reference.revision or ""):
        return str(reference.revision)
    remembered = cached_folder() / reference.repo.replace("/", "--") / "revisions.json"
    key = reference.revision or "main"
    try:
        commit = repository.commit_of(reference.revision).sha
    except UnreachableError:
        known = _read(remembered).get(key)
        if known is None:
            raise
        progress.warn(f"the Hub does not answer; {reference} is taken as of commit {known[:12]}")
        return known
    if _read(remembered).get(key) != commit:
        files.write_json(remembered, _read(remembered) | {key: commit})
    return commit


def _read(path: Path) -> dict[str, str]:
    try:
        known = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    known = known if isinstance(known, dict) else {}
    return {k: sha for k, sha in known.items() if COMMIT.fullmatch(str(sha))}
