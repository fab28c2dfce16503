"""What pydantic finds wrong with what a person wrote: which key, what belongs there, the nearest.

Errors in recipes, strategies and formats are all worded here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from pausedata.core.errors import UsageError, nearest
from pausedata.core.names import NAME_PATTERN, SPLIT_PATTERN
from pausedata.core.options import models_in

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

PAUSE_PATTERN = r"^\S.*\S$|^\S$"
_PATTERNS = {
    NAME_PATTERN: "use letters, digits, '.', '_' and '-', at most 64, "
    "beginning with a letter or digit",
    SPLIT_PATTERN: "a split name is letters, digits and '_', with single dots between",
    PAUSE_PATTERN: "give a text in one line that neither begins nor ends with a space",
}
_KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping of keys",
    "model_type": "a mapping of keys",
}
_LIMITS = {
    "greater_than_equal": ("at least", "ge"),
    "less_than_equal": ("at most", "le"),
    "greater_than": ("more than", "gt"),
    "less_than": ("less than", "lt"),
}


Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Invalid:
    """The first thing that is wrong.

    ``key`` is dotted, and empty where no single key is to blame. ``hint`` begins with a space: the
    nearest right key or value, or for an unknown key that is near to none all that there are.
    """

    kind: Literal["unknown", "missing", "wrong"]
    key: str
    message: str  # without a full stop; of a wrong value alone
    hint: str
    more: int  # problems besides this one


def checked(model: type[Model], data: Any, where: str) -> Model:
    """``data`` as a ``model``; UsageError, beginning with ``where``, says what is wrong with it."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        wrong = find_invalid(error, model, data)
    if wrong.kind == "unknown":
        raise UsageError(f"{where}: unknown key '{wrong.key}'.{wrong.hint}")
    if wrong.kind == "missing":
        raise UsageError(f"{where}: {wrong.key} is missing.{wrong.hint}")
    at = f"{where}: {wrong.key}" if wrong.key else where
    raise UsageError(f"{at}: {wrong.message}.{wrong.hint}")


def find_invalid(error: ValidationError, model: type[BaseModel], values: Any) -> Invalid:
    """The problem to tell of ``values``, which ``model`` refused with ``error``."""
    problems = [(_keys(p, values), p) for p in error.errors()]
    # A misspelled key is why the right one is missing.
    keys, problem = next((p for p in problems if p[1]["type"] == "extra_forbidden"), problems[0])
    key = ".".join(str(step) for step in keys)
    more = len(problems) - 1
    if problem["type"] == "extra_forbidden":
        there = list(dict.fromkeys(k for m in _models_at(model, keys[:-1]) for k in m.model_fields))
        whose = "Keys there" if len(keys) > 1 else "Its keys"
        hint = nearest(str(keys[-1]), there) or f" {whose}: {', '.join(there) or 'none'}."
        return Invalid("unknown", key, "", hint, more)
    if problem["type"] == "missing":
        given = problem["input"] if isinstance(problem["input"], Mapping) else {}
        meant = nearest(str(keys[-1]), [k for k in given if isinstance(k, str)])
        hint = meant.replace("Did you mean", "Is it meant by") if meant else ""
        return Invalid("missing", key, "", hint, more)
    # What a union may be has a problem each, all at this key. One that lies deeper is of the
    # alternative that was meant: the others do not even have that shape.
    related = [(k, p) for k, p in problems if k[: len(keys)] == keys]
    deepest = max((k for k, _ in related), key=len)
    if deepest != keys:
        keys, key = deepest, ".".join(str(step) for step in deepest)
    alternatives = [p for k, p in related if k == deepest]
    more = len(problems) - len(related)
    return Invalid("wrong", key, _message(alternatives), _nearest_choice(alternatives), more)


def _keys(problem: ErrorDetails, values: Any) -> list[str | int]:
    """The keys and indices that lead to the problem.

    In pydantic's path they stand between names of a union's alternatives, which nobody wrote.
    """
    steps = list(problem["loc"])
    ways = list(_ways(steps, values, problem["type"] == "missing"))
    if not ways:
        return steps
    return min(ways, key=lambda way: (way[1] is not problem["input"], -len(way[0])))[0]


def _ways(
    steps: Sequence[str | int], value: Any, missing: bool
) -> Iterator[tuple[list[str | int], Any]]:
    """Every way to take ``steps`` through ``value``, and where it ends."""
    if not steps:
        yield [], value
        return
    step, rest = steps[0], steps[1:]
    inner: Mapping[Any, Any] = value if isinstance(value, Mapping) else {}
    if isinstance(value, list):
        inner = dict(enumerate(value))
    if step in inner:
        for way, end in _ways(rest, inner[step], missing):
            yield [step, *way], end
    if missing and not rest:
        yield [step], value
    elif isinstance(step, str):
        yield from _ways(rest, value, missing)


def _models_at(model: type[BaseModel], keys: Sequence[str | int]) -> list[type[BaseModel]]:
    """The models that a mapping at ``keys`` may be meant as."""
    models = [model]
    for key in keys:
        fields = [m.model_fields[key] for m in models if key in m.model_fields]
        if fields:  # else a key of a dict or an index of a list: what these hold is known already
            models = [held for field in fields for held in models_in(field.annotation)]
    return models


def _message(alternatives: list[ErrorDetails]) -> str:
    """What belongs there, and what was given."""
    given = alternatives[0]["input"]
    special = [p for p in alternatives if p["type"] in ("value_error", "string_pattern_mismatch")]
    if special:
        problem = special[0]
        message = problem["msg"].removeprefix("Value error, ")
        message = _PATTERNS.get(problem.get("ctx", {}).get("pattern", ""), message)
        return message if isinstance(given, Mapping) else f"{message} (given: {_shown(given)})"
    right = dict.fromkeys(_right(problem) for problem in alternatives)
    return f"should be {' or '.join(right)}, not {_shown(given)}"


def _right(problem: ErrorDetails) -> str:
    kind, context = problem["type"], problem.get("ctx", {})
    if kind in _KINDS:
        return _KINDS[kind]
    if kind in _LIMITS:
        words, name = _LIMITS[kind]
        limit = context[name]
        return f"{words} {int(limit) if limit == int(limit) else limit}"
    if kind == "literal_error":
        return context["expected"]
    return problem["msg"].removeprefix("Input should be ").removeprefix("Input should ")


def _nearest_choice(alternatives: list[ErrorDetails]) -> str:
    given = alternatives[0]["input"]
    choices = [
        choice
        for problem in alternatives
        if problem["type"] == "literal_error"
        for choice in re.findall(r"'([^']*)'", problem.get("ctx", {})["expected"])
    ]
    return nearest(given, choices) if isinstance(given, str) else ""


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
