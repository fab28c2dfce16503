"""The prompt of ``sql``: history, completion, several lines, a stop by Ctrl-C."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.lexers import PygmentsLexer
from prompt_toolkit.output import create_output
from pygments.lexers.sql import SqlLexer

from pausedata.cli.common import answer as tell
from pausedata.cli.common import say
from pausedata.cli.statement import run_statement
from pausedata.core.cache import cache_folder
from pausedata.core.errors import PausedataError, UsageError, nearest
from pausedata.query.messages import function_names
from pausedata.query.output import Format, chosen_format
from pausedata.query.statements import Statement, is_complete, statements
from pausedata.query.views import VIEWS

if TYPE_CHECKING:
    from pausedata.query.session import Session

_HELP = """\
A query ends with ; and may take several lines. Ctrl-C stops a running
one, or clears what is typed; Ctrl-D leaves. Tab completes views, columns
and functions, and names behind run = ', placement = ' and split = '.

.tables              the views, with those of attached datasets
.schema [VIEW]       the columns of a view, or of all
.format [FORMAT]     table, csv, json or jsonl
.timing [on|off]     whether rows and seconds are shown after each query
.help                this
.quit                leave

Try: SELECT token, logprob FROM tokens ORDER BY logprob LIMIT 10;"""
_WORDS = {"exit", "quit", "help"}  # what people type without a dot
_KEYWORDS = [
    "SELECT", "FROM", "WHERE", "GROUP", "BY", "ORDER", "LIMIT", "OFFSET", "HAVING", "QUALIFY",
    "JOIN", "LEFT", "USING", "ON", "AS", "AND", "OR", "NOT", "IN", "IS", "NULL", "LIKE", "ILIKE",
    "BETWEEN", "CASE", "WHEN", "THEN", "ELSE", "END", "DISTINCT", "ASC", "DESC", "UNION", "ALL",
    "WITH", "FILTER", "OVER", "PARTITION", "DESCRIBE", "SUMMARIZE", "EXPLAIN", "ANALYZE",
    "EXCLUDE", "REPLACE", "PIVOT", "UNPIVOT", "EXISTS", "CAST", "INTERSECT", "EXCEPT", "SHOW",
    "TABLES", "VALUES", "SAMPLE",
]  # fmt: skip
_LABEL = re.compile(
    r"\b(run|placement|split)\s*(?:=|<>|!=|in\s*\((?:\s*'[^']*'\s*,)*)\s*'([^']*)$", re.IGNORECASE
)
_AFTER_FROM = re.compile(r"\b(?:from|join|describe|summarize)\s+\w*$", re.IGNORECASE)
_WORD = re.compile(r"[\w.]*$")


def prompt(session: Session, format: Format = "table", limit: int | None = None) -> None:
    """Ask for queries over ``session`` and answer them, until the person leaves."""
    Shell(session, format, limit).loop()


class Shell:
    """What the prompt does with what is typed."""

    def __init__(self, session: Session, format: Format, limit: int | None) -> None:
        self.session, self.limit = session, limit
        self.format: Format = format
        self.timing = True
        self.left = False

    def loop(self) -> None:
        """Read and answer until Ctrl-D or ``.quit``."""
        asker = _asker(NameCompleter(self.session))
        version = self.session.version
        say(f"{version.root.name}, version {version.number}. .help says more, Ctrl-D leaves.")
        while not self.left:
            try:
                text = asker.prompt("sql> ", prompt_continuation="...> ")
            except KeyboardInterrupt:
                continue
            except EOFError:
                return
            self.answer(text)

    def answer(self, text: str) -> None:
        """Run what was typed: a dot command, or statements. What is wrong is told, and no more."""
        try:
            word = text.strip().rstrip(";").lower()
            if word in _WORDS or text.lstrip().startswith("."):
                self._command(*("." + word if word in _WORDS else text.strip().rstrip(";")).split())
            elif text.strip():
                for statement in statements(text, self.session.connection):
                    self._query(statement)
        except PausedataError as error:
            sys.stdout.flush()
            tell(f"error: {error}")
        except KeyboardInterrupt:
            sys.stdout.flush()
            tell("stopped")

    def _query(self, statement: Statement) -> None:
        start = time.perf_counter()
        rows, done = run_statement(self.session, statement, self.format, None, self.limit)
        if self.timing:
            seconds = time.perf_counter() - start
            counted = "" if done else "more than "  # a table shows the first ones
            say(f"{counted}{rows:,} row{'' if rows == 1 else 's'} in {seconds:.3f} s")

    def _command(self, word: str, *given: str) -> None:
        commands: dict[str, Callable[..., None]] = {
            ".tables": self._tables, ".schema": self._schema, ".format": self._format,
            ".timing": self._timing, ".help": self._help, ".quit": self._quit, ".exit": self._quit,
        }  # fmt: skip
        if word not in commands:
            raise UsageError(f"There is no {word}.{nearest(word, commands)} See .help.")
        if len(given) > (word in (".schema", ".format", ".timing")):
            raise UsageError(f"{word} takes no '{given[-1]}'. See .help.")
        commands[word](*given)

    def _tables(self) -> None:
        for prefix in ("", *(f"{name}." for name in self.session.attached)):
            for view in VIEWS:
                print(prefix + view)

    def _schema(self, name: str = "") -> None:
        prefix, _, view = name.rpartition(".")
        if view and (view not in VIEWS or (prefix and prefix not in self.session.attached)):
            raise UsageError(f"No view '{name}'.{nearest(view, VIEWS)} .tables lists them.")
        for one in [view] if view else VIEWS:
            listed = ", ".join(f"{column} {kind}" for column, kind in VIEWS[one].items())
            print(f"{prefix + '.' if prefix else ''}{one}({listed})")

    def _format(self, name: str = "") -> None:
        if name:
            chosen = chosen_format(name, None)
            if chosen == "parquet":
                raise UsageError("Parquet is no text: use -o FILE.parquet with a query.")
            self.format = chosen
        print(self.format)

    def _timing(self, word: str = "") -> None:
        if word not in ("", "on", "off"):
            raise UsageError(f".timing is on or off, not '{word}'.")
        self.timing = word == "on" if word else not self.timing
        print(f"timing {'on' if self.timing else 'off'}")

    def _help(self) -> None:
        print(_HELP)

    def _quit(self) -> None:
        self.left = True


class NameCompleter(Completer):
    """Completes what a query can name where the cursor stands."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._functions: list[str] | None = None  # asked for when the first is wanted

    def get_completions(self, document: Document, complete_event: Any) -> Iterator[Completion]:
        """What may stand at the cursor, in the order of what is likeliest."""
        before = document.text_before_cursor
        if label := _LABEL.search(before):
            begun, candidates = label[2], self._labels(label[1].lower())
        elif before.lstrip().startswith("."):
            begun = before.lstrip()
            candidates = [".tables", ".schema ", ".format ", ".timing ", ".help", ".quit"]
            if begun.startswith(".schema "):
                begun, candidates = begun.removeprefix(".schema "), list(VIEWS)
            if begun.startswith(".format "):
                candidates = [f for f in get_args(Format) if f != "parquet"]
                begun = begun.removeprefix(".format ")
        elif before.count("'") % 2:  # inside a text
            return
        else:
            found = _WORD.search(before)
            begun = found[0] if found else ""
            candidates = self._words(document.text, before, begun)
        for word in dict.fromkeys(candidates):
            if word.lower().startswith(begun.lower()):
                yield Completion(word, start_position=-len(begun))

    def _labels(self, label: str) -> list[str]:
        names = {"run": "runs", "placement": "placements", "split": "splits"}[label]
        return [name for version in self._session.versions() for name in getattr(version, names)]

    def _words(self, text: str, before: str, begun: str) -> Iterable[str]:
        attached = self._session.attached
        named = {word.lower() for word in re.findall(r"\w+", text)} & set(VIEWS)
        prefix, dot, _ = begun.rpartition(".")
        if dot:
            if prefix in attached:
                return [f"{prefix}.{view}" for view in VIEWS]
            views = [prefix] if prefix in VIEWS else named or VIEWS  # an alias is any of them
            return [f"{prefix}.{column}" for view in views for column in VIEWS[view]]
        if _AFTER_FROM.search(before):
            return [*VIEWS, *(f"{name}." for name in attached)]
        if self._functions is None:
            self._functions = function_names(self._session)
        columns = [column for view in named or VIEWS for column in VIEWS[view]]
        upper = begun.isupper()
        keywords = _KEYWORDS if upper else [word.lower() for word in _KEYWORDS]
        functions = [f"{name}(" for name in self._functions] if begun else []
        return [*columns, *VIEWS, *(f"{n}." for n in attached), *keywords, *functions]


def _asker(completer: Completer) -> PromptSession[str]:
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: Any) -> None:
        buffer = event.current_buffer
        text = buffer.text.strip()
        if not text or text.startswith(".") or text.lower() in _WORDS or is_complete(text):
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n")

    return PromptSession(
        multiline=True,
        key_bindings=keys,
        completer=completer,
        complete_while_typing=False,
        history=_history(),
        output=create_output(always_prefer_tty=True),  # results may go into a pipe
        lexer=None if os.environ.get("NO_COLOR") else PygmentsLexer(SqlLexer),
    )


def _history() -> History:
    """In the user's cache, for the person alone; none where nothing can be written there."""
    path = cache_folder() / "sql_history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        path.chmod(0o600)
    except OSError:
        return InMemoryHistory()
    return _Forgiving(path)


class _Forgiving(FileHistory):
    """A history whose file may become unwritable."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))

    def store_string(self, string: str) -> None:
        with suppress(OSError):
            super().store_string(string)
