"""A command line without the options that change only what is printed, for manifests and logs.

It is made from the words as they were typed, not from what Click parsed: the order of options and
the spelling of values (``0.10``, ``k=[a, b]``) are part of what a person wants to see again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

EVERYWHERE = ("--quiet", "--verbose", "--log-file", "--debug")  # before a command and after it


def without_everywhere(words: Sequence[str], group: Any) -> list[str]:
    """``words``, as a person typed them after `pausedata`, but for the options of `EVERYWHERE`.

    ``group``, Typer's commands, says which options take a value: in `--message --quiet` the second
    word is a text, and stays.
    """
    kept, rest = list[str](), iter(words)
    name = _keep_words(rest, group.params, kept, to_argument=True)
    if name is not None:
        kept.append(name)
        command = group.commands.get(name)
        _keep_words(rest, command.params if command is not None else [], kept)
    return kept


def _keep_words(
    rest: Iterator[str], params: list[Any], kept: list[str], *, to_argument: bool = False
) -> str | None:
    """Append the words that stay to ``kept``.

    With ``to_argument`` only those before the first argument, which is returned.
    """
    options = {o: p for p in params if p.param_type_name == "option" for o in p.opts}
    for word in rest:
        if word == "--":
            kept += [word, *rest]
            return None
        if not word.startswith("-") or word == "-":
            if to_argument:
                return word
            kept.append(word)
            continue
        option, equals, _ = word.partition("=")
        found = options.get(option)
        takes = found is not None and not found.is_flag and not found.count and not equals
        given = [word, *([value] if takes and (value := next(rest, None)) is not None else [])]
        if option not in EVERYWHERE:
            kept += given
    return None
