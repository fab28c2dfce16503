"""What the commands share: options, errors, output."""

from __future__ import annotations

import errno
import functools
import inspect
import io
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from pausedata.cli import complete
from pausedata.core.errors import PausedataError, UsageError

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console, RenderableType

    from pausedata.cli.render.log_file import LogFile
    from pausedata.core.progress import Progress

_LIBRARIES = (
    "pausedata", "torch", "transformers", "tokenizers", "datasets", "huggingface_hub", "pyarrow",
    "numpy", "duckdb", "vllm",
)  # fmt: skip
_PATH_OPTIONS = {"-o", "--output"}
_ADDRESS_OPTIONS = {"--url", "--set"}
_PATH_KEYS = {"output", "source.files"}  # of a recipe

Function = TypeVar("Function", bound=Callable[..., Any])


class Terminated(BaseException):
    """SIGTERM came: a scheduler takes the machine away."""


@dataclass
class Settings:
    """The options that may stand before a command and after it, and what belongs to them."""

    quiet: bool = False
    verbose: bool = False
    log_file: Path | None = None
    debug: bool = False
    log: LogFile | None = None  # once it is open
    commands: Any = None  # all of them, as Typer has them, once one runs
    stopped: str = "nothing was changed."  # what is true, and to be done, where a stop comes now

    def clear(self) -> None:
        """As if nothing had been said: a process may run several commands, as the tests do."""
        if self.log is not None:
            self.log.close()
        for field in fields(self):
            setattr(self, field.name, field.default)

    def take(
        self,
        quiet: bool = False,
        verbose: bool = False,
        log_file: Path | None = None,
        debug: bool = False,
    ) -> None:
        """Add what was said behind the command to what was said before it."""
        self.quiet |= quiet
        self.verbose |= verbose
        self.debug |= debug
        self.log_file = log_file or self.log_file

    def begin(self) -> None:
        """Open the log. UsageError where it cannot be, or where the options exclude each other."""
        if self.quiet and self.verbose:
            raise UsageError("--quiet and --verbose: give one; --log-file hears all under both.")
        if self.log_file is not None:
            from pausedata.cli.render.log_file import LogFile

            self.log = LogFile(self.log_file)


settings = Settings()

Quiet = Annotated[bool, typer.Option("--quiet", help="Print warnings and errors alone.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", help="Tell more: what is read and written, times, versions.")
]
LogTo = Annotated[
    Path | None,
    typer.Option(
        "--log-file", metavar="PATH", help="Append all that --verbose tells, with times, to a file."
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
_SURROGATE = re.compile("[\ud800-\udfff]+")
_EVERYWHERE = {"quiet": Quiet, "verbose": Verbose, "log_file": LogTo, "debug": Debug}
DatasetPath = Annotated[
    Path,
    typer.Argument(help="The dataset's folder, or hf://ORG/NAME[@REV].", metavar="DATASET"),
]
RecipePath = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", metavar="RECIPE")]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on standard output, nothing else.")
]
MaxNewTokens = Annotated[
    int, typer.Option("--max-new-tokens", min=1, help="Tokens of an answer, without pauses.")
]
AnswerBatch = Annotated[
    int, typer.Option("--batch", min=1, help="Answers that are generated side by side.")
]
DType = Annotated[
    str,
    typer.Option(
        "--dtype",
        help="float32, bfloat16 or float16.",
        autocompletion=complete.words("float32", "bfloat16", "float16"),
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 …")]
AtVersion = Annotated[
    int | None,
    typer.Option(
        "--version",
        help="Read this version instead of the current one.",
        autocompletion=complete.versions,
    ),
]
Replace = Annotated[
    bool, typer.Option("--replace", help="Remake what is there under this name, made otherwise.")
]
ReplaceExamples = Annotated[
    bool,
    typer.Option(
        "--replace", help="Let the examples change; scores of unchanged ones are carried over."
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", help="The dataset's folder, instead of the recipe's output."),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a key of the recipe; the value is YAML."
    ),
]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, help="The first N rows of each split alone.")
]
Where = Annotated[
    str | None,
    typer.Option(
        "--where",
        metavar="CONDITION",
        help="Examples that meet a condition in SQL, over the columns of the view `examples` "
        "and the run's mean_logprob and min_logprob.",
    ),
]
Update = Annotated[bool, typer.Option("--update", help="Resolve revisions and the backend anew.")]


def command(function: Function) -> Function:
    """A command whose errors are messages and exit statuses, not tracebacks.

    It takes the options that may stand anywhere, too: `Settings`.
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        settings.take(**{name: kwargs.pop(name) for name in _EVERYWHERE if name in kwargs})
        started, status = time.monotonic(), 0
        try:
            return _explained(function, *args, **kwargs)
        except typer.Exit as end:
            status = end.exit_code
            raise
        except BaseException:
            status = 1
            if settings.log is not None:
                import traceback

                settings.log.write(traceback.format_exc())
            raise
        finally:
            if settings.log is not None:
                seconds = time.monotonic() - started
                settings.log.write(f"ended with status {status} after {seconds:.1f} s")

    signature = inspect.signature(function, eval_str=True)
    own = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None if name == "log_file" else False,
            annotation=annotation,
        )
        for name, annotation in _EVERYWHERE.items()
    ]
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), *own]
    )
    run.__annotations__ = function.__annotations__ | _EVERYWHERE
    return run  # type: ignore[return-value]


def _explained(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What ``function`` returns; its errors as messages."""
    try:
        settings.begin()
        _introduce()
        if isinstance(given := kwargs.get("dataset"), Path):
            kwargs["dataset"] = located(given)
        return function(*args, **kwargs)
    except PausedataError as error:
        fail(str(error), error.exit_code, error)
    except KeyboardInterrupt as error:
        fail(f"interrupted; {settings.stopped}", 130, error)
    except Terminated as error:
        fail(f"terminated; {settings.stopped}", 143, error)
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except OSError as error:
        fail(_explain(error), 1, error)
    except UnicodeEncodeError as error:
        # Arrow, DuckDB and tokenizers take names as UTF-8. Names that Python read as what they are
        # not have surrogates in the place of their bytes.
        if (found := _SURROGATE.search(error.object)) is None:
            raise
        near = error.object[max(0, found.start() - 60) : found.end() + 60]
        name = _SURROGATE.sub("?", near)
        fail(f"…{name}…: a name that is not UTF-8. Rename the file or folder.", 1, error)


def if_stopped(kept: str, *, goes_on: bool = True) -> None:
    """From here on, say after a stop that ``kept`` is true, and how to go on or begin again."""
    again = "To go on" if goes_on else "To begin again"
    settings.stopped = f"{kept}. {again}: {shlex.join(['pausedata', *sys.argv[1:]])}"


def _introduce() -> None:
    """With --verbose or --log-file, tell which versions run here and where the caches are."""
    if settings.log is None and not settings.verbose:
        return
    from importlib import metadata

    from pausedata.core.cache import cache_folder

    if settings.log is not None:
        settings.log.write(f"pausedata {command_line()}")
    found = [f"Python {sys.version.split()[0]}"]
    for library in _LIBRARIES:
        try:
            found.append(f"{library} {metadata.version(library)}")
        except metadata.PackageNotFoundError:
            continue
    detail(f"versions: {', '.join(found)}")
    from huggingface_hub.constants import HF_HUB_CACHE

    detail(f"folders: here {Path.cwd()}, cache {cache_folder()}, Hugging Face's {HF_HUB_CACHE}")


def located(path: Path) -> Path:
    """The folder of a dataset that is named on the command line, also by ``hf://…``."""
    from pausedata.hub import locate

    return locate.located(path, progress)


class _NoPandas:
    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'", name=fullname)


def without_pandas() -> None:
    """Let pyarrow go without pandas, which it imports for its first array to see whether it is one
    of pandas': a third of a cold start. Not for commands that run others' code.
    """
    if "pyarrow" in sys.modules:  # it may have looked
        return
    finder: Any = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        import pyarrow

        pyarrow.array([0])  # it looks once
    finally:
        sys.meta_path.remove(finder)


def fail(message: str, status: int, error: BaseException) -> None:
    """Print ``message`` as an error and end with ``status``; the traceback under --debug alone."""
    if settings.debug:
        import traceback

        traceback.print_exception(error)
    _tell(f"error: {message}")
    raise typer.Exit(status) from None


def print_json(value: Any) -> None:
    """The one JSON document on standard output."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))


def say(message: str) -> None:
    """A message for the person, on standard error; not where --quiet was given."""
    if settings.log is not None:
        settings.log.write(message)
    if not settings.quiet:
        typer.echo(message, err=True)


def warn(message: str) -> None:
    """A warning, on standard error."""
    _tell(f"warning: {message}")


def answer(message: str) -> None:
    """What a person has to see to go on: what a question is about, what a key did."""
    _tell(message)


def detail(message: str) -> None:
    """A message for those who asked for more."""
    if settings.log is not None:
        settings.log.write(message)
    if settings.verbose:
        typer.echo(message, err=True)


def _tell(message: str) -> None:
    if settings.log is not None:
        settings.log.write(message)
    typer.echo(message, err=True)


def progress() -> Progress:
    """Who listens to the steps: bars on a terminal, plain lines elsewhere, and the log."""
    from pausedata.cli.render.progress import Lines, Several, listener

    shown = listener(quiet=settings.quiet, verbose=settings.verbose)
    if settings.log is None:
        return shown
    return Several(shown, Lines(settings.log.write, verbose=True))


def console() -> Console:
    """Standard output, as Rich sees it. What its encoding has no bytes for is escaped there."""
    from rich.console import Console

    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    return Console(highlight=False, markup=False, emoji=False)


def print_rich(rendered: RenderableType) -> None:
    """What Rich draws, on standard output; its lines are whole where that is no terminal."""
    out = console()
    out.print(rendered, soft_wrap=not out.is_terminal)


def command_line() -> str:
    """The command as it was typed, without folders and servers: a manifest names no machine.

    Options that only change what is printed are left out, too.
    """
    from pausedata.cli.words import without_everywhere

    words = _without_address(without_everywhere(sys.argv[1:], settings.commands))
    # Paths on the command line start from here, those in a recipe's keys from the recipe.
    starts = [Path(), *(Path(word).parent for word in words if Path(word).is_file())]
    recorded = []
    for before, word in zip(["", *words], words, strict=False):
        is_path = before in _PATH_OPTIONS
        recorded.append(_without_folders(word, starts, is_path))
    return shlex.join(recorded)


def parameters(given: list[str] | None, options: type[BaseModel]) -> dict[str, Any]:
    """``--param K=V`` as a mapping for ``options``; ``a.b=V`` sets b of a.

    Values are read as YAML, but for those that are free text.
    """
    from pausedata.core.options import text_keys
    from pausedata.pipeline.recipe import parse_set

    nested: dict[str, Any] = {}
    for dotted, value in parse_set(given or [], "--param", text_keys(options)).items():
        *outer, key = dotted.split(".")
        holder = nested
        for step in outer:
            holder = holder.setdefault(step, {})
            if not isinstance(holder, dict):
                raise UsageError(f"--param {dotted}: '{step}' has a value already. Give one.")
        if key in holder:
            raise UsageError(f"--param {dotted}: it has a value already. Give it once.")
        holder[key] = value
    return nested


def checked_name(name: str, what: str) -> str:
    """``name`` if it may be a run's, a placement's or an export's."""
    from pausedata.core.names import NAME_PATTERN

    if not re.fullmatch(NAME_PATTERN, name):
        raise UsageError(
            f"'{name}' cannot name {what}: use letters, digits, '.', '_' and '-', at most 64, "
            "beginning with a letter or digit."
        )
    return name


def _without_address(words: list[str]) -> list[str]:
    """The words without those that say where a server runs."""
    kept, rest = list[str](), iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        if option not in _ADDRESS_OPTIONS:
            kept.append(word)
            continue
        given = [word] if equals else [word, value := next(rest, "")]
        if option == "--set":
            key, _, setting = value.partition("=")
            if key == "scoring":
                kept += [*given[:-1], given[-1].removesuffix(setting) + _without_url(setting)]
            elif key != "scoring.url":
                kept += given
    return kept


def _without_url(setting: str) -> str:
    """A value given for the recipe's ``scoring``, without the server's address."""
    import yaml

    from pausedata.pipeline.recipe import read_value

    value = read_value(setting)
    if not isinstance(value, dict) or "url" not in value:
        return setting
    rest = {key: held for key, held in value.items() if key != "url"}
    return yaml.safe_dump(rest, default_flow_style=True, sort_keys=False, width=10**6).strip()


def _without_folders(word: str, starts: list[Path], is_path: bool) -> str:
    """Paths cut down to their base names, also in ``key=[a/b, c/d]``; Hub ids stay whole."""
    key, equals, value = word.partition("=")
    if equals and re.fullmatch(r"[\w.-]+", key) and not is_path:
        return f"{key}={_without_folders(value, starts, key in _PATH_OPTIONS | _PATH_KEYS)}"
    if word[:1] in "[{":  # YAML: each of its values may be a path, behind its key or not
        return re.sub(
            r"([\w.-]+:\s+)?([^\[\]{},\"']+)",
            lambda part: (part[1] or "") + _base_name(part[2], starts, is_path),
            word,
        )
    return _base_name(word, starts, is_path)


def _base_name(text: str, starts: list[Path], is_path: bool) -> str:
    path = text.strip()
    if os.sep not in path:
        return text
    local = is_path or path.startswith((os.sep, ".", "~")) or path.count(os.sep) > 1
    if not local and not any((start / path).exists() for start in starts):
        return text  # as ORG/NAME
    lead = text[: len(text) - len(text.lstrip())]
    return lead + Path(path).name


def _explain(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    reason = error.strerror or str(error).splitlines()[0]
    todo = {
        errno.ENOSPC: "Free some room and run the same command again: finished shards are kept.",
        errno.EDQUOT: "Free some room and run the same command again: finished shards are kept.",
        errno.EROFS: "Choose a folder that can be written to (--output).",
        errno.EACCES: "Change its permissions, or choose a place that you may use.",
        errno.EPERM: "Change its permissions, or choose a place that you may use.",
    }.get(error.errno or 0, "What was committed is unharmed.")
    return f"{where}{reason}. {todo}"
