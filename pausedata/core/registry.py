"""Named things with typed options: what strategies and export formats have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, cast

from pydantic import BaseModel, ValidationError

from pausedata.core.errors import UsageError, listing, nearest
from pausedata.core.invalid import find_invalid
from pausedata.core.options import describe_options, summary_of
from pausedata.core.plugins import Plugin, Plugins

OURS = "pausedata"


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


class Registry(Generic[T, Options]):
    """Named things of one ``kind`` (``strategy``, ``format``), in the order registered.

    Behind pausedata's own come those that other distributions add through the entry-point
    ``group``, by name. The object of an entry point is one of the type ``accepts``, with the entry
    point's name and with options derived from ``base``.
    """

    def __init__(
        self,
        kind: str,
        items: list[T],
        *,
        group: str,
        accepts: type[T],
        base: type[Options],
        common: type[BaseModel] | None = None,
        check: Callable[[T], object] | None = None,
    ) -> None:
        """``common``: the model of the options that most things have alike. ``check`` raises
        something where a plug-in's object would do so later.
        """
        self.kind, self._accepts, self._base, self._common = kind, accepts, base, common
        self._check = check
        self._own = {item.name: item for item in items}
        self._plugins: Plugins[T] = Plugins(group, self._misfit)

    def own(self) -> list[str]:
        """The names of pausedata's own, which are there whatever is installed."""
        return list(self._own)

    def names(self) -> list[str]:
        """All names that ``get`` gives something for."""
        return [*self._own, *(plugin.name for plugin in self.plugins() if not plugin.problem)]

    def plugins(self) -> list[Plugin[T]]:
        """All plug-ins, the broken ones too; a warning tells of each of those once."""
        found = [self._plugins.get(name) for name in self._plugins.names()]
        return [plugin for plugin in found if plugin is not None]

    def get(self, name: str, where: str = "") -> T:
        """The thing called ``name``; UsageError, beginning with ``where``, names the nearest."""
        if name in self._own:
            return self._own[name]
        prefix = f"{where}: " if where else ""
        plugin = self._plugins.get(name)
        if plugin is None:
            there = [*self._own, *self._plugins.names()]
            hint = nearest(name, there) or f" There: {listing(there)}."
            raise UsageError(f"{prefix}unknown {self.kind} '{name}'.{hint}")
        if plugin.item is None:
            raise UsageError(
                f"{prefix}{self.kind} '{name}' of {plugin.distribution} {plugin.version} cannot be "
                f"used: {plugin.problem}."
            )
        return plugin.item

    def origin(self, name: str) -> dict[str, str] | None:
        """``{"distribution": …, "version": …}`` of a plug-in; None for pausedata's own."""
        if name in self._own:
            return None
        plugin = self._plugins.get(name)
        return plugin.origin if plugin else None

    def parse(self, item: T, values: dict[str, Any], where: str) -> Options:
        """``values`` as the thing's typed options; UsageError names the wrong key or value."""
        try:
            return cast(Options, item.options.model_validate(values))
        except ValidationError as error:
            wrong = find_invalid(error, item.options, values)
        thing = f"{self.kind} '{item.name}'"
        if wrong.kind == "unknown":
            raise UsageError(f"{where}: {thing} has no key '{wrong.key}'.{wrong.hint}")
        if wrong.kind == "missing":
            raise UsageError(f"{where}: {thing} needs '{wrong.key}'.{wrong.hint}")
        if not wrong.key:  # what no single key is to blame for
            raise UsageError(f"{where}: {thing}: {wrong.message}.")
        raise UsageError(f"{where}.{wrong.key}: {wrong.message}.{wrong.hint}")

    def recorded(
        self, inputs: dict[str, Any], known: set[str], options: str
    ) -> tuple[T, Options] | None:
        """The thing and its options that made a stored table, from its provenance's ``inputs``.

        ``known`` are the keys that this release writes there, ``options`` the one of the options.
        None where a later release made the table, in a way that this one does not know, or a
        plug-in that is not here.
        """
        if not set(inputs) <= known:
            return None
        try:
            item = self.get(inputs.get(self.kind, ""))
            return item, self.parse(item, inputs.get(options, {}), "")
        except UsageError:
            return None

    def describe(self, name: str) -> dict[str, Any]:
        """The thing's options with names, types, limits, defaults and meanings, JSON-able."""
        item = self.get(name)
        return {
            "name": name,
            "summary": summary_of(item.options),
            "options": describe_options(item.options, self._common),
            "origin": self.origin(name) or OURS,
        }

    def _misfit(self, name: str, item: Any) -> str | None:
        """What is wrong with a plug-in's object, if anything."""
        wanted = self._accepts.__name__
        if name in self._own:
            return f"'{name}' is the name of a {self.kind} of pausedata's own"
        if not isinstance(item, self._accepts):
            return f"its object is no {wanted}, but of type {type(item).__name__}"
        if item.name != name:
            return f"its {wanted} is called '{item.name}', its entry point '{name}'"
        if not (isinstance(item.options, type) and issubclass(item.options, self._base)):
            return f"the options of its {wanted} are no class derived from {self._base.__name__}"
        describe_options(item.options, self._common)  # raises where JSON Schema cannot say it
        if self._check:
            self._check(item)
        return None
