"""What went wrong with the Hub, recognised by the names of the errors in a chain of causes."""

from __future__ import annotations

import re

COMMIT = re.compile(r"[0-9a-f]{40}")  # a whole hash of git's

# By name, since huggingface_hub has changed its HTTP library (requests, httpx, httpx2).
_NO_ANSWER = {
    "ConnectionError", "TransportError", "Timeout", "OfflineModeIsEnabled",
    "LocalEntryNotFoundError",
}  # fmt: skip


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


def is_gated(error: BaseException) -> bool:
    """Whether the Hub wants terms to be accepted first."""
    text = " ".join(str(link) for link in chain(error))
    return "GatedRepoError" in kinds(error) or "is a gated dataset" in text


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error came of."""
    for link in chain(error):
        status = getattr(getattr(link, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
    return None


def refuses_token(error: BaseException) -> bool:
    """Whether the Hub does not accept the token itself, whatever is asked with it."""
    if kinds(error) & {"RepositoryNotFoundError", "GatedRepoError"}:
        return False
    return status_of(error) == 401


TOKEN_REFUSED = (
    "the Hub does not accept the token of HF_TOKEN or of the stored login. Log in anew with "
    "`hf auth login`, or set HF_TOKEN to a valid one, or unset it"
)


def has_no_answer(error: BaseException) -> bool:
    """Whether the Hub did not answer, and no cache had it."""
    return bool(kinds(error) & _NO_ANSWER)


_ID = re.compile(r"[A-Za-z0-9_]([\w.-]{0,94}\w)?/[A-Za-z0-9_]([\w.-]{0,94}\w)?", re.ASCII)


def is_repo(text: str) -> bool:
    """Whether ``text`` is an id of the Hub's, of a model or a dataset."""
    return bool(_ID.fullmatch(text)) and ".." not in text and "--" not in text
