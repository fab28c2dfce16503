"""What an export is made from: placements, the tables that they are of, and the tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pausedata.core.errors import UsageError
from pausedata.models.tokenizer import Tokenizer
from pausedata.store.choice import Choice, names_in
from pausedata.store.dataset import Table, missing
from pausedata.store.manifest import PauseEntry


@dataclass(frozen=True)
class ExportInputs:
    """What an export is made from."""

    dataset: str
    choice: Choice  # the placement, or several
    placements: Mapping[str, Table]  # by name
    examples: Table
    tokens: Table
    vocab: Table
    pause: PauseEntry
    find_tokenizer: Callable[[], Tokenizer]  # raises where there is none

    @classmethod
    def of(
        cls,
        dataset: str,
        pause: PauseEntry,
        tables: Mapping[str, Table],
        choice: Choice,
        find_tokenizer: Callable[[], Tokenizer],
    ) -> ExportInputs:
        """From a dataset's ``tables``; UsageError where a placement is not there."""
        names = names_in(choice)
        for table in (f"placements/{name}" for name in names):
            if table not in tables:
                raise UsageError(missing(table, tables))
        return cls(
            dataset=dataset,
            choice=choice,
            placements={name: tables[f"placements/{name}"] for name in names},
            examples=tables["examples"],
            tokens=tables["tokens"],
            vocab=tables["vocab"],
            pause=pause,
            find_tokenizer=find_tokenizer,
        )

    @property
    def contents(self) -> dict[str, str]:
        """The content hashes of the tables that decide it."""
        placements = {f"placements/{name}": t.entry.content for name, t in self.placements.items()}
        return {"tokens": self.tokens.entry.content} | placements

    @property
    def placement_content(self) -> str | dict[str, str]:
        """The content hash of the placement, or of each."""
        contents = {name: table.entry.content for name, table in self.placements.items()}
        return contents[self.choice] if isinstance(self.choice, str) else contents


def names_of(choice: Choice) -> list[str]:
    """The placements that an export is made from, as tables."""
    return [f"placements/{name}" for name in names_in(choice)]
