"""The errors that a person sees: one or two lines that say what, where and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PausedataError(Exception):
    """An error whose message is meant for the user; the command line prints it bare.

    ``exit_code`` is what the process ends with: 1 where the data or a check failed.
    """

    exit_code = 1


class DataError(PausedataError):
    """The data, or a check of it, failed (exit status 1)."""


class NewerFormatError(DataError):
    """A later release wrote it: it is not damaged, and only that release reads it."""


class UsageError(PausedataError):
    """The command, the recipe or an argument is wrong (exit status 2)."""

    exit_code = 2


class UnreachableError(PausedataError):
    """Something is to be had from the network alone, which does not answer or asks for a login."""


class ConflictError(PausedataError):
    """Another writer committed something that this change cannot stand beside."""


def nearest(word: str, candidates: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the candidate closest to ``word``, or an empty string."""
    match = difflib.get_close_matches(str(word), [str(c) for c in candidates], n=1, cutoff=0.5)
    return f" Did you mean '{match[0]}'?" if match else ""


def listing(names: Iterable[str]) -> str:
    """``'a', 'b', 'c'`` in the order given, or ``none`` where there is nothing."""
    return ", ".join(f"'{name}'" for name in names) or "none"


def first_line(error: BaseException) -> str:
    """The first line of what an exception says; its kind where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def reason(error: BaseException) -> str:
    """An exception's kind, and the first line of what it says."""
    kind, said = type(error).__name__, first_line(error)
    return kind if said == kind else f"{kind}: {said}"


def missing_extra(package: str, extra: str, purpose: str) -> UsageError:
    """The error for an optional dependency that is not installed, with the command to mend it."""
    return UsageError(f"{purpose} needs {package}. Install it: pip install 'pausedata[{extra}]'")
