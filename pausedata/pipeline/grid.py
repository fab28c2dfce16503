"""Several placements from one command: every combination of the values that parameters are given.

``positions=1,3`` for the name ``dit`` makes ``dit-positions-1`` and ``dit-positions-3``.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Annotated, Any

import yaml
from pydantic import TypeAdapter, ValidationError

from pausedata import strategies
from pausedata.core.errors import UsageError
from pausedata.core.names import NAME_PATTERN
from pausedata.pipeline.recipe import Placement, read_value
from pausedata.strategies import Strategy


def grid(
    name: str, strategy: str, run: str | None, given: Mapping[str, Any]
) -> dict[str, Placement]:
    """The placements that ``given``, parameters of ``strategy``, asks for, by name, in order.

    A value that the parameter itself does not take, and that is a list or a text with commas, is
    a grid: its items are taken in turn, and each stands in the name with its parameter. Of several
    grids every combination is made, the last one's values changing fastest. A grid of one item
    adds nothing to the name. UsageError where a name is made twice or is not valid; whether the
    parameters fit together is for who makes the placements to say.
    """
    kind = strategies.get(strategy, f"placements.{name}")
    values = {key: _values(kind, key, value) for key, value in given.items()}
    found: dict[str, Placement] = {}
    for chosen in itertools.product(*values.values()):
        parameters = dict(zip(values, chosen, strict=True))
        parts = [f"{key}-{_text(v)}" for key, v in parameters.items() if len(values[key]) > 1]
        own = "-".join([name, *parts])
        if not re.fullmatch(NAME_PATTERN, own):
            raise UsageError(
                f"the grid makes '{own}', which cannot name a placement: use letters, digits, "
                "'.', '_' and '-', at most 64, beginning with a letter or digit. "
                "Place these values one at a time, each under a name of its own."
            )
        if own in found:
            raise UsageError(f"the grid makes '{own}' twice: give each value once.")
        found[own] = Placement(strategy=strategy, run=run, **parameters)
    return found


def _values(strategy: Strategy, key: str, value: Any) -> list[Any]:
    """The values that the parameter ``key`` is to have, one after the other."""
    if key not in strategy.options.model_fields or _takes(strategy, key, value):
        return [value]
    if isinstance(value, list):
        items = value
    elif isinstance(value, str):
        items = [_item(key, value, part) for part in value.split(",")]
        if _takes(strategy, key, items):  # a list, without its brackets
            return [items]
        if len(items) == 1:
            return [value]
    else:
        return [value]
    if not items:
        raise UsageError(f"--param {key}: the list has no value. Give at least one.")
    return items


def _takes(strategy: Strategy, key: str, value: Any) -> bool:
    """Whether ``value`` is itself one for the parameter, by its type and bounds."""
    field = strategy.options.model_fields[key]
    kind: Any = Annotated[field.annotation, field]
    try:
        TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def _item(key: str, whole: str, part: str) -> Any:
    """One item of a text with commas, read as YAML."""
    if not part.strip():
        raise UsageError(f"--param {key}={whole}: there is no value before or after a comma.")
    try:
        return read_value(part)
    except yaml.YAMLError:
        raise UsageError(
            f"--param {key}={whole}: '{part.strip()}' is not YAML. "
            "Write values with brackets or commas in them as a list: [[a, b], [c]]."
        ) from None


def _text(value: Any) -> str:
    """A value as it stands in a name: as YAML writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
