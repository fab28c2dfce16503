"""``sql``: questions to a dataset, given on the command line, in a file, or at a prompt."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pausedata.cli import complete
from pausedata.cli.common import (
    AsJson,
    AtVersion,
    DatasetPath,
    command,
    fail,
    located,
    progress,
    without_pandas,
)
from pausedata.cli.statement import run_statement
from pausedata.core.errors import UsageError

if TYPE_CHECKING:
    from pausedata.query.direct import Direct
    from pausedata.query.output import Format
    from pausedata.query.session import Limits, Session
    from pausedata.store.dataset import Version
    from pausedata.store.opening import Opened


@command
def sql(
    dataset: DatasetPath,
    query: Annotated[
        str | None,
        typer.Argument(help="The query; - reads it from standard input.", show_default=False),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("-f", "--file", help="Read the query from this file.")
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="table, csv, json, jsonl or parquet; -o's ending tells too.",
            autocompletion=complete.words("table", "csv", "json", "jsonl", "parquet"),
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write to this file.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=0, help="At most N rows of the result.")
    ] = None,
    attach: Annotated[
        list[str] | None,
        typer.Option(
            "--attach",
            metavar="NAME=PATH[@VERSION]",
            help="Another dataset, whose views are NAME.tokens and so on. May be repeated.",
        ),
    ] = None,
    version: AtVersion = None,
    memory: Annotated[
        str | None,
        typer.Option("--memory", help="What a query may use: 4GB (default: 80 % of all)."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads of a query (default: all cores)")
    ] = None,
    spill: Annotated[
        Path | None,
        typer.Option("--spill", help="The folder for what does not fit into memory."),
    ] = None,
    flat: Annotated[
        bool, typer.Option("--flat", help="Make a flat copy of the tokens in the cache and use it.")
    ] = False,
    unsafe: Annotated[
        bool,
        typer.Option(
            "--unsafe", help="Let queries read and write files and use the network: your own alone."
        ),
    ] = False,
    json: AsJson = False,
) -> None:
    """Ask in SQL. Views: examples, tokens, pauses; as stored: tokens_nested, scores, placements,
    vocab. Without a query, a prompt (.help says more there); several statements, each ended by ;,
    are run in their order.

    A terminal shows the first 100 rows, cut to its width; a file or pipe gets all of them.

    Example: pausedata sql build/gsm8k "select token, min(logprob) from tokens group by token"

    Example: pausedata sql build/gsm8k -f question.sql --format csv -o answer.csv

    Example: pausedata sql base --attach tuned=build/tuned "select avg(logprob) from tuned.tokens"
    """
    from pausedata.query.output import chosen_format
    from pausedata.query.session import Limits
    from pausedata.store.opening import read_opened

    if json and format not in (None, "json"):
        raise UsageError(f"--json is --format json: leave out --format {format}.")
    if output is not None:
        from pausedata.store.dataset import check_output

        check_output(output)
        if not output.parent.is_dir():
            raise UsageError(f"{output}: there is no folder {output.parent} to write it to.")
    chosen = chosen_format("json" if json else format, output)
    text = _text(query, file)
    opened, limits = read_opened(dataset, version), Limits(memory, threads, spill)
    others = _attached(attach) if attach else {}
    asker: Session | Direct | None = None
    try:
        if text is None:
            if output is not None or chosen == "parquet":
                raise UsageError("A prompt writes no file: give the query, or -f FILE.sql.")
            from pausedata.cli.prompt import prompt

            prompt(asker := _session(opened, others, limits, unsafe, flat), chosen, limit)
            return
        if others or unsafe or flat:
            asker = _session(opened, others, limits, unsafe, flat)
        else:
            from pausedata.query.direct import Direct

            asker = Direct(opened, limits, lambda: _session(opened, {}, limits))
        _answer(asker, text, chosen, output, limit)
    except KeyboardInterrupt as error:
        fail("stopped.", 130, error)
    finally:
        if asker is not None:
            asker.close()


def _session(
    opened: Opened,
    attached: dict[str, Version],
    limits: Limits,
    unsafe: bool = False,
    flat: bool = False,
) -> Session:
    without_pandas()
    from pausedata.core.progress import Silent
    from pausedata.query.session import Session
    from pausedata.store.dataset import checked

    listener = progress() if flat else Silent()
    return Session(checked(opened), attached, limits, unsafe, flat, listener)


def _text(query: str | None, file: Path | None) -> str | None:
    """The statements to run; None where a prompt asks for them."""
    if file is not None:
        if query is not None:
            raise UsageError("Give the query or -f FILE, not both.")
        if str(file) == "-":
            return sys.stdin.read()
        try:
            return file.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise UsageError(f"{file}: cannot be read: {error.strerror or error}.") from None
        except UnicodeDecodeError:
            raise UsageError(f"{file}: is not text in UTF-8.") from None
    if query == "-" or (query is None and not sys.stdin.isatty()):
        return sys.stdin.read()
    return query


def _answer(
    asker: Session | Direct, text: str, format: Format, output: Path | None, limit: int | None
) -> None:
    from pausedata.query.statements import statements

    found = statements(text, asker.connection)
    if len(found) > 1 and (output is not None or format == "json"):
        raise UsageError(
            f"{'-o' if output is not None else 'JSON'} takes one statement, not {len(found)}."
        )
    for statement in found:
        run_statement(asker, statement, format, output, limit)


def _attached(given: list[str]) -> dict[str, Version]:
    from pausedata.query.session import check_schema_name
    from pausedata.store.dataset import open_version

    attached: dict[str, Version] = {}
    for word in given:
        name, equals, place = word.partition("=")
        if not equals or not place:
            raise UsageError(f"--attach '{word}': write NAME=PATH, as in other=build/other.")
        check_schema_name(name)
        if name.lower() in map(str.lower, attached):
            raise UsageError(f"--attach: '{name}' is given twice.")
        path, at, number = place.rpartition("@")
        numbered = bool(at and path and number.isdigit()) and not Path(place).exists()
        attached[name] = open_version(
            located(Path(path if numbered else place)), int(number) if numbered else None
        )
    return attached


COMMANDS = {"sql": sql}
