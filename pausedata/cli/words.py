"""The words of a command without those that say how it talks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

EVERYWHERE = ("--quiet", "--verbose", "--log-file", "--debug")  # before a command and after it


def without_everywhere(words: Sequence[str], group: Any) -> list[str]:
    """``words``, as a person typed them after `pausedata`, but for the options of `EVERYWHERE`.

    What an option takes is told by ``group``, the commands themselves, so that the text of
    `--message --quiet` stays.
    """
    kept, rest = list[str](), iter(words)
    name = _scan(rest, group.params, kept, to_argument=True)
    if name is not None:
        kept.append(name)
        command = group.commands.get(name)
        _scan(rest, command.params if command is not None else [], kept)
    return kept


def _scan(
    rest: Iterator[str], params: list[Any], kept: list[str], *, to_argument: bool = False
) -> str | None:
    """Put into ``kept`` what stays; with ``to_argument`` up to the first argument, given back."""
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
