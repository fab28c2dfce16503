"""The figures of an export, and the examples that are not in it as planned."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pausedata.exporters.sequences import Flags, Sequences


@dataclass(frozen=True)
class RowChange:
    """An example that is not exported as it was planned; JSON-able by ``vars``."""

    id: str
    what: str  # skipped, truncated, moved
    reason: str | None = None
    places: list[list[int]] | None = None  # of a moved one: [position, count] as exported
    planned: list[list[int]] | None = None  # and as the placement has them


CHANGES = ".changes.jsonl"  # STEM.changes.jsonl: the changes of that split, if there are any


def read_changes(path: Path) -> list[RowChange]:
    """The changes that a file of them lists; none where there is no file."""
    if not path.exists():
        return []
    return [RowChange(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]


@dataclass
class Tally:
    """The figures of one split, or of a part of it."""

    rows: int = 0
    tokens: int = 0
    pauses: int = 0
    loss_tokens: int = 0
    longest: int = 0  # tokens of the longest row
    examples: int = 0  # those in the rows: as many, unless they are packed
    skipped: dict[str, int] = field(default_factory=dict)  # reason → examples left out
    truncated: int = 0  # examples cut to max_length
    moved: int = 0  # examples some of whose pauses were moved

    def add(self, sequences: Sequences, loss: Flags, behind: int = 0) -> None:
        """Count rows, of whose elements those in ``loss`` bear it.

        ``behind``: the tokens that the trainer adds after each row, as a chat template does.
        """
        self.rows += len(sequences.offsets) - 1
        self.examples += len(sequences.parts) - 1
        self.tokens += len(sequences.input_ids) + behind * (len(sequences.offsets) - 1)
        self.pauses += int(sequences.is_pause.sum())
        self.loss_tokens += int(loss.sum())
        self.longest = max(self.longest, int(sequences.lengths.max(initial=-behind)) + behind)

    def note(self, changes: Iterable[RowChange]) -> None:
        """Count examples that are not as planned."""
        for change in changes:
            if change.what == "skipped":
                reason = change.reason or ""
                self.skipped[reason] = self.skipped.get(reason, 0) + 1
            else:
                setattr(self, change.what, getattr(self, change.what) + 1)

    def join(self, other: Tally) -> None:
        """Count what another part holds too."""
        for name in ("rows", "tokens", "pauses", "loss_tokens", "examples", "truncated", "moved"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.longest = max(self.longest, other.longest)
        for reason, count in other.skipped.items():
            self.skipped[reason] = self.skipped.get(reason, 0) + count

    def shown(self) -> dict[str, Any]:
        """The figures, with two shares: tokens that bear loss, and pauses per other token."""
        plain = self.tokens - self.pauses
        return {
            **vars(self),
            "loss_share": round(self.loss_tokens / self.tokens, 4) if self.tokens else 0.0,
            "growth": round(self.pauses / plain, 4) if plain else 0.0,
        }
