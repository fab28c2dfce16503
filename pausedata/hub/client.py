"""A dataset repository on the Hub, through ``huggingface_hub``, with retries and clear errors."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt

from pausedata.core.errors import (
    ConflictError,
    DataError,
    PausedataError,
    UnreachableError,
    UsageError,
    first_line,
)
from pausedata.core.network import (
    TOKEN_REFUSED,
    HubProblem,
    chain,
    kinds,
    problem_of,
    quiet,
    status_of,
)
from pausedata.core.progress import Progress

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Result = TypeVar("Result")

TRIES = 5
LONGEST_WAIT_S = 120.0  # where the server asks for more, the command ends and says so


@dataclass(frozen=True)
class RemoteFile:
    """A file of a commit: its bytes, and the sha256 of a large one or git's hash of a small one."""

    path: str
    bytes: int
    sha256: str | None
    git_sha1: str | None

    def is_same(self, size: int, sha256: str, local: Callable[[], bytes]) -> bool:
        """Whether it has these bytes; ``local`` reads them, where only git's hash is known."""
        if self.bytes != size:
            return False
        if self.sha256 is not None:
            return self.sha256 == sha256
        raw = local()
        own = hashlib.sha1(b"blob %d\0" % len(raw) + raw, usedforsecurity=False).hexdigest()
        return own == self.git_sha1


@dataclass(frozen=True)
class Commit:
    """The commit that a revision stands for, and who sees the repository."""

    sha: str
    private: bool


class Repository:
    """One dataset repository. Every call may raise UnreachableError, UsageError, ConflictError."""

    def __init__(self, repo: str, progress: Progress) -> None:
        self.repo, self._progress = repo, progress

    @cached_property
    def _api(self) -> HfApi:
        from huggingface_hub import HfApi

        return HfApi(library_name="pausedata")

    def commit_of(self, revision: str | None) -> Commit:
        """The commit that ``revision`` (None: main) stands for; UsageError where there is none."""
        info = self._with_retries(
            lambda: self._api.repo_info(self.repo, repo_type="dataset", revision=revision), revision
        )
        if info.sha is None:
            raise DataError(f"{self.repo}: the Hub names no commit of it.")
        return Commit(info.sha, bool(info.private))

    def head(self) -> Commit | None:
        """The commit of the main branch; None where there is no such repository."""
        try:
            return self.commit_of(None)
        except NoRepositoryError:
            return None

    def files(self, commit: str) -> dict[str, RemoteFile]:
        """The files of a commit, by path."""

        def listed() -> list[Any]:
            tree = self._api.list_repo_tree(
                self.repo, recursive=True, revision=commit, repo_type="dataset"
            )
            return [entry for entry in tree if hasattr(entry, "size")]

        return {
            entry.path: RemoteFile(
                entry.path,
                entry.size,
                entry.lfs.sha256 if entry.lfs is not None else None,
                entry.blob_id,
            )
            for entry in self._with_retries(listed, commit)
        }

    def tags(self) -> dict[str, str]:
        """The commit of each tag."""
        refs = self._with_retries(
            lambda: self._api.list_repo_refs(self.repo, repo_type="dataset"), None
        )
        return {tag.name: tag.target_commit for tag in refs.tags}

    def download(self, commit: str, path: str, folder: Path, *, force: bool = False) -> Path:
        """Fetch a file to ``folder/path``; ``force``: even if it is there already."""
        from huggingface_hub import hf_hub_download

        with _quiet():
            return Path(
                self._with_retries(
                    lambda: hf_hub_download(
                        self.repo,
                        path,
                        repo_type="dataset",
                        revision=commit,
                        local_dir=folder,
                        force_download=force,
                    ),
                    commit,
                )
            )

    def read(self, commit: str, path: str) -> bytes:
        """The bytes of a file."""
        with tempfile.TemporaryDirectory(prefix="pausedata-hub-") as folder:
            return self.download(commit, path, Path(folder)).read_bytes()

    def create(self, private: bool) -> None:
        """Make the repository."""
        self._with_retries(
            lambda: self._api.create_repo(
                self.repo, private=private, repo_type="dataset", exist_ok=True
            ),
            None,
        )

    def upload(self, additions: Sequence[Any], pr: bool) -> None:
        """Send the bytes of large files ahead of their commit; what the Hub has is not sent."""
        with _quiet():
            self._with_retries(
                lambda: self._api.preupload_lfs_files(
                    self.repo, additions, repo_type="dataset", create_pr=pr, num_threads=4
                ),
                None,
            )

    def commit(
        self, operations: Iterable[Any], message: str, parent: str, pr: bool
    ) -> tuple[str, str | None]:
        """Make one commit on top of ``parent``: its hash, and the address of a pull request.

        It is tried once: whether a commit whose answer was lost was made, only the caller can tell.
        """
        with _quiet(), self._translate_errors(None):
            made = self._api.create_commit(
                self.repo,
                operations,
                commit_message=message,
                repo_type="dataset",
                parent_commit=parent,
                create_pr=pr,
            )
        return made.oid, made.pr_url

    def tag(self, name: str, commit: str, message: str, known: Mapping[str, str]) -> None:
        """Name a commit. A tag of that name is moved; ``known``: the commit of each tag."""
        if known.get(name) == commit:
            return

        def made() -> None:
            if name in known:
                self._api.delete_tag(self.repo, tag=name, repo_type="dataset")
            self._api.create_tag(
                self.repo,
                tag=name,
                tag_message=message,
                revision=commit,
                repo_type="dataset",
                exist_ok=True,
            )

        self._with_retries(made, None)

    def _with_retries(self, call: Callable[[], Result], revision: str | None) -> Result:
        """What ``call`` gives; while the Hub is busy or silent it is called again."""
        with self._translate_errors(revision):
            return Retrying(
                stop=stop_after_attempt(TRIES),
                wait=_seconds_to_wait,
                retry=retry_if_exception(_is_retryable),
                before_sleep=self._report_wait,
                reraise=True,
            )(call)

    def _report_wait(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        seconds = state.next_action.sleep if state.next_action else 0
        if error is not None and seconds >= 1:
            self._progress.say(f"the Hub: {_in_short(error)}; trying again in {seconds:.0f} s …")

    @contextmanager
    def _translate_errors(self, revision: str | None) -> Iterator[None]:
        try:
            yield
        except (PausedataError, MemoryError):
            raise
        except Exception as error:
            raise _translated(error, self.repo, revision) from error


def _translated(error: Exception, repo: str, revision: str | None) -> PausedataError:
    """The error as a person needs it told."""
    match problem_of(error):
        case HubProblem.GATED:
            return UnreachableError(
                f"{repo} is gated: ask for access on its page on the Hub, then `hf auth login` or "
                "set HF_TOKEN."
            )
        case HubProblem.NO_REVISION:
            return UsageError(f"{repo} has no revision '{revision}'.")
        case HubProblem.TOKEN_REFUSED:
            return UnreachableError(f"{repo}: {TOKEN_REFUSED}.")
        case HubProblem.FORBIDDEN:
            return UnreachableError(
                f"your login may not do this to {repo}: it needs a token with write access to "
                f"{repo.partition('/')[0]}. `hf auth whoami` says who you are."
            )
        case HubProblem.NO_REPOSITORY:
            return NoRepositoryError(
                f"no dataset '{repo}' on the Hub, or it is private: check the name, or "
                "`hf auth login` or set HF_TOKEN."
            )
        case HubProblem.NO_FILE:
            return DataError(f"{repo}: a file that was listed is not there. Run it again.")
        case HubProblem.CONFLICT:
            return ConflictError(f"{repo} was changed by somebody else meanwhile.")
        case HubProblem.BUSY:
            return HubUnavailableError(
                f"the Hub cannot answer for {repo} now: {_in_short(error)}. Run the command again "
                "later: it goes on where it was.",
                _retry_after(error),
            )
        case HubProblem.NO_ANSWER:
            return HubUnavailableError(
                f"the Hub does not answer for {repo} ({type(chain(error)[-1]).__name__}). Check "
                "the network and HF_ENDPOINT, then run the command again: it goes on where it was."
            )
        case HubProblem.OTHER:
            return DataError(f"{repo}: {first_line(error)}")


class NoRepositoryError(UsageError):
    """There is no such repository, or it may not be seen."""


class HubUnavailableError(UnreachableError):
    """The Hub may answer another time; ``wait``: the seconds that it asks to wait."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


def _is_retryable(error: BaseException) -> bool:
    if not isinstance(error, Exception):
        return False  # Ctrl-C while a connection breaks is no broken connection
    match problem_of(error):
        case HubProblem.BUSY:
            return (_retry_after(error) or 0) <= LONGEST_WAIT_S
        case HubProblem.NO_ANSWER:
            return "OfflineModeIsEnabled" not in kinds(error)
        case _:
            return False


def _seconds_to_wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = _retry_after(error) if error is not None else None
    return asked if asked is not None else min(8.0, 0.5 * 2 ** (state.attempt_number - 1))


def _retry_after(error: BaseException) -> float | None:
    """The seconds that the server asks to wait."""
    for link in chain(error):
        headers = getattr(getattr(link, "response", None), "headers", None)
        value = headers.get("Retry-After") if headers is not None else None
        if value is not None and str(value).isdigit():
            return float(value)
    return None


def _in_short(error: BaseException) -> str:
    status, asked = status_of(error), _retry_after(error)
    if status == 429:
        return "too many requests" + (f", it asks to wait {asked:.0f} s" if asked else "")
    return f"HTTP status {status}" if status else type(error).__name__


def _quiet() -> AbstractContextManager[None]:
    import huggingface_hub.utils

    return quiet(huggingface_hub.utils)
