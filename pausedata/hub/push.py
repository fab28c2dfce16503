"""``push``: the current version as one commit of a repository, sent as far as it is new."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePosixPath

from pausedata.core.errors import DataError, UsageError, first_line
from pausedata.core.progress import Progress
from pausedata.hub.card import full_card
from pausedata.hub.card.header import base_models
from pausedata.hub.client import Repository
from pausedata.hub.reference import checked_repo, checked_tag
from pausedata.hub.remote import chosen_tables, entries_of, sha256_of
from pausedata.hub.remote_state import (
    RemoteState,
    check_card,
    check_goes_on,
    check_tag,
    check_visibility,
    read_remote_state,
)
from pausedata.hub.scan import Hit, Scanner
from pausedata.hub.send import Upload, UploadPlan, send
from pausedata.store.commit import commit_lock, write_pointer
from pausedata.store.dataset import Version, open_version
from pausedata.store.integrity import ADVICE, problems_of
from pausedata.store.known_damage import MANIFEST
from pausedata.store.manifest import CARD, Origin
from pausedata.store.pointer import read_pointer

_HITS_SHOWN = 5


@dataclass(frozen=True)
class PushOptions:
    """What a push is to do."""

    repo: str
    only: Sequence[str] | None = None  # tables or kinds of tables; None: all
    public: bool | None = None  # None: as the repository is; a new one is private
    tag: str | None = None  # None: vN
    pr: bool = False
    message: str | None = None
    license: str | None = None
    allow: Sequence[str] = ()  # texts that may be published
    replace_card: bool = False  # also one that was edited on the Hub


@dataclass(frozen=True)
class Pushed:
    """What a push did, or with ``--dry-run`` would do."""

    repo: str
    version: int
    send: list[Upload]
    delete: list[str]
    kept: int  # files that are there already
    tag: str | None
    private: bool
    new: bool  # the repository
    commit: str | None = None
    pull_request: str | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """The bytes to send."""
        return sum(item.bytes for item in self.send)


def push(root: Path, asked: PushOptions, progress: Progress, *, dry_run: bool = False) -> Pushed:
    """Publish the current version of the dataset at ``root``.

    Nothing is sent before the files are known to be whole, what they hold was looked through for
    secrets, and the repository was seen to hold nothing that would be lost. Raises DataError,
    UsageError, ConflictError and UnreachableError; whatever was sent until then is used by the next
    push, and readers see nothing of it.
    """
    repo = checked_repo(asked.repo)
    version = open_version(root)
    tag = None if asked.pr else checked_tag(asked.tag, f"v{version.number}")
    if asked.pr and asked.tag is not None:
        raise UsageError(
            "--pr: a pull request has no tag. Leave out --tag; push again when it is merged."
        )
    tables = chosen_tables(asked.only, list(version.tables), f"version {version.number}")
    repository = Repository(repo, progress)
    remote = read_remote_state(repository, tag)
    if remote.head is None and asked.pr:
        raise UsageError(f"--pr: there is no repository {repo} yet. Push without it first.")
    check_visibility(remote, asked.public, repo)
    check_goes_on(root, version, remote, repo)
    if not asked.replace_card:
        check_card(repository, root, remote)
    check_tag(repository, version, remote, tag)
    version = _fetch_what_is_sent(version, tables, remote)
    listed = [*tables, *_tables_kept(version, remote, tables)]
    card = full_card(version, repo=repo, license=asked.license, tables=listed, progress=progress)
    plan = _plan(version, tables, listed, remote, card.text.encode())
    _check_whole(version, plan)
    words = {"--message": asked.message or "", "--tag": asked.tag or ""}
    scanner = _scanner(version, repo, asked.allow)
    _check_safe(_found(scanner, version, tables, listed, plan, words, progress))
    pushed = Pushed(
        repo,
        version.number,
        list(plan.adds.values()),
        plan.delete,
        plan.kept,
        tag,
        remote.head.private if remote.head else not asked.public,
        remote.head is None,
        warnings=card.warnings,
    )
    if dry_run:
        return pushed
    named = f"{version.manifest.name}, version {version.number}"
    commit, request = send(
        *(repository, version, remote, plan),
        public=bool(asked.public),
        pr=asked.pr,
        message=asked.message or named,
        progress=progress,
    )
    if request is None:
        if tag is not None:
            repository.tag(tag, commit, named, remote.tags)
        origin = Origin(repo=repo, commit=commit, version=version.number, sha256=version.sha256)
        try:
            _remember(root, origin)
        except (OSError, DataError) as error:  # read-only: it is published all the same
            progress.warn(f"{root}: that it was pushed could not be noted: {first_line(error)}")
    return replace(pushed, commit=commit, pull_request=request)


def _tables_kept(version: Version, remote: RemoteState, tables: Collection[str]) -> list[str]:
    """Tables that are not pushed now, and that the repository has as they are here."""
    return [
        name
        for name, entry in version.manifest.tables.items()
        if name not in tables and remote.snapshot.has_table(entry)
    ]


def _fetch_what_is_sent(version: Version, tables: list[str], remote: RemoteState) -> Version:
    """``version`` with those of ``tables`` here that the repository lacks.

    UsageError where one is neither here nor can be fetched.
    """
    lacking = [
        table
        for table in map(version.table, tables)
        if table.absent and not remote.snapshot.has_table(table.entry)
    ]
    for table in lacking:
        table.need()
    return open_version(version.root, version.number) if lacking else version


def _plan(
    version: Version, tables: list[str], listed: list[str], remote: RemoteState, card: bytes
) -> UploadPlan:
    """What of ``tables``, the manifest and the card has to be sent, and what is deleted.

    ``listed``: the tables that the repository has in the end; files of others are deleted.
    """
    known = remote.snapshot
    entries = [*version.manifest.loose_files(), *entries_of(version.manifest.tables, tables)]
    files: list[tuple[Upload, bool]] = []  # each with whether the repository has it
    for entry in entries:
        path = version.folder / entry.path
        upload = Upload(entry.path, path, entry.bytes, entry.sha256)
        files.append((upload, known.has(entry, path)))
    for name, raw in ((MANIFEST, (version.folder / MANIFEST).read_bytes()), (CARD, card)):
        upload = Upload(name, raw, len(raw), sha256_of(raw))
        files.append((upload, known.has_bytes(name, raw)))
    adds = {upload.path: upload for upload, is_known in files if not is_known}
    # A table is there as a whole or not at all: so is what is left of those not pushed.
    named = {entry.path for entry in entries_of(version.manifest.tables, listed)}
    delete = [path for path in known.ours() if path not in named]
    return UploadPlan(adds, delete, kept=len(files) - len(adds))


def _check_whole(version: Version, plan: UploadPlan) -> None:
    entries = [entry for entry in version.files() if entry.path in plan.adds and entry.path != CARD]
    if found := problems_of(version.folder, entries):
        path, why = next(iter(found.items()))
        raise DataError(f"{version.folder / path}: {why}. Nothing was sent. {ADVICE}")


def _check_safe(found: Iterator[Hit]) -> None:
    """DataError where something would be sent that should not leave this machine."""
    hits = list(islice(found, _HITS_SHOWN + 1))
    if hits:
        shown = "\n  ".join(map(str, dict.fromkeys(hits[:_HITS_SHOWN])))
        more = "\n  and more" if len(hits) > _HITS_SHOWN else ""
        raise DataError(
            f"nothing was sent: this should not leave this machine.\n  {shown}{more}\n"
            "Mend it in the source, the recipe or CARD.md, and build again; a key that was in a "
            "file should be revoked. What may be published after all: --allow TEXT."
        )


def _scanner(version: Version, repo: str, allow: Sequence[str]) -> Scanner:
    """A scanner that passes over what is public anyway."""
    manifest = version.manifest
    source = (manifest.recipe.get("source") or {}).get("hub")
    public = [repo, *base_models(manifest), *([source] if source else []), *allow]
    words = [word for table in manifest.tables for word in table.split("/")]
    return Scanner(public, [repo.partition("/")[0], *words, *manifest.rows])


def _found(
    scanner: Scanner,
    version: Version,
    tables: list[str],
    listed: Collection[str],
    plan: UploadPlan,
    words: Mapping[str, str],
    progress: Progress,
) -> Iterator[Hit]:
    """What the scan finds in the files to send, in ``words`` (given as flags), and in rows."""
    for where, text in words.items():
        yield from scanner.prose(where, text)
    for path, upload in plan.adds.items():
        yield from scanner.name(path)
        if isinstance(upload.content, bytes):
            yield from scanner.prose(path, upload.content.decode("utf-8", "replace"))
        elif PurePosixPath(path).name == CARD or path.endswith(".meta.json"):
            yield from scanner.prose(path, upload.content.read_text("utf-8", errors="replace"))
        elif not path.endswith(".parquet"):  # shards are read below
            yield from scanner.file(path, upload.content)
    new = [
        table
        for table in map(version.table, tables)
        if any(shard.path in plan.adds for shard in table.shards)
    ]
    if not new:
        return
    examples = version.table("examples")
    was_sent = "examples" in listed and "examples" not in tables
    if examples not in new and not examples.absent and not was_sent:
        new.append(examples)  # tokens and exports say what its text does
    rows = sum(table.entry.rows for table in new)
    with progress.step("looking for keys and tokens", rows, "rows") as advance:
        for table in new:
            yield from scanner.table(table, advance)


def _remember(root: Path, origin: Origin) -> None:
    """Note where the dataset was pushed to: a later push goes on from there."""
    with commit_lock(root):
        pointer = read_pointer(root)
        if pointer is not None:
            pushed = pointer.pushed | {origin.repo: origin}
            write_pointer(root, pointer.model_copy(update={"pushed": pushed}))
