"""A change to a dataset being worked out: its tables so far, what was made, what could not be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pausedata import exporters, strategies
from pausedata.core.errors import UnreachableError, UsageError
from pausedata.core.progress import Progress
from pausedata.exporters.inputs import ExportInputs
from pausedata.exporters.refused import Refused
from pausedata.hub.card import quick_card
from pausedata.models.tokenizer import Tokenizer
from pausedata.pipeline.recipe import Export, Placement
from pausedata.pipeline.references import (
    check_references,
    in_order,
    recorded_exports,
    tables_read,
)
from pausedata.pipeline.steps import export as export_step
from pausedata.pipeline.steps import place as place_step
from pausedata.pipeline.steps.tokenizer import tokenizer_of
from pausedata.store import repair
from pausedata.store.choice import Choice
from pausedata.store.commit import Change, commit
from pausedata.store.dataset import KINDS, Table, Version
from pausedata.store.manifest import FileEntry, PauseEntry, TableEntry
from pausedata.store.staging import Staging


@dataclass(frozen=True)
class Outcome:
    """What a command did to a dataset."""

    root: Path
    version: Version
    made: list[str] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)  # damaged tables that came out as they were
    damaged: list[str] = field(default_factory=list)  # tables that nobody could make again
    marked: list[int] = field(default_factory=list)  # older versions that stay damaged
    kept: list[str] = field(default_factory=list)
    removed: dict[str, str] = field(default_factory=dict)  # table → why it is gone
    copied: int = 0  # bytes copied where hard links were not to be had

    @property
    def committed(self) -> bool:
        """Whether a new version was made."""
        return bool(self.made or self.removed)


class Work:
    """The tables as they will be. What is equal to the base version's is kept as it is.

    A context manager: the stages that it takes up are its own until it ends.
    """

    def __init__(
        self,
        root: Path,
        base: Version | None,
        progress: Progress,
        damaged: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """``damaged``: the base version's damaged files, by table, that are to be made again."""
        self.root, self.base, self.progress = root, base, progress
        self.damaged = dict(damaged or {})
        self.repaired: dict[str, Table] = {}
        self.staging = Staging(root)
        self.tables: dict[str, Table] = dict(base.tables) if base else {}
        self.made: dict[str, Table] = {}
        self.kept: list[str] = []
        self.removed: dict[str, str] = {}
        self.name = base.manifest.name if base else ""
        self.pause: PauseEntry | None = base.manifest.pause if base else None
        self.default_run: str | None = base.default_run if base else None
        # What checks exports of text; asked for only where there are some to make.
        self.asked_tokenizer: Callable[[], Tokenizer] | None = None

    def find_tokenizer(self) -> Tokenizer:
        """The tokenizer that was asked for, else the one on record."""
        if self.asked_tokenizer is not None:
            return self.asked_tokenizer()
        assert self.base is not None  # else a recipe names the tokenizer
        return tokenizer_of(self.root, self.base, self.tables, self.progress)

    def __enter__(self) -> Work:
        return self

    def __exit__(self, *error: object) -> None:
        self.staging.close()

    def put(self, table: Table) -> None:
        """Take in a table that was made or remade.

        One that was damaged and comes out as it was is put back, and needs no new version.
        """
        if table.name in self.damaged and self._put_back(table):
            del self.damaged[table.name]
            self.repaired[table.name] = table
            return
        self.tables[table.name] = self.made[table.name] = table

    def keep(self, name: str) -> None:
        """Note that a table stays as it is."""
        self.kept.append(name)

    def drop(self, name: str, why: str) -> None:
        """Leave a table out of the next version."""
        self.tables.pop(name, None)
        self.removed[name] = why

    def drop_stale(self, kind: str = "") -> None:
        """Leave out what was made from tables that changed, and that nobody here could remake.

        What this release knows was remade before: what is left was made by a later one.
        """
        before = self.base.manifest.tables if self.base else {}
        left = [n for n in self.tables if n in before and n.startswith(kind) and n not in self.made]
        stale = True
        while stale:
            stale = [(n, t) for n in left if (t := self._changed_under(n, before)) is not None]
            for name, table in stale:
                left.remove(name)
                self.drop(name, f"made from {table}, which changed; this release cannot remake it")

    def _changed_under(self, name: str, before: Mapping[str, TableEntry]) -> str | None:
        """A table that ``name`` was made from and that is not what it was."""
        for source in before[name].provenance.get("made_from", []):
            was, now = before.get(source), self.tables.get(source)
            if (was.content if was else None) != (now.entry.content if now else None):
                return source
        return None

    def has(self, name: str, inputs: Mapping[str, Any]) -> bool:
        """Whether the table is there already, whole, made from the same inputs."""
        return name not in self.damaged and self.is_from(name, inputs)

    def damaged_table(self, name: str, inputs: Mapping[str, Any]) -> Table | None:
        """The table that is to be made again as it was, if it was made from the same inputs."""
        return self.tables[name] if name in self.damaged and self.is_from(name, inputs) else None

    def is_from(self, name: str, inputs: Mapping[str, Any]) -> bool:
        """Whether the table that is there, whole or not, was made from the same inputs."""
        table = self.tables.get(name)
        return table is not None and table.entry.provenance.get("inputs") == inputs

    def placement_inputs(
        self, name: str, spec: Placement
    ) -> tuple[dict[str, Any], dict[str, Table]]:
        """What decides the placement ``name``, and the tables that it is made from."""
        strategy, parameters = strategies.of(spec.strategy, spec.parameters, f"placements.{name}")
        run = spec.run or self.default_run
        check_references({name: spec}, self.tables, self.default_run)
        names = place_step.tables_read(strategy, parameters, run)
        tables = {table: self.tables[table] for table in names}
        return place_step.inputs(strategy, parameters, run, tables), tables

    def place(self, name: str, spec: Placement) -> None:
        """Make the placement ``name`` unless it is there, made from the same inputs."""
        inputs, tables = self.placement_inputs(name, spec)
        if self.has(f"placements/{name}", inputs):
            self.keep(f"placements/{name}")
            return
        self.put(place_step.place(self.staging, name, inputs, tables, self.progress))

    def place_all(self, placements: Mapping[str, Placement]) -> None:
        """Make ``placements``, but for those that rest on what is not to be had."""
        for name in in_order(placements):
            spec = placements[name]
            reads = tables_read(name, spec, self.default_run)
            lost = [
                table
                for table in reads
                if table.startswith("scores/") and table in self.damaged.keys() - self.made.keys()
            ]
            if lost:
                run = lost[0].removeprefix("scores/")
                self.progress.warn(
                    f"placements/{name} stays as it is: {lost[0]} is damaged, and the recipe "
                    f"names no model for it. `pausedata score {self.root} --run {run} --model …` "
                    "repairs it."
                )
                continue
            gone = [table for table in reads if table in self.removed]
            if gone:
                kind, own = gone[0].split("/", 1)
                why = "be carried over" if kind == "scores" else "be remade"
                self.drop(f"placements/{name}", f"{KINDS[kind]} '{own}' could not {why}")
                continue
            self.place(name, spec)

    def export_inputs(self, name: str, spec: Export) -> dict[str, Any]:
        """What decides the export ``name``."""
        where = f"exports.{name}"
        format = exporters.get(spec.format, where)
        options = exporters.parse(format, spec.options, where)
        return export_step.inputs(format, options, self.origin(spec.placement))

    def origin(self, choice: Choice) -> ExportInputs:
        """What an export of the placement, or placements, of ``choice`` is made from."""
        assert self.pause is not None
        return ExportInputs.of(self.name, self.pause, self.tables, choice, self.find_tokenizer)

    def export(self, name: str, spec: Export) -> None:
        """Make the export ``name`` unless it is there, made from the same inputs."""
        inputs = self.export_inputs(name, spec)
        if self.has(f"exports/{name}", inputs):
            self.keep(f"exports/{name}")
            return
        origin = self.origin(spec.placement)
        self.put(export_step.export(self.staging, name, inputs, origin, self.progress))

    def remake_exports(self, specs: dict[str, Export]) -> None:
        """Make ``specs``, and remake every other export whose placement changed."""
        self.drop_stale("placements/")
        for name, spec in (recorded_exports(self.base) | specs).items():
            placements = [f"placements/{placement}" for placement in spec.placements]
            if any(placement in self.damaged for placement in placements):
                continue  # said already
            gone = [placement for placement in placements if placement not in self.tables]
            if gone:
                own = gone[0].removeprefix("placements/")
                self.drop(f"exports/{name}", f"placement '{own}' could not be remade")
            elif name in specs:
                self.export(name, spec)
            else:
                self._remake(name, spec)

    def _remake(self, name: str, spec: Export) -> None:
        """Make an export that nobody asked for by name; leave it out where that cannot be."""
        try:
            self.export(name, spec)
        except (UnreachableError, UsageError, Refused) as error:
            reason = str(error).splitlines()[0]
            self.drop(f"exports/{name}", f"it could not be remade: {reason}")

    def _put_back(self, table: Table) -> bool:
        """Put a remade table's files where damaged ones were, if they are what those were."""
        assert self.base is not None
        paths = self.damaged[table.name]
        lost = [e for e in self.base.table(table.name).files() if e.path in paths]
        if any(entry.path.endswith(".meta.json") for entry in lost):
            table = self._finished_as(table, lost)
        made = {entry.path: entry.sha256 for entry in table.files()}
        if any(made.get(entry.path) != entry.sha256 for entry in lost):
            return False
        repair.put_back(
            self.root, {(entry.path, entry.sha256): table.folder / entry.path for entry in lost}
        )
        return True

    def _finished_as(self, table: Table, lost: list[FileEntry]) -> Table:
        """An export finished for the version that it was first made in, which its files name."""
        assert self.base is not None
        wanted = {(entry.path, entry.sha256) for entry in lost}
        origin = self.origin(table.entry.provenance["inputs"]["placement"])
        for number in range(self.base.number, 0, -1):
            finished = export_step.finish(table, origin, number)
            if wanted <= {(entry.path, entry.sha256) for entry in finished.files()}:
                return finished
        return table

    def commit(self, command: str, **header: Any) -> Outcome:
        """Commit what was made, if anything was, as one version."""
        if not self.made and not self.removed:
            assert self.base is not None
            self.staging.discard(list(self.repaired.values()))
            return Outcome(
                self.root,
                self.base,
                repaired=list(self.repaired),
                damaged=list(self.damaged),
                kept=self.kept,
            )

        def finish(version: int) -> dict[str, Table]:
            return {
                name: export_step.finish(
                    table, self.origin(table.entry.provenance["inputs"]["placement"]), version
                )
                if name.startswith("exports/")
                else table
                for name, table in self.made.items()
            }

        self.drop_stale()
        change = Change(
            command=command,
            tables=self.made,
            removed=frozenset(self.removed),
            finish=finish,
            **header,
        )
        committed = commit(self.root, self.base, change, quick_card)
        self.staging.discard([*self.made.values(), *self.repaired.values()])
        lost = [
            entry
            for name, paths in self.damaged.items()
            if self.base is not None and name in {*self.made, *self.removed}
            for entry in self.base.table(name).files()
            if entry.path in paths
        ]
        marked = repair.mark(self.root, lost) if lost else []
        return Outcome(
            self.root,
            committed.version,
            made=list(self.made),
            repaired=list(self.repaired),
            damaged=[n for n in self.damaged if n not in {*self.made, *self.removed}],
            marked=marked,
            kept=self.kept,
            removed=self.removed,
            copied=committed.copied,
        )


def differences(before: Any, now: Any, key: str = "") -> list[str]:
    """``source.limit: 64 → 100`` for every value that differs between two nested mappings."""
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for name in dict.fromkeys([*before, *now]):
            inner = f"{key}.{name}" if key else name
            found += differences(before.get(name), now.get(name), inner)
        return found
    return [] if before == now else [f"{key}: {_short(before)} → {_short(now)}"]


def _short(value: Any) -> str:
    if isinstance(value, str) and value.startswith("sha256:"):
        return f"{value[:15]}…"
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
