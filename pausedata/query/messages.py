"""DuckDB's errors as ours: one to three lines that name what is near."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import duckdb

from pausedata.errors import PausedataError, UsageError, nearest
from pausedata.query.views import VIEWS

if TYPE_CHECKING:
    from pausedata.query.session import Session

_MOST = 300  # characters of DuckDB's own words that are shown
_NO_COLUMN = re.compile(r'Referenced (?:column|table) "(.+?)" not found|a column named "(.+?)"')
_NO_EXTENSION = re.compile(r"required extension '(\w+)")
_NO_ACCESS = re.compile(r'Cannot access (?:file|directory) "(.+?)"')
_NO_VIEW = re.compile(r"Table with name (.+?) does not exist")


@contextmanager
def translated(session: Session) -> Iterator[None]:
    """DuckDB's errors as ours; what a scan of our own raised comes through as it was."""
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise PausedataError(
            f"The query needs more memory than there is ({_shortened(str(error))}). "
            "Select fewer columns or rows."
        ) from None
    except RuntimeError as error:
        # DuckDB puts this in the place of what a signal's handler raised.
        if str(error) == "Query interrupted":
            raise error.__cause__ or error.__context__ or KeyboardInterrupt from None
        raise
    except duckdb.InternalException:
        raise  # a defect of DuckDB's: the traceback is what helps
    except duckdb.Error as error:
        raise _failure(session, error) or UsageError(message(error)) from None
    except OSError as error:
        # What a reader of Arrow raises in place of DuckDB's error. One of the system has a number.
        if error.errno is not None:
            raise
        raise _failure(session, error) or UsageError(message(error)) from None


def _failure(session: Session, error: Exception) -> PausedataError | None:
    """What a scan raised, if that is what ``error`` tells of: it may be another thread's."""
    said = str(error)
    return next((failure for failure in session.failures if str(failure) in said), None)


def message(error: Exception) -> str:
    """What is wrong in one line, then DuckDB's line of the query with its caret."""
    text, _, place = str(error).partition("\n\nLINE ")
    # The overloads of a function can be dozens.
    what = _shortened(text.partition("Candidate functions:")[0])
    if column := _NO_COLUMN.search(text):
        what = _no_column(column[1] or column[2], text)
    elif view := _NO_VIEW.search(text):
        name = view[1].strip('"')
        what = f"No view '{name}'.{nearest(name, VIEWS)} There: {', '.join(VIEWS)}."
    elif path := _NO_ACCESS.search(text):
        what = (
            f"'{path[1]}': a query sees the dataset alone. `sql --unsafe`, or pausedata.connect in "
            "Python, lets it read and write files."
        )
    elif extension := _NO_EXTENSION.search(text):
        what = f"This needs DuckDB's extension '{extension[1]}', which `sql` does not download."
    return what + (f"\nLINE {place.rstrip()}" if place else "")


def _no_column(name: str, text: str) -> str:
    """Names the columns nearest to ``name``: DuckDB's candidates are those of the query's views."""
    _, _, listed = text.partition("Candidate bindings:")
    hint = nearest(name, re.findall(r'"([^"]+)"', listed))
    homes: dict[str, list[str]] = {}
    for view, columns in VIEWS.items():
        for column in columns:
            homes.setdefault(column, []).append(view)
    if name in homes:
        return f"No column '{name}' here; it is in {', '.join(homes[name])}." + hint
    hint = hint or nearest(name, homes)
    return f"No column '{name}'." + (hint or " `DESCRIBE tokens` lists a view's columns.")


def _shortened(text: str) -> str:
    """DuckDB's words on one line, without its name for the kind of error."""
    line = " ".join(re.sub(r"^[A-Z][\w -]*Error: ", "", text.strip()).split())
    return line if len(line) <= _MOST else line[: _MOST - 1] + "…"
