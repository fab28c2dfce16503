"""What other installed distributions add to a registry, through an entry-point group.

Nothing is looked for before a name is asked for that the registry does not have itself, and
nothing is imported before it is that name. One that is broken breaks nothing else.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class PluginWarning(UserWarning):
    """A plug-in is left out; the message says which and why."""


@dataclass(frozen=True)
class Plugin(Generic[T]):
    """An entry point: what it gives, or what is wrong with it."""

    name: str
    distribution: str
    version: str
    item: T | None
    problem: str = ""

    @property
    def origin(self) -> dict[str, str]:
        """Where it comes from, as provenance records it."""
        return {"distribution": self.distribution, "version": self.version}


class Plugins(Generic[T]):
    """The entry points of one ``group``, each loaded once, when it is asked for."""

    def __init__(self, group: str, problem: Callable[[str, Any], str | None]) -> None:
        """``problem`` says what is wrong with the object of an entry point, given its name."""
        self.group, self._problem = group, problem
        self._loaded: dict[str, Plugin[T]] = {}

    @cached_property
    def _points(self) -> dict[str, list[EntryPoint]]:
        found: dict[str, list[EntryPoint]] = {}
        for point in entry_points(group=self.group):
            found.setdefault(point.name, []).append(point)
        return dict(sorted(found.items()))

    def names(self) -> list[str]:
        """The names of all, broken ones too: nothing is imported."""
        return list(self._points)

    def get(self, name: str) -> Plugin[T] | None:
        """The plug-in called ``name``, loaded; a PluginWarning tells, once, that it is broken."""
        if name not in self._loaded:
            if name not in self._points:
                return None
            plugin = self._load(name, self._points[name])
            self._loaded[name] = plugin
            if plugin.problem:
                warnings.warn(
                    f"plug-in '{name}' of {plugin.distribution} {plugin.version} is left out: "
                    f"{plugin.problem}.",
                    PluginWarning,
                    stacklevel=2,
                )
        return self._loaded[name]

    def _load(self, name: str, points: list[EntryPoint]) -> Plugin[T]:
        makers = sorted(_maker(point) for point in points)
        distribution = ", ".join(dict.fromkeys(maker for maker, _ in makers))
        version = ", ".join(dict.fromkeys(version for _, version in makers))
        if len(points) > 1:  # which one was meant nobody can know
            problem = f"{distribution} each have one of this name; uninstall all but one"
            return Plugin(name, distribution, version, None, problem)
        item, problem = None, None
        try:
            item = points[0].load()
            problem = self._problem(name, item)
        except (Exception, SystemExit) as error:  # whatever a stranger's module may do
            text = str(error).strip().splitlines()
            problem = f"loading it fails: {': '.join([type(error).__name__, *text[:1]])}"
        return Plugin(name, distribution, version, None if problem else item, problem or "")


def _maker(point: EntryPoint) -> tuple[str, str]:
    """The distribution of an entry point, and its version."""
    distribution = point.dist
    if distribution is None:
        return "an unknown distribution", "unknown"
    metadata = distribution.metadata
    return metadata["Name"] or "an unnamed distribution", metadata["Version"] or "unknown"
