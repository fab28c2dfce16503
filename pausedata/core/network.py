"""The Hub's libraries: what an error of theirs means, and keeping them quiet."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto
from typing import Any

COMMIT = re.compile(r"[0-9a-f]{40}")  # a whole hash of git's
TOKEN_REFUSED = (
    "the Hub does not accept the token of HF_TOKEN or of the stored login. Log in anew with "
    "`hf auth login`, or set HF_TOKEN to a valid one, or unset it"
)

# By name, since huggingface_hub has changed its HTTP library (requests, httpx, httpx2).
_NO_ANSWER = {
    "ConnectionError", "TransportError", "Timeout", "OfflineModeIsEnabled",
    "LocalEntryNotFoundError",
}  # fmt: skip
_NO_REPOSITORY = {"RepositoryNotFoundError", "DatasetNotFoundError", "HFValidationError"}
_BUSY = {408, 425, 429, 500, 502, 503, 504}


class HubProblem(Enum):
    """What went wrong. Each caller says it in its own words: it knows what can be done instead."""

    GATED = auto()  # terms have to be accepted first
    NO_REVISION = auto()
    TOKEN_REFUSED = auto()  # whatever is asked with it
    FORBIDDEN = auto()  # the login is good, and may not do this
    CONFLICT = auto()  # somebody else was faster
    BUSY = auto()  # it may answer another time
    NO_ANSWER = auto()  # and no cache had it
    NO_REPOSITORY = auto()  # or it may not be seen
    NO_FILE = auto()
    OTHER = auto()


def problem_of(error: BaseException) -> HubProblem:
    """What an error of huggingface_hub or datasets means, whoever wrapped it."""
    names, status = kinds(error), status_of(error)
    # datasets raises some of its errors without their cause: its words alone are left.
    words = " ".join(str(link) for link in chain(error))
    checks = (
        (HubProblem.GATED, "GatedRepoError" in names or "is a gated dataset" in words),
        (HubProblem.NO_REVISION, "RevisionNotFoundError" in names or words.startswith("Revision ")),
        # Without a login the Hub says 401 of a repository that does not exist, too.
        (HubProblem.TOKEN_REFUSED, status == 401 and "RepositoryNotFoundError" not in names),
        (HubProblem.FORBIDDEN, status == 403),
        (HubProblem.CONFLICT, status in (409, 412)),
        (HubProblem.BUSY, status in _BUSY),
        # Before the missing file: LocalEntryNotFoundError is an EntryNotFoundError.
        (HubProblem.NO_ANSWER, status is None and bool(names & _NO_ANSWER)),
        (HubProblem.NO_REPOSITORY, bool(names & _NO_REPOSITORY)),
        (HubProblem.NO_FILE, "EntryNotFoundError" in names),
        (HubProblem.NO_ANSWER, status is None and "HTTPError" in names),
    )
    return next((problem for problem, holds in checks if holds), HubProblem.OTHER)


def chain(error: BaseException) -> list[BaseException]:
    """The error and what it came from, outermost first."""
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in links:
        links.append(link)
        link = link.__cause__ or link.__context__
    return links


def kinds(error: BaseException) -> set[str]:
    """The names of the classes of the error and of all that it came from."""
    return {cls.__name__ for link in chain(error) for cls in type(link).__mro__}


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error came of."""
    for link in chain(error):
        status = getattr(getattr(link, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
    return None


@contextmanager
def quiet(*utils: Any) -> Iterator[None]:
    """No progress bars and warnings meanwhile: the command line draws its own.

    ``utils``: ``huggingface_hub.utils``, ``datasets.utils``, which have the same switches.
    """
    before = [(u, u.logging.get_verbosity(), u.are_progress_bars_disabled()) for u in utils]
    for library in utils:
        library.disable_progress_bars()
        library.logging.set_verbosity_error()
    try:
        yield
    finally:
        for library, level, bars_were_off in before:
            library.logging.set_verbosity(level)
            if bars_were_off:
                library.disable_progress_bars()
            else:
                library.enable_progress_bars()


_ID = re.compile(r"[A-Za-z0-9_]([\w.-]{0,94}\w)?/[A-Za-z0-9_]([\w.-]{0,94}\w)?", re.ASCII)


def is_repo(text: str) -> bool:
    """Whether ``text`` is an id of the Hub's, of a model or a dataset."""
    return bool(_ID.fullmatch(text)) and ".." not in text and "--" not in text
