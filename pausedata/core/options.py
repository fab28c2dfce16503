"""A model's fields as a person or a program reads them: name, type, limits, default, meaning."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

NO_LIMIT = (
    2**31 - 1
)  # what a column of whole numbers holds: nobody reaches it, nor wants to read it
_LIMITS = {
    "minimum": "minimum",
    "maximum": "maximum",
    "exclusive_minimum": "exclusiveMinimum",
    "exclusive_maximum": "exclusiveMaximum",
}


def describe_options(
    options: type[BaseModel], common: type[BaseModel] | None = None
) -> list[dict[str, Any]]:
    """Every field, JSON-able; those that it has as ``common`` has them are said to be so.

    ``choices``: all the values that it, or an item of it, may have; None: no such list.
    ``minimum`` … ``exclusive_maximum``: limits of a number, or None. ``keys``: of a mapping, its
    own fields likewise.
    """
    schema = options.model_json_schema()
    return [_described(name, options, schema, common) for name in schema.get("properties", {})]


def text_keys(options: type[BaseModel]) -> set[str]:
    """The dotted names of fields that are free text: not one of some choices, nor a number."""

    def found(described: list[dict[str, Any]], before: str) -> Iterator[str]:
        for option in described:
            if option["type"] == "string" and not option["choices"]:
                yield before + option["name"]
            yield from found(option["keys"], f"{before}{option['name']}.")

    return set(found(describe_options(options), ""))


def summary_of(options: type[BaseModel]) -> str:
    """The docstring's first paragraph, in one line: what the thing does."""
    return " ".join((options.__doc__ or "").strip().split("\n\n")[0].split())


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models among what a field of this type may be or hold."""
    if isinstance(annotation, type) and not hasattr(annotation, "__args__"):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [m for a in getattr(annotation, "__args__", ()) for m in models_in(a)]


def _described(
    name: str, options: type[BaseModel], schema: dict[str, Any], common: type[BaseModel] | None
) -> dict[str, Any]:
    field = options.model_fields[name]
    kinds = _kinds(schema["properties"][name], schema.get("$defs", {}))
    constraints = {key: value for kind in kinds for key, value in kind.items()}
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    return {
        "name": name,
        "type": " or ".join(dict.fromkeys(_word(kind) for kind in kinds)),
        "required": field.is_required(),
        "default": to_jsonable_python(default),
        "description": " ".join((field.description or "").split()),
        "choices": [c for kind in kinds for c in _choices(kind)] or None,
        **{ours: constraints.get(theirs) for ours, theirs in _LIMITS.items()},
        "keys": [o for m in models_in(field.annotation) for o in describe_options(m)],
        "common": _is_common(name, field, options, common),
    }


def _kinds(schema: dict[str, Any], defs: dict[str, Any]) -> list[dict[str, Any]]:
    """What a value may be; null, which only says that it may be left out, apart."""
    if "anyOf" in schema:
        return [k for s in schema["anyOf"] if s != {"type": "null"} for k in _kinds(s, defs)]
    if "$ref" in schema:
        return _kinds(defs[schema["$ref"].rsplit("/", 1)[1]], defs)
    if "items" in schema:
        (items,) = _kinds(schema["items"], defs)[:1] or [{}]
        return [schema | {"items": items}]
    return [schema]


def _word(kind: dict[str, Any]) -> str:
    if kind.get("type") == "array":
        return f"list of {_word(kind.get('items', {}))}"
    if kind.get("type") == "object":
        return "mapping"
    return kind.get("type", "any")


def _choices(kind: dict[str, Any]) -> list[Any]:
    if "const" in kind:
        return [kind["const"]]
    return _choices(kind["items"]) if "items" in kind else kind.get("enum", [])


def _is_common(
    name: str, field: FieldInfo, options: type[BaseModel], common: type[BaseModel] | None
) -> bool:
    if common is None or not issubclass(options, common) or name not in common.model_fields:
        return False
    theirs = common.model_fields[name]
    return (field.annotation, field.default, field.description) == (
        theirs.annotation,
        theirs.default,
        theirs.description,
    )


def values_of(option: dict[str, Any]) -> str:
    """What an option of ``describe_options`` may be, in words: ``whole number, ≥ 0``."""
    choices = [str(choice) for choice in option["choices"] or []]
    words = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "true or false",
    }
    found = []
    for kind in option["type"].split(" or "):
        item = kind.removeprefix("list of ")
        word = words.get(item, item)
        if choices and item == "string":
            word = f"{', '.join(choices[:-1])} or {choices[-1]}" if choices[1:] else choices[0]
        found.append(f"list of {word}" if kind != item else word)
    return " or ".join(found) + _limits_of(option)


def default_of(option: dict[str, Any]) -> str:
    """An option's default as YAML writes it, or ``required``."""
    return "required" if option["required"] else json.dumps(option["default"], ensure_ascii=False)


def _limits_of(option: dict[str, Any]) -> str:
    signs = {
        "minimum": "≥",
        "exclusive_minimum": ">",
        "maximum": "≤",
        "exclusive_maximum": "<",
    }
    limits = {key: option[key] for key in signs if option[key] not in (None, NO_LIMIT)}
    return "".join(f", {signs[key]} {limit}" for key, limit in limits.items())
