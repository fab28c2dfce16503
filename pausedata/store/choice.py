"""Which placements an export is made from: one, several mixed by weight, or one for each epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Choice = str | Mapping[str, float] | Sequence[str]


def names_in(choice: Choice) -> list[str]:
    """The placements that a choice names, each once."""
    return [choice] if isinstance(choice, str) else list(dict.fromkeys(choice))


def epochs_of(choice: Choice) -> list[tuple[str, Mapping[str, float]]]:
    """For each epoch the suffix of its split's name, and its placements with their weights."""
    if isinstance(choice, str):
        return [("", {choice: 1})]
    if isinstance(choice, Mapping):
        return [("", choice)]
    return [(f".epoch{k}", {name: 1}) for k, name in enumerate(choice, 1)]


def describe_choice(choice: Choice) -> str:
    """A choice in a few words: ``dit``, ``dit 3 + append 1``, ``a, then b``."""
    if isinstance(choice, str):
        return choice
    if isinstance(choice, Mapping):
        return " + ".join(f"{name} {weight:g}" for name, weight in choice.items())
    return ", then ".join(choice)
