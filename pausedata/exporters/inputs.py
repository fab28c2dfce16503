"""What an export is made from: placements, the tables that they are of, and the tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from pausedata.core.errors import UsageError, listing, nearest
from pausedata.core.held_out import cut_split
from pausedata.models.tokenizer import Tokenizer
from pausedata.store.choice import Choice, epochs_of, names_in
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
    split: str | None = None  # the one that is asked for; None: every one but what is held out

    @classmethod
    def of(
        cls,
        dataset: str,
        pause: PauseEntry,
        tables: Mapping[str, Table],
        choice: Choice,
        find_tokenizer: Callable[[], Tokenizer],
        split: str | None = None,
    ) -> ExportInputs:
        """From a dataset's ``tables``; UsageError where a placement, or the split, is not there."""
        names = names_in(choice)
        for table in (f"placements/{name}" for name in names):
            if table not in tables:
                raise UsageError(missing(table, tables))
        there = tables["tokens"].splits()
        if split is not None and split not in there:
            raise UsageError(f"no split '{split}'.{nearest(split, there)} There: {listing(there)}.")
        return cls(
            dataset=dataset,
            choice=choice,
            placements={name: tables[f"placements/{name}"] for name in names},
            examples=tables["examples"],
            tokens=tables["tokens"],
            vocab=tables["vocab"],
            pause=pause,
            find_tokenizer=find_tokenizer,
            split=split,
        )

    @property
    def held_out(self) -> str | None:
        """The split that was cut off to be measured on, and is only written when asked for."""
        return cut_split(self.tokens.entry.provenance)

    def is_held_out(self, label: str) -> bool:
        """Whether an export's split, perhaps of one of several epochs, is that one."""
        epochs = epochs_of(self.choice)
        return self.held_out is not None and label in {self.held_out + e for e, _ in epochs}

    @property
    def splits(self) -> list[str]:
        """The dataset's splits that are written."""
        if self.split is not None:
            return [self.split]
        return [split for split in self.tokens.splits() if split != self.held_out]

    def left_out(self, written: Iterable[str]) -> dict[str, int]:
        """The examples that are held out, by split, where that is none of those ``written``."""
        held = self.held_out
        if held is None or held in written:
            return {}
        return {held: sum(shard.rows for shard in self.tokens.shards if shard.split == held)}

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
