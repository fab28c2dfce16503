"""Plug-ins with typed options: what strategies and export formats have in common."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from pausedata.errors import UsageError, first_problem, listing, nearest


class Named(Protocol):
    """What a registry holds: something with a name and a model of its options."""

    @property
    def name(self) -> str:
        """The name that recipes use."""
        ...

    @property
    def options(self) -> type[BaseModel]:
        """The options, typed; their docstring's first line says what the thing does."""
        ...


T = TypeVar("T", bound=Named)
Options = TypeVar("Options", bound=BaseModel)


class Registry(Generic[T]):
    """Named things of one ``kind`` (``strategy``, ``format``), in the order registered."""

    def __init__(self, kind: str, items: list[T]) -> None:
        self.kind = kind
        self._items = {item.name: item for item in items}

    def names(self) -> list[str]:
        """All names."""
        return list(self._items)

    def get(self, name: str, where: str = "") -> T:
        """The thing called ``name``; UsageError, beginning with ``where``, names the nearest."""
        if name not in self._items:
            prefix = f"{where}: " if where else ""
            hint = nearest(name, self._items) or f" There: {listing(self._items)}."
            raise UsageError(f"{prefix}unknown {self.kind} '{name}'.{hint}")
        return self._items[name]

    def parse(self, item: T, values: dict[str, Any], where: str) -> BaseModel:
        """``values`` as the thing's typed options; UsageError names the wrong key or value."""
        try:
            return item.options.model_validate(values)
        except ValidationError as error:
            problem = first_problem(error)
            key = ".".join(str(step) for step in problem["loc"])
            known = list(item.options.model_fields)
            if problem["type"] == "extra_forbidden":
                hint = nearest(key, known) or f" Its keys: {', '.join(known) or 'none'}."
                raise UsageError(
                    f"{where}: {self.kind} '{item.name}' has no key '{key}'.{hint}"
                ) from None
            if problem["type"] == "missing":
                raise UsageError(f"{where}: {self.kind} '{item.name}' needs '{key}'.") from None
            message = problem["msg"].removeprefix("Value error, ")
            if not key:  # what no single key is to blame for
                raise UsageError(f"{where}: {self.kind} '{item.name}': {message}.") from None
            raise UsageError(f"{where}.{key}: {message}, not {problem['input']!r}.") from None

    def recorded(
        self, inputs: dict[str, Any], known: set[str], options: str
    ) -> tuple[T, BaseModel] | None:
        """The thing and its options that made a stored table, from its provenance's ``inputs``.

        ``known`` are the keys that this release writes there, ``options`` the one of the options.
        None where a later release made the table, in a way that this one does not know.
        """
        if not set(inputs) <= known:
            return None
        try:
            item = self.get(inputs.get(self.kind, ""))
            return item, self.parse(item, inputs.get(options, {}), "")
        except UsageError:
            return None

    def describe(self) -> list[dict[str, Any]]:
        """Every thing with its options' names, types, defaults and meanings, JSON-able."""
        return [
            {
                "name": item.name,
                "summary": (item.options.__doc__ or "").strip().splitlines()[0],
                "options": [
                    {
                        "name": name,
                        "type": _type_of(schema),
                        "required": name in item.options.model_json_schema().get("required", []),
                        "default": schema.get("default"),
                        "description": schema.get("description", ""),
                    }
                    for name, schema in item.options.model_json_schema()
                    .get("properties", {})
                    .items()
                ],
            }
            for item in self._items.values()
        ]


def _type_of(schema: dict[str, Any]) -> str:
    """A JSON Schema's type in a word; null, which only says that it may be left out, apart."""
    if "anyOf" in schema:
        return " or ".join(_type_of(kind) for kind in schema["anyOf"] if kind != {"type": "null"})
    return schema.get("type", "mapping" if "$ref" in schema else "any")
