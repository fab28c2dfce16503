"""What errors of the Hub's libraries mean, and that these are kept quiet."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pausedata.core.network import HubProblem, problem_of, quiet


def error(name: str, status: int | None = None) -> Exception:
    """An error of huggingface_hub, with an answer of the Hub that has only a status."""
    from huggingface_hub import errors

    kind = getattr(errors, name)
    made = kind.__new__(kind, "words of the server")
    if status is not None:
        made.response = SimpleNamespace(status_code=status, headers={})
    return made


def raised_from(outer: Exception, cause: Exception) -> Exception:
    outer.__cause__ = cause
    return outer


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (error("GatedRepoError", 403), HubProblem.GATED),
        (error("RevisionNotFoundError", 404), HubProblem.NO_REVISION),
        (error("RepositoryNotFoundError", 404), HubProblem.NO_REPOSITORY),
        (error("RepositoryNotFoundError", 401), HubProblem.NO_REPOSITORY),
        (error("HfHubHTTPError", 401), HubProblem.TOKEN_REFUSED),
        (error("HfHubHTTPError", 403), HubProblem.FORBIDDEN),
        (error("HfHubHTTPError", 412), HubProblem.CONFLICT),
        (error("HfHubHTTPError", 503), HubProblem.BUSY),
        (error("EntryNotFoundError"), HubProblem.NO_FILE),
        (error("LocalEntryNotFoundError"), HubProblem.NO_ANSWER),
        (ConnectionError("refused"), HubProblem.NO_ANSWER),
        (RuntimeError("odd"), HubProblem.OTHER),
    ],
    ids=str,
)
def test_the_problem_is_told_by_name_and_status(found: Exception, problem: HubProblem) -> None:
    assert problem_of(found) is problem


def test_a_download_from_a_hub_that_is_down_is_no_missing_file() -> None:
    """huggingface_hub wraps it in an error that is one of missing files, too."""
    down = raised_from(error("LocalEntryNotFoundError"), error("HfHubHTTPError", 503))
    assert problem_of(down) is HubProblem.BUSY
    silent = raised_from(error("LocalEntryNotFoundError"), ConnectionError("refused"))
    assert problem_of(silent) is HubProblem.NO_ANSWER


def test_errors_that_datasets_raises_without_their_cause_are_told_by_their_words() -> None:
    from datasets.exceptions import DatasetNotFoundError

    def meaning(words: str) -> Any:
        return problem_of(DatasetNotFoundError(words))

    assert meaning("Dataset 'org/name' is a gated dataset on the Hub.") is HubProblem.GATED
    assert meaning("Revision 'v9' doesn't exist for dataset 'org/name'") is HubProblem.NO_REVISION
    assert meaning("Dataset 'org/name' doesn't exist on the Hub") is HubProblem.NO_REPOSITORY


def test_quiet_leaves_bars_and_levels_as_they_were() -> None:
    import datasets.utils
    import huggingface_hub.utils

    libraries = (datasets.utils, huggingface_hub.utils)
    for off in (False, True):
        for library in libraries:
            (library.disable_progress_bars if off else library.enable_progress_bars)()
        levels = [library.logging.get_verbosity() for library in libraries]
        with quiet(*libraries):
            assert all(library.are_progress_bars_disabled() for library in libraries)
        assert [library.are_progress_bars_disabled() for library in libraries] == [off, off]
        assert [library.logging.get_verbosity() for library in libraries] == levels
    for library in libraries:
        library.enable_progress_bars()
