"""What the shell completes: names inside a dataset, strategies, formats, their parameters.

A key is pressed and somebody waits: the manifest is read as plain JSON, without the checks of
`pausedata.store`, and nothing is imported that is not needed. Nothing is fetched, and whatever is
wrong (no dataset, a damaged manifest) completes nothing and says nothing.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import typer

MOST_IDS = 200
_SHARDS = 4  # the first ones, which ids are looked for in
_ADDRESS = re.compile(r"hf:/{1,2}")

Completer = TypeVar("Completer", bound=Callable[..., list[str]])


def _silent(completer: Completer) -> Completer:
    @functools.wraps(completer)
    def run(*args: Any, **kwargs: Any) -> list[str]:
        try:
            return completer(*args, **kwargs)
        except Exception:  # a traceback would land in the line that is being typed
            return []

    return run  # type: ignore[return-value]


@_silent
def runs(ctx: typer.Context) -> list[str]:
    """The runs of the dataset that the line names."""
    return _of_kind(ctx, "scores")


@_silent
def placements(ctx: typer.Context) -> list[str]:
    """Its placements."""
    return _of_kind(ctx, "placements")


@_silent
def exports(ctx: typer.Context) -> list[str]:
    """Its exports."""
    return _of_kind(ctx, "exports")


@_silent
def sorts() -> list[str]:
    """Orders in which examples are chosen."""
    return ["hardest", "easiest", "spread", "random"]


@_silent
def splits(ctx: typer.Context) -> list[str]:
    """Its splits."""
    return list(_manifest(ctx)["rows"])


@_silent
def removable(ctx: typer.Context) -> list[str]:
    """Its tables that can be removed."""
    return [name for name in _manifest(ctx)["tables"] if "/" in name]


@_silent
def comparable(ctx: typer.Context) -> list[str]:
    """What ``diff`` compares: its versions, runs and placements; behind A what is of A's kind."""
    tables = [n for n in _manifest(ctx)["tables"] if n.startswith(("scores/", "placements/"))]
    everything = [*_versions(ctx), *tables]
    first = ctx.params.get("a")
    if not first:
        return everything
    kind = str(first).partition("/")[0] if "/" in str(first) else ""
    return [n for n in everything if n != first and n.startswith(kind) and ("/" in n) == bool(kind)]


@_silent
def tables(ctx: typer.Context, incomplete: str) -> list[str]:
    """The last of several tables, separated by commas."""
    names = list(_manifest(ctx)["tables"])
    names += list(dict.fromkeys(n.partition("/")[0] for n in names if "/" in n))
    before, comma, _ = incomplete.rpartition(",")
    given = set(before.split(","))
    return [f"{before}{comma}{name}" for name in names if name not in given]


@_silent
def versions(ctx: typer.Context) -> list[str]:
    """The numbers of its versions."""
    return _versions(ctx)


@_silent
def ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of its first examples that begin as given, at most `MOST_IDS`."""
    import pyarrow.parquet as pq

    folder, found = _version_folder(ctx), list[str]()
    for shard in _manifest(ctx)["tables"]["examples"]["shards"][:_SHARDS]:
        with pq.ParquetFile(folder / shard["path"]) as file:
            for batch in file.iter_batches(columns=["id"]):
                every = batch.column(0).to_pylist()
                found += [id for id in every if id.startswith(incomplete) and _is_a_word(id)]
                if len(found) >= MOST_IDS:
                    return found[:MOST_IDS]
    return found


@_silent
def strategies() -> list[str]:
    """All strategies; those of plug-ins by name, without importing them."""
    from pausedata import strategies as registry

    return registry.own() + _plugins("pausedata.strategies")


@_silent
def formats() -> list[str]:
    """All export formats."""
    from pausedata import exporters as registry

    return registry.own() + _plugins("pausedata.exporters")


@_silent
def trainers(ctx: typer.Context) -> list[str]:
    """The trainers that read the chosen format."""
    from pausedata.exporters.trainers import TRAINERS

    format = ctx.params.get("format")
    return [
        name for name, trainer in TRAINERS.items() if format is None or format in trainer.formats
    ]


@_silent
def params(ctx: typer.Context) -> list[str]:
    """``KEY=DEFAULT`` for each parameter of the strategy or format that stands before."""
    from pausedata.core.options import describe_options

    if strategy := ctx.params.get("strategy"):
        from pausedata import strategies as registry

        options = registry.get(strategy).options
    else:
        from pausedata import exporters

        options = exporters.get(ctx.params["format"]).options
    return [
        f"{option['name']}={_plain(option.get('default'))}" for option in describe_options(options)
    ]


def words(*given: str) -> Callable[[], list[str]]:
    """One of these."""
    return lambda: list(given)


def _of_kind(ctx: typer.Context, kind: str) -> list[str]:
    names = (name.partition("/") for name in _manifest(ctx)["tables"])
    return [name for before, _, name in names if before == kind]


def _manifest(ctx: typer.Context) -> dict[str, Any]:
    return json.loads((_version_folder(ctx) / "manifest.json").read_text(encoding="utf-8"))


def _version_folder(ctx: typer.Context) -> Path:
    root = _root(ctx)
    number = ctx.params.get("version") or _current(root)
    return root / "versions" / f"{int(number):04d}"


def _versions(ctx: typer.Context) -> list[str]:
    folders = (_root(ctx) / "versions").iterdir()
    numbers = [int(folder.name) for folder in folders if folder.name.isdecimal()]
    return [str(number) for number in sorted(numbers, reverse=True)]


def _current(root: Path) -> int:
    return json.loads((root / "pausedata.json").read_text(encoding="utf-8"))["current"]


def _root(ctx: typer.Context) -> Path:
    # Click reads no arguments where the last option has no value yet: they are left in `args`.
    given = ctx.params["dataset"] or ctx.args[0]
    if _ADDRESS.match(str(given)):
        raise FileNotFoundError("what is on the Hub is not asked for while a key is pressed")
    return Path(given).expanduser()  # the shell has not replaced a ~ yet


def _plugins(group: str) -> list[str]:
    from importlib.metadata import entry_points

    return sorted({point.name for point in entry_points(group=group)})


def _is_a_word(text: str) -> bool:
    """Whether a shell takes it as one word without quoting."""
    return re.fullmatch(r"[\w./,@%+-]+", text) is not None


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float | str) and _is_a_word(str(value)) else ""
