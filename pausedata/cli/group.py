"""The command line's own errors, as ours are: a line that says what, and what to do."""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from pausedata.core.errors import nearest

# Typer takes Click from its own copy or from the package, by release: its classes say which.
ClickException: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
BadUse: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "UsageError")


class Group(TyperGroup):
    """Commands whose misspelled names, options and values get the nearest right one."""

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
