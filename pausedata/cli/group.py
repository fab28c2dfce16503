"""The commands, each imported when it is asked for, and the command line's own errors.

These are as ours are: a line that says what, and what to do.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any, get_args

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from pausedata.core.errors import nearest

# Typer takes Click from its own copy or from the package, by release: its classes say which.
ClickException: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
BadUse: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "UsageError")


# The modules of `pausedata.cli`, and their commands (`COMMANDS`), in the order of the help.
_MODULES = {
    "build": ("init", "plan", "build"),
    "score": ("score",),
    "dataset": ("place", "show", "verify"),
    "export": ("export",),
    "prepare": ("prepare-model",),
    "sql": ("sql",),
    "stats": ("stats",),
    "report": ("report",),
    "calibrate": ("calibrate",),
    "measure": ("measure",),
    "history": ("log", "diff", "rm"),
    "card": ("card",),
    "hub": ("push", "pull"),
    "gc": ("gc",),
    "info": ("strategies", "formats", "schema", "doctor"),
}


class Command(TyperCommand):
    """A command that takes what was not given, texts and paths as they are.

    Typer 0.29 checks each value with pydantic, even those: importing that takes as long as DuckDB.
    """

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, those of Typer's own as well."""
        return _quick(super().get_params(ctx), inspect.signature(self.callback or print))


class Commands(dict[str, Any]):
    """Every command by its name, made when it is looked up: importing all takes its time."""

    def __init__(self) -> None:
        super().__init__({name: None for names in _MODULES.values() for name in names})

    def __getitem__(self, name: str) -> Any:
        command = super().__getitem__(name)
        if command is None:
            (home,) = (module for module, names in _MODULES.items() if name in names)
            module = importlib.import_module(f"pausedata.cli.{home}")
            alone = typer.Typer(
                add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
            )
            alone.command(name, cls=Command)(module.COMMANDS[name])
            command = self[name] = get_command(alone)
        return command

    def get(self, name: str, default: Any = None) -> Any:
        """The command, if there is one."""
        if name not in self:
            return default
        return self[name]

    def items(self) -> Any:
        """All of them."""
        return [(name, self[name]) for name in self]


class Group(TyperGroup):
    """Commands whose misspelled names, options and values get the nearest right one."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = Commands()

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, as a `Command` has them."""
        return _quick(super().get_params(ctx), inspect.signature(self.callback or print))

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the commands."""
        return list(self.commands)

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run a command; ends the process with its status."""
        try:
            status = super().main(*args, standalone_mode=False, **extra)
        except ClickException as error:
            if type(error).__name__ == "NoArgsIsHelpError":
                error.show()
            else:
                typer.echo(f"error: {_told(error)}", err=True)
            sys.exit(error.exit_code)
        except typer.Abort:
            sys.exit(1)
        sys.exit(status if isinstance(status, int) else 0)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first word names."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise BadUse(
                f"no command '{args[0]}'.{nearest(args[0], self.commands)} "
                "`pausedata --help` lists them.",
                ctx,
            )
        return super().resolve_command(ctx, args)


def _quick(parameters: list[Any], signature: inspect.Signature) -> list[Any]:
    """The parameters, whose values are looked at by `_Taken` first."""
    for parameter in parameters:
        if not isinstance(parameter.process_value, _Taken):
            found = signature.parameters.get(parameter.name)
            hint = get_args(found.annotation)[:1] if found else ()  # of Annotated[hint, …]
            kinds = {kind for one in hint for kind in (one, *get_args(one))}
            parameter.process_value = _Taken(parameter, kinds)
    return parameters


class _Taken:
    """``process_value`` of a parameter, whose types are ``kinds``."""

    def __init__(self, parameter: Any, kinds: set[Any]) -> None:
        self._parameter, self._checked = parameter, parameter.process_value
        self._several = parameter.multiple or parameter.nargs != 1
        plain = next((kind for kind in (str, Path) if kind in kinds), None)
        self._plain = None if self._several or parameter.callback else plain

    def __call__(self, ctx: Any, value: Any) -> Any:
        parameter = self._parameter
        if value is None and not parameter.required:
            value = () if self._several else None
            return parameter.callback(ctx, parameter, value) if parameter.callback else value
        if self._plain is not None and isinstance(value, str) and _is_text(value):
            return self._plain(value)
        return self._checked(ctx, value)


def _is_text(value: str) -> bool:
    """Whether it says something, in characters that UTF-8 has."""
    return value != "" and not any("\ud800" <= c <= "\udfff" for c in value)


def _told(error: Any) -> str:
    """One of Click's errors in our words: what is wrong, the nearest right thing, an example."""
    said = str(error.format_message()).rstrip(".")
    said = said[:1].lower() + said[1:]
    context: Any = getattr(error, "ctx", None)
    if context is None:
        return f"{said}."
    command, kind = context.command, type(error).__name__
    if isinstance(command, Group) and kind == "UsageError":
        return f"{said}."
    help = f"`{context.command_path} --help` tells more."
    if kind == "NoSuchOption":
        known = [name for param in command.params for name in (*param.opts, *param.secondary_opts)]
        options = [name for name in known if name.startswith("-")]
        return f"no option '{error.option_name}'.{nearest(error.option_name, options)} {help}"
    example = _example(command)
    if kind == "MissingParameter" and example:
        return f"{said}. Example: {example}"
    return f"{said}. {help}"


def _example(command: Any) -> str | None:
    """The first example of a command's help."""
    _, found, after = (command.help or "").partition("Example:")
    return after.strip().partition("\n\n")[0].replace("\n", " ").strip() if found else None
