"""The rows of an export, unit by unit. `export` writes them, `verify` and `--check` expect them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pausedata.core.errors import UsageError
from pausedata.exporters import Format, Sequences, insert_pauses
from pausedata.exporters.chat import render
from pausedata.exporters.check import CheckedExample, Checker
from pausedata.exporters.examples import (
    ExportExample,
    Place,
    as_placement,
    read_examples,
    read_messages,
    read_places,
)
from pausedata.exporters.inputs import ExportInputs
from pausedata.exporters.labels import loss_of
from pausedata.exporters.length import Fitted, fit
from pausedata.exporters.mixture import draw, mixed
from pausedata.exporters.pack import WINDOW, pack
from pausedata.exporters.reader import Reader
from pausedata.exporters.refused import LENGTH, mismatch
from pausedata.exporters.tally import RowChange, Tally
from pausedata.store.choice import epochs_of
from pausedata.store.dataset import Table, check_shards
from pausedata.store.manifest import ShardEntry
from pausedata.store.shards import shard_name
from pausedata.store.tables import list_parts


@dataclass(frozen=True)
class ExportUnit:
    """A shard of the export: examples ``first`` to ``last`` of a split, with their placements."""

    file: str  # the shard's file name
    label: str  # the split as the export calls it
    split: str
    weights: Mapping[str, float]
    first: int
    last: int


@dataclass
class Made:
    """The rows of a unit, and what became of its examples."""

    sequences: Sequences  # in token ids, as the trainer should have them; packed if asked for
    table: pa.Table  # the format's rows
    tally: Tally
    changes: list[RowChange]


@dataclass(frozen=True)
class _Parts:
    """What the rows of a unit are made of: tables of the same examples, in the same order."""

    tokens: pa.Table
    placement: pa.Table
    ends: np.ndarray  # how many of each response's tokens were appended: [examples]
    # These only for formats of text, and where prompts are rendered anew.
    examples: pa.Table | None = None
    messages: list[list[dict[str, Any]]] = field(default_factory=list)

    def sequences(self, pause_id: int) -> Sequences:
        """The tokens with the pauses in their places."""
        return insert_pauses(self.tokens, self.placement, pause_id, self.ends)

    def take(self, rows: np.ndarray) -> _Parts:
        """The same, for these examples alone."""
        return _Parts(
            _take(self.tokens, rows),
            _take(self.placement, rows),
            self.ends[rows],
            None if self.examples is None else _take(self.examples, rows),
            [self.messages[k] for k in rows] if self.messages else [],
        )


# The columns that are read where no others are needed, which saves time.
_IDS = ["prompt_ids", "response_ids"]
_PLACES = ["position", "count"]


class ExportRows:
    """Makes the rows of one export."""

    def __init__(
        self,
        inputs: ExportInputs,
        format: Format,
        options: Any,
        recorded: Mapping[str, RowChange] | None = None,
    ) -> None:
        """``recorded``: the changes that a stored export lists, by label and id.

        With them its text rows are not read back again, which would need the tokenizer.
        """
        self.inputs, self.format, self.options = inputs, format, options
        self.schema = format.schema(options)
        self._recorded = recorded
        for table in inputs.placements.values():
            check_shards(table, inputs.tokens)
        self._last_read: dict[str, tuple[int, pa.Table]] = {}
        self._shards: dict[tuple[str, str], list[tuple[int, ShardEntry]]] = {}

    @property
    def needs_tokenizer(self) -> bool:
        """Whether rows can only be made with the tokenizer."""
        return self._rendered_anew or (self.format.text is not None and self._recorded is None)

    @property
    def _rendered_anew(self) -> bool:
        return getattr(self.options, "chat_template", None) is not None or self._system is not None

    @property
    def _system(self) -> str | None:
        return getattr(self.options, "system", None)

    @cached_property
    def reader(self) -> Reader:
        """The tokenizer as a trainer has it."""
        pause = self.inputs.pause
        template = getattr(self.options, "chat_template", None)
        return Reader(self.inputs.find_tokenizer(), pause.token, pause.id, template)

    @cached_property
    def _specials(self) -> dict[int, str]:
        """The special tokens' texts, by id."""
        columns = ["token_id", "bytes", "special"]
        tables = [self.inputs.vocab.read(shard, columns) for shard in self.inputs.vocab.shards]
        rows = pa.concat_tables(tables).filter(pc.field("special")).to_pylist()
        return {row["token_id"]: row["bytes"].decode("utf-8", "replace") for row in rows}

    def labels(self, splits: list[str] | None = None) -> dict[str, str]:
        """The export's splits → those of the dataset; one for each epoch where there are some.

        Those of ``splits``, by default what the export is to have.
        """
        found = self.inputs.splits if splits is None else splits
        epochs = epochs_of(self.inputs.choice)
        return {split + added: split for added, _ in epochs for split in found}

    def units(self, label: str) -> list[ExportUnit]:
        """The shards of one of ``labels``, in order.

        They are those of the tokens. Packed rows may not depend on these: there a unit is a fixed
        number of examples.
        """
        split = self.labels(self.inputs.tokens.splits())[label]
        weights = {split + added: weights for added, weights in epochs_of(self.inputs.choice)}
        shards = [s for s in self.inputs.tokens.shards if s.split == split]
        bounds = [(s.first_row, s.first_row + s.rows) for s in shards]
        if getattr(self.options, "pack", None):
            rows = bounds[-1][1] if bounds else 0
            bounds = [(a, min(a + WINDOW, rows)) for a in range(0, max(rows, 1), WINDOW)]
        return [
            ExportUnit(shard_name(label, k, len(bounds)), label, split, weights[label], first, last)
            for k, (first, last) in enumerate(bounds)
        ]

    def make(self, unit: ExportUnit) -> Made:
        """One shard's rows. Raises Refused for rows that the options make an error."""
        parts = self._parts(unit)
        sequences = parts.sequences(self.inputs.pause.id)
        if getattr(self.options, "eos", "keep") == "drop":
            sequences = sequences.only(~sequences.is_end)
        fitted = self._fitted(sequences, parts.tokens, unit.label)
        tally = Tally()
        tally.note(fitted.changes)
        if self.format.text is None:
            made = self._rows_of_ids(fitted.sequences, tally)
        else:
            made = self._rows_of_text(parts.take(fitted.kept), unit.label, tally)
        if fitted.changes:
            ids = parts.tokens.column("id").to_pylist()
            order = {id: k for k, id in enumerate(ids)}
            changes = [*fitted.changes, *made.changes]
            made.changes = sorted(changes, key=lambda change: order[change.id])
        return made

    def _parts(self, unit: ExportUnit) -> _Parts:
        """What the unit's rows are made of, with prompts rendered anew where that is asked for."""
        named = self._limit is not None or len(unit.weights) > 1
        columns = None if self._needs_ends else ["id", *_IDS] if named else _IDS
        tokens = self._read(self.inputs.tokens, unit, columns)
        ends = self._ends(tokens) if self._needs_ends else np.zeros(tokens.num_rows, np.int64)
        placement = self._placement(unit, tokens)
        if self.format.text is None and not self._rendered_anew:
            return _Parts(tokens, placement, ends)
        examples = self._read(self.inputs.examples, unit)
        messages = read_messages(examples)
        if not self._rendered_anew:
            return _Parts(tokens, placement, ends, examples, messages)
        anew = render(examples, tokens, messages, ends, self._system, self.reader)
        placement = anew.placed(placement)
        return _Parts(anew.tokens, placement, anew.ends, anew.examples, anew.messages)

    def _rows_of_ids(self, sequences: Sequences, tally: Tally) -> Made:
        assert self.format.rows is not None
        if length := getattr(self.options, "pack", None):
            sequences = pack(sequences, length)
        tally.add(sequences, loss_of(self.format, sequences, self.options))
        return Made(sequences, self.format.rows(sequences, self.options), tally, [])

    @property
    def _limit(self) -> int | None:
        """How many elements an example may have."""
        limits = [getattr(self.options, name, None) for name in ("max_length", "pack")]
        return min((limit for limit in limits if limit), default=None)

    def _fitted(self, sequences: Sequences, tokens: pa.Table, label: str) -> Fitted:
        """The sequences that are short enough; ``tokens``: of the same examples."""
        limit, text = self._limit, self.format.text
        if not limit:
            return Fitted(sequences, np.arange(tokens.num_rows))
        ids = tokens.column("id").to_pylist()
        if text is None:
            return fit(sequences, ids, limit, self.options.overlong)
        if self._recorded is None:
            behind = len(self.reader.turn_tail_ids) if text.chat else 0
            policy = self.options.overlong
            return fit(sequences, ids, limit, policy, behind=behind, may_cut=False)
        # What a chat template puts after a row only the tokenizer knows: the record says it.
        found = [self._recorded.get(f"{label}\0{id}") for id in ids]
        changes = [change for change in found if change and change.reason in LENGTH]
        gone = {change.id for change in changes}
        kept = np.array([k for k, id in enumerate(ids) if id not in gone], np.int64)
        return Fitted(sequences.take(kept), kept, changes)

    @property
    def _needs_ends(self) -> bool:
        """Whether it matters which tokens were appended to responses."""
        options = self.options
        return (
            self._rendered_anew
            or self.format.text is not None
            or getattr(options, "eos", "keep") != "keep"
            or getattr(options, "overlong", "error") == "truncate"
        )

    def _read(self, table: Table, unit: ExportUnit, columns: list[str] | None = None) -> pa.Table:
        """The unit's rows of a table."""
        shards = self._shards_of(table, unit.split)
        begins = [shard.first_row for _, shard in shards]
        parts = []
        # From the shard that the first row is in; of a unit without rows, one that begins there.
        for number, shard in shards[max(0, bisect_right(begins, unit.first) - 1) :]:
            if shard.first_row >= unit.last and parts:
                break
            first, last = (
                max(unit.first, shard.first_row),
                min(unit.last, shard.first_row + shard.rows),
            )
            held = self._last_read.get(table.name)
            if held is None or held[0] != number:
                # Not in threads: the last unit is written meanwhile.
                rows = table.read(shard, columns, threads=False)
                held = self._last_read[table.name] = (number, rows)
            parts.append(held[1].slice(first - shard.first_row, max(0, last - first)))
        return pa.concat_tables(parts)

    def _shards_of(self, table: Table, split: str) -> list[tuple[int, ShardEntry]]:
        """A table's shards of a split with their numbers; kept, since there may be thousands."""
        key = (table.name, split)
        if key not in self._shards:
            self._shards[key] = [
                (number, shard) for number, shard in enumerate(table.shards) if shard.split == split
            ]
        return self._shards[key]

    def _placement(self, unit: ExportUnit, tokens: pa.Table) -> pa.Table:
        tables = [self._read(self.inputs.placements[name], unit, _PLACES) for name in unit.weights]
        if len(tables) == 1:
            return tables[0]
        ids = tokens.column("id").to_pylist()
        return mixed(tables, draw(ids, unit.weights, getattr(self.options, "seed", 0)))

    def _ends(self, tokens: pa.Table) -> np.ndarray:
        """How many of each response's tokens were appended to its text: [examples].

        Their spans are empty, at the end of the text. A truncated response has none.
        """
        offsets, start = list_parts(tokens, "char_start")
        _, end = list_parts(tokens, "char_end")
        rules = self.inputs.tokens.entry.provenance.get("inputs", {}).get("scoring", {})
        truncated = tokens.column("truncated").to_numpy()
        ends = np.zeros(tokens.num_rows, np.int64)
        if not rules.get("append_eos", True) or not len(start):
            return ends
        last = np.repeat(end[offsets[1:] - 1], np.diff(offsets))
        empty = (start == end) & (start == last)
        for k in np.flatnonzero(~truncated).tolist():
            own = empty[offsets[k] : offsets[k + 1]]
            ends[k] = len(own) - 1 - np.flatnonzero(~own)[-1] if (~own).any() else 0
        return ends

    def _rows_of_text(self, parts: _Parts, label: str, tally: Tally) -> Made:
        """Rows that were read back as their trainer will; those that fail are changes."""
        text = self.format.text
        assert text is not None and parts.examples is not None
        if text.chat and not all(parts.messages):
            raise UsageError(
                f"{self.format.name} writes messages, and the prompts of this dataset are plain "
                "text. `--chat-template model` makes each prompt the user's turn; or build it from "
                "messages (prompt: {messages: […]} in the recipe)."
            )
        examples = list(
            read_examples(parts.examples, parts.tokens, parts.messages, parts.ends, self._specials)
        )
        planned = read_places(parts.placement)
        verdicts = self._verdicts(examples, planned, label)
        rows: list[dict[str, Any]] = []
        changes: list[RowChange] = []
        kept: list[int] = []
        for k, (example, before, verdict) in enumerate(
            zip(examples, planned, verdicts, strict=True)
        ):
            if verdict.reason is not None:
                changes.append(RowChange(example.id, "skipped", verdict.reason))
                continue
            if verdict.places != before:
                pair = [list(p) for p in verdict.places], [list(p) for p in before]
                changes.append(RowChange(example.id, "moved", None, *pair))
            row = example.text(verdict.places, self.inputs.pause.token)
            rows.append(dict(text.render(row, self.options)))
            kept.append(k)
        placement = as_placement([verdicts[k].places for k in kept])
        numbers = np.array(kept, np.int64)
        sequences = insert_pauses(
            _take(parts.tokens, numbers), placement, self.inputs.pause.id, parts.ends[numbers]
        )
        tally.note(changes)
        # A stored export that is made again is not counted again.
        chat = text.chat and self._recorded is None
        tail = len(self.reader.turn_tail_ids) if chat else 0
        tally.add(sequences, loss_of(self.format, sequences, self.options), tail)
        table = pa.Table.from_pylist(rows, schema=self.format.schema(self.options))
        return Made(sequences, table, tally, changes)

    def _verdicts(
        self, examples: list[ExportExample], places: list[list[Place]], label: str
    ) -> list[CheckedExample]:
        """For each example the places that its pauses get, or why it is left out."""
        if self._recorded is not None:
            found = [self._recorded.get(f"{label}\0{example.id}") for example in examples]
            return [
                CheckedExample(own, reason=change.reason if change else None)
                if change is None or change.places is None
                else CheckedExample([(p, c) for p, c in change.places])
                for own, change in zip(places, found, strict=True)
            ]
        assert self.format.text is not None
        checker = Checker(self.format.text, self.options, self.reader)
        verdicts = checker.check(examples, places)
        pairs = zip(examples, verdicts, strict=True)
        wrong = [(example.id, verdict) for example, verdict in pairs if verdict.reason]
        if wrong and self.options.on_mismatch == "error":
            raise mismatch(wrong, len(verdicts), self.reader)
        return verdicts


def _take(table: pa.Table, rows: np.ndarray) -> pa.Table:
    return table if len(rows) == table.num_rows else table.take(pa.array(rows))
