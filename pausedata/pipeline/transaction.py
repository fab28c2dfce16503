"""A change to a dataset being made: its tables so far, what was made, what could not be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pausedata.core.progress import Progress
from pausedata.exporters.export_rows import ExportInputs
from pausedata.hub.card import quick_card
from pausedata.models.tokenizer import Tokenizer
from pausedata.pipeline.steps import export as export_step
from pausedata.pipeline.steps.tokenizer import tokenizer_of
from pausedata.store import repair
from pausedata.store.choice import Choice
from pausedata.store.commit import Change, commit
from pausedata.store.dataset import Table, Version
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


def layout(entry: TableEntry) -> Any:
    """A table's values, and how they are cut: equal for tables that can stand for one another."""
    return entry.content, [(shard.split, shard.rows) for shard in entry.shards]


class Transaction:
    """The tables as they will be. What is equal to the base version's is kept as it is.

    It makes nothing and decides nothing: it takes in what was made, and commits it as one version.
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
        # What checks exports of text; asked for only where there are some to make.
        self.asked_tokenizer: Callable[[], Tokenizer] | None = None

    def find_tokenizer(self) -> Tokenizer:
        """The tokenizer that was asked for, else the one on record."""
        if self.asked_tokenizer is not None:
            return self.asked_tokenizer()
        assert self.base is not None  # else a recipe names the tokenizer
        return tokenizer_of(self.root, self.base, self.tables, self.progress)

    def __enter__(self) -> Transaction:
        return self

    def __exit__(self, *error: object) -> None:
        self.staging.close()

    def put(self, table: Table) -> bool:
        """Take in a table that was made; whether that changes the dataset.

        One that was damaged and comes out as it was is put back, and needs no new version.
        """
        if table.name in self.damaged and self._is_as_it_was(table) and self._put_back(table):
            del self.damaged[table.name]
            self.repaired[table.name] = table
            return False
        self.tables[table.name] = self.made[table.name] = table
        self.removed.pop(table.name, None)
        return True

    def keep(self, name: str) -> None:
        """Note that a table stays as it is."""
        self.kept.append(name)

    def drop(self, name: str, why: str) -> None:
        """Leave a table out of the next version."""
        self.tables.pop(name, None)
        self.removed[name] = why

    def contents(self) -> dict[str, str]:
        """The content hash of every table."""
        return {name: table.entry.content for name, table in self.tables.items()}

    def damaged_table(self, name: str, inputs: Mapping[str, Any]) -> Table | None:
        """The table that is to be made again as it was, if it was made from the same inputs."""
        table = self.tables.get(name)
        same = table is not None and table.entry.provenance.get("inputs") == inputs
        return table if same and name in self.damaged else None

    def origin(self, choice: Choice, split: str | None = None) -> ExportInputs:
        """What an export of the placement, or placements, of ``choice`` is made from.

        ``split``: the one that is asked for; None: every one but what is held out.
        """
        assert self.pause is not None
        return ExportInputs.of(
            self.name, self.pause, self.tables, choice, self.find_tokenizer, split
        )

    def _origin_of(self, table: Table) -> ExportInputs:
        """What a staged export was made from."""
        inputs = table.entry.provenance["inputs"]
        return self.origin(inputs["placement"], inputs.get("split"))

    def _is_as_it_was(self, table: Table) -> bool:
        """Whether a remade table says what the damaged one said, in all of its shards."""
        assert self.base is not None
        was, now = self.base.manifest.tables[table.name], table.entry
        return (
            layout(was) == layout(now)
            and was.provenance.get("inputs") == (now.provenance["inputs"])
        )

    def _put_back(self, table: Table) -> bool:
        """Put a remade table's files where damaged ones were, if they are what those were."""
        assert self.base is not None
        paths = self.damaged[table.name]
        lost = [e for e in self.base.table(table.name).files() if e.path in paths]
        if {entry.path for entry in lost} - {entry.path for entry in table.files()}:
            table = self._finished_as(table, lost)  # what is lost is only written at a commit
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
        origin = self._origin_of(table)
        for number in range(self.base.number, 0, -1):
            finished = export_step.finish(table, origin, number)
            if wanted <= {(entry.path, entry.sha256) for entry in finished.files()}:
                return finished
        return table

    def _mend_missing(self) -> list[str]:
        """Put back, from other versions, missing files of tables that nobody looked at so far.

        The tables that stay as they are and still lack a file: the next version lacks it, too.
        """
        if self.base is None:
            return []
        looked_at = {*self.damaged, *self.made, *self.removed}
        missing = [
            name
            for name, table in self.base.tables.items()
            if name not in looked_at
            and not all((table.folder / entry.path).is_file() for entry in table.files())
        ]
        return list(repair.mend(self.base, self.progress, missing)) if missing else []

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
                name: export_step.finish(table, self._origin_of(table), version)
                if name.startswith("exports/")
                else table
                for name, table in self.made.items()
            }

        change = Change(
            command=command,
            tables=self.made,
            removed=frozenset(self.removed),
            finish=finish,
            **header,
        )
        lacking = self._mend_missing()
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
            damaged=[n for n in self.damaged if n not in {*self.made, *self.removed}] + lacking,
            marked=marked,
            kept=self.kept,
            removed=self.removed,
            copied=committed.copied,
        )
