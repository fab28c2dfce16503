"""DuckDB's errors as ours: one to three lines that name what is near."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

import duckdb

from pausedata.core.errors import PausedataError, UsageError, listing, nearest
from pausedata.query.views import SCANS, VIEWS

_LINE = 64  # columns of the query that are shown where an error points at
_MOST = 300  # characters of DuckDB's own words that are shown
_NO_COLUMN = re.compile(
    r'Referenced column "(.+?)" not found|a column named "(.+?)"'
    r'|Column "(.+?)" (?:in \w+ list not found|does not exist on)'
)
_NO_TABLE = re.compile(r'Referenced table "(.+?)" not found')
_NO_EXTENSION = re.compile(r"required extension '(\w+)")
_NO_ACCESS = re.compile(r'Cannot access (?:file|directory) "(.+?)"')
_NO_VIEW = re.compile(r"Table with name (.+?) does not exist(?: because schema (.+?) does not)?")
_NO_FUNCTION = re.compile(r"(?:Function|Macro) with name (.+?) does not exist")
_WRONG_TYPE = re.compile(r"No function matches|Cannot (?:compare|mix|combine) values of type")
_INTERNAL = re.compile(rf'"?(?:memory"?\."?)?{SCANS}"?\."?(\w+?)_(\w+?)_\d+"?')
_WORD = re.compile(r"[A-Za-z_]\w*")


class Connected(Protocol):
    """What asks DuckDB: a session, for one."""

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """What the queries are run on."""
        ...

    @property
    def attached(self) -> Collection[str]:
        """The names of other datasets."""
        ...

    @property
    def failures(self) -> Iterable[PausedataError]:
        """What scans raised, or may have."""
        ...


@contextmanager
def translated(session: Connected, sql: str = "") -> Iterator[None]:
    """DuckDB's errors as ours; what a scan of our own raised comes through as it was.

    ``sql`` is the query, where it is being prepared: for names that DuckDB's words leave out.
    """
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        if "max_temp_directory_size" in str(error):
            raise PausedataError(
                "The query needs more room for what does not fit into memory than there is: give "
                "another folder with --spill, or more memory with --memory."
            ) from None
        raise PausedataError(
            f"The query needs more memory than there is ({_shortened(str(error))}). "
            "Select fewer columns or rows, or give it more with --memory."
        ) from None
    except RuntimeError as error:
        # DuckDB puts this in the place of what a signal's handler raised.
        if str(error) == "Query interrupted":
            raise error.__cause__ or error.__context__ or KeyboardInterrupt from None
        raise
    except duckdb.InternalException:
        raise  # a defect of DuckDB's: the traceback is what helps
    except duckdb.InterruptException:
        raise KeyboardInterrupt from None
    except (duckdb.Error, OSError) as error:  # OSError: through Arrow's reader
        if failure := _failure(session, error):
            raise failure from None
        if isinstance(error, OSError) and error.errno is not None:  # one of the system's
            raise
        if str(error).startswith("INTERRUPT"):
            raise KeyboardInterrupt from None
        raise UsageError(message(_placed(error, session, sql), session)) from None


def _failure(session: Connected, error: Exception) -> PausedataError | None:
    """What a scan raised, if that is what ``error`` tells of: it may be another thread's."""
    said = str(error)
    return next((failure for failure in session.failures if str(failure) in said), None)


def message(error: BaseException, session: Connected | None = None) -> str:
    """What is wrong in one line, then DuckDB's line of the query with its caret."""
    text, _, place = str(error).partition("\n\nLINE ")
    place = _without_tabs(place.rstrip())
    pointed = _pointed_at(place)
    # The overloads of a function can be dozens.
    what = _shortened(text.partition("Candidate functions:")[0])
    attached = list(session.attached) if session else []
    if column := _NO_COLUMN.search(text):
        what = _no_column(column[1] or column[2] or column[3], text, pointed)
    elif table := _NO_TABLE.search(text):
        there = re.findall(r'"([^"]+)"', text.partition("Candidate tables:")[2])
        what = f"No view or alias '{table[1]}' in FROM." + (
            nearest(table[1], [*there, *VIEWS, *attached])
        )
    elif view := _NO_VIEW.search(text):
        what = _no_view(view[1].strip('"'), (view[2] or "").strip('"'), pointed, attached)
    elif function := _NO_FUNCTION.search(text):
        name = function[1].strip('"')
        what = f"No function '{name}'." + nearest(name, function_names(session))
    elif 'expression "meta" because it is not a struct' in text:
        field = re.search(r"field '(.+?)'", text)
        what = f"meta is JSON: meta->>'$.{field[1] if field else 'column'}' gives a column of it."
    elif "is a Macro Function" in text:
        what = "ppl takes no FILTER, DISTINCT or ORDER BY: ppl(CASE WHEN … THEN logprob END) does."
    elif path := _NO_ACCESS.search(text):
        what = (
            f"'{path[1]}': a query sees the dataset alone. `sql --unsafe`, or pausedata.connect in "
            "Python, lets it read and write files."
        )
    elif extension := _NO_EXTENSION.search(text):
        what = f"This needs DuckDB's extension '{extension[1]}', which `sql` does not download."
    elif _WRONG_TYPE.search(text) and (types := _types(place)):
        what = what.replace(" You might need to add explicit type casts.", "")
        what = f"{what} ({types})"
    return what + (f"\n{_narrow(place)}" if place else "")


def _narrow(place: str) -> str:
    """DuckDB's line and caret, cut on both sides of the caret to what any terminal shows."""
    line, newline, carets = place.partition("\n")
    number, _, query = line.partition(":")
    at = len(carets) - len(carets.lstrip()) - len(f"LINE {number}:")
    if not carets or at < 0 or _columns(query) <= _LINE:
        return f"LINE {place}"
    first, end = 0, len(query)
    while at - _columns(query[:first]) > _LINE // 2:
        first += 1
    while _columns(query[first:end]) > _LINE:
        end -= 1
    lead = f"LINE {number}:{' …' if first else ''}"
    gap = len(lead) + at - _columns(query[:first])
    marks = max(1, min(carets.count("^"), len(lead) + _columns(query[first:end]) - gap))
    shown = query[first:end] + ("…" if end < len(query) else "")
    return f"{lead}{shown}{newline}{' ' * gap}{'^' * marks}"


def _columns(text: str) -> int:
    return sum(map(_width, text))


def function_names(session: Connected | None) -> list[str]:
    """The functions of ours and of DuckDB's that a query may call; operators are left out."""
    from pausedata.query.macros import FUNCTIONS

    if session is None:
        return list(FUNCTIONS)
    with session.connection.cursor() as other:  # the session's own may be busy with a result
        rows = other.execute(
            "SELECT DISTINCT function_name FROM duckdb_functions() "
            "WHERE function_type <> 'pragma' AND regexp_matches(function_name, '^[a-z]\\w*$')"
        ).fetchall()
    return sorted({*FUNCTIONS, *(name for (name,) in rows)})


def _placed(error: Exception, session: Connected, sql: str) -> Exception:
    """``error`` with its place in ``sql``, which DuckDB leaves out where it makes a relation.

    Explaining a query does not run it.
    """
    if sql and "\n\nLINE " not in str(error):
        try:
            with session.connection.cursor() as other:
                other.execute(f"EXPLAIN\n{sql}")
        except duckdb.Error as again:
            what, _, place = str(again).partition("\n\nLINE ")
            number, _, rest = place.partition(":")
            if number.isdigit() and type(again) is type(error):
                indent = len(number) - len(str(int(number) - 1))  # LINE 10 is LINE 9
                line, _, carets = rest.partition("\n")
                rest = f"{line}\n{carets[indent:]}"
                return type(error)(f"{what}\n\nLINE {int(number) - 1}:{rest}")
        except RuntimeError:
            pass
    return error


def _without_tabs(place: str) -> str:
    """A space for each tab, and the caret below the same word: DuckDB takes tabs to be no wider
    than nothing.
    """
    line, newline, carets = place.partition("\n")
    if "\t" not in line or not carets:
        return place
    start, width, tabs = len(carets) - len(carets.lstrip()), 0, 0
    for character in f"LINE {line}":
        if character == "\t":
            tabs += 1
        elif width >= start:
            break
        else:
            width += _width(character)
    return line.replace("\t", " ") + newline + " " * tabs + carets


def _width(character: str) -> int:
    """How many columns of a terminal a character takes."""
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _no_column(name: str, text: str, pointed: str) -> str:
    """Names the columns nearest to ``name``: DuckDB's candidates are those of the query's views."""
    if pointed.startswith('"'):
        return f"No column {pointed}: a text stands in single quotes, '{name}'."
    _, _, listed = text.partition("Candidate bindings:")
    hint = nearest(name, re.findall(r'"([^"]+)"', listed))
    homes: dict[str, list[str]] = {}
    for view, columns in VIEWS.items():
        for column in columns:
            homes.setdefault(column, []).append(view)
    if name in homes:
        return f"No column '{name}' here; it is in {', '.join(homes[name])}."
    hint = hint or nearest(name, homes)
    return f"No column '{name}'." + (hint or " `DESCRIBE tokens` lists a view's columns.")


def _no_view(name: str, schema: str, pointed: str, attached: list[str]) -> str:
    """Names the nearest view, with the dataset that it was looked for in."""
    kind, slash, own = name.partition("/")
    if slash and kind in ("scores", "placements"):
        column = {"scores": "run", "placements": "placement"}[kind]
        return f"No view '{name}': FROM {kind} WHERE {column} = '{own}' is that table."
    if "/" in name or name.lower().endswith((".csv", ".parquet", ".json", ".jsonl", ".gz")):
        return f"'{name}': a query sees the dataset alone. --unsafe lets it read and write files."
    *before, name = name.split(".")
    if schema:
        near = nearest(schema, attached)
        there = f"There: {listing(attached)}." if attached else "None is: --attach NAME=PATH."
        return f"No dataset is attached as '{schema}'.{near} {there}"
    prefix = before[-1] if before else pointed.rpartition(".")[0].rpartition(".")[2].strip('"')
    known = [f"{prefix}.{view}" for view in VIEWS] if prefix in attached else list(VIEWS)
    looked_for = f"{prefix}.{name}" if prefix in attached else name
    return f"No view '{looked_for}'.{nearest(looked_for, known)} There: {', '.join(VIEWS)}."


def _pointed_at(place: str) -> str:
    """The words of the query under DuckDB's caret."""
    line, _, carets = place.partition("\n")
    line = f"LINE {line}"
    start = len(carets) - len(carets.lstrip())
    return line[start : start + carets.count("^")] if carets else ""


def _types(place: str) -> str:
    """The types of the columns that DuckDB's caret points at, or that stand beside it."""
    types = {name: kind for columns in VIEWS.values() for name, kind in columns.items()}
    line, _, carets = place.partition("\n")
    start = len(carets) - len(carets.lstrip()) - len("LINE ")
    end = start + carets.count("^")
    under = _WORD.findall(line[start:end])
    if not under:  # an operator
        under = [*_WORD.findall(line[:start])[-1:], *_WORD.findall(line[end:])[:1]]
    named = [name for name in dict.fromkeys(word.lower() for word in under) if name in types]
    return ", ".join(f"{name} is {types[name]}" for name in named)


def _shortened(text: str) -> str:
    """DuckDB's words on one line, without its name for the kind of error."""
    line = " ".join(re.sub(r"^[A-Z][\w -]*Error: ", "", text.strip()).split())
    line = _INTERNAL.sub(r"\2", line)
    return line if len(line) <= _MOST else line[: _MOST - 1] + "…"
