"""The rows of an export, unit by unit: what is written, and what `verify` and a proof expect."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pausedata.core.errors import UsageError
from pausedata.exporters import Format, Sequences, insert_pauses
from pausedata.exporters.chat import RenderedChat, render
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
from pausedata.exporters.labels import bears_loss
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
    """What a unit comes to."""

    sequences: Sequences  # in token ids, as the trainer should have them; packed if asked for
    table: pa.Table  # the format's rows
    tally: Tally
    changes: list[RowChange]


# What is read where nothing else is needed: a column not read is time saved.
_IDS = ["prompt_ids", "response_ids"]
_PLACES = ["position", "count"]


class ExportRows:
    """Makes the rows of one export."""

    def __init__(
        self,
        origin: ExportInputs,
        format: Format,
        options: Any,
        settled: Mapping[str, RowChange] | None = None,
    ) -> None:
        """``settled``: what a stored export says became of its text rows, by label and id; they
        are not read back again then, which would need the tokenizer.
        """
        self.origin, self.format, self.options = origin, format, options
        self.schema = format.schema(options)
        self._settled = settled
        for table in origin.placements.values():
            check_shards(table, origin.tokens)
        self._last_read: dict[str, tuple[int, pa.Table]] = {}
        self._shards: dict[tuple[str, str], list[tuple[int, ShardEntry]]] = {}

    @property
    def needs_tokenizer(self) -> bool:
        """Whether rows can only be made with the tokenizer."""
        return self._rendered_anew or (self.format.text is not None and self._settled is None)

    @property
    def _rendered_anew(self) -> bool:
        return getattr(self.options, "chat_template", None) is not None or self._system is not None

    @property
    def _system(self) -> str | None:
        return getattr(self.options, "system", None)

    @cached_property
    def reader(self) -> Reader:
        """The tokenizer as a trainer has it."""
        pause = self.origin.pause
        template = getattr(self.options, "chat_template", None)
        return Reader(self.origin.find_tokenizer(), pause.token, pause.id, template)

    @cached_property
    def _specials(self) -> dict[int, str]:
        """The special tokens' texts, by id."""
        columns = ["token_id", "bytes", "special"]
        tables = [self.origin.vocab.read(shard, columns) for shard in self.origin.vocab.shards]
        rows = pa.concat_tables(tables).filter(pc.field("special")).to_pylist()
        return {row["token_id"]: row["bytes"].decode("utf-8", "replace") for row in rows}

    def labels(self, splits: list[str] | None = None) -> dict[str, str]:
        """The export's splits → those of the dataset; one for each epoch where there are some."""
        found = self.origin.tokens.splits() if splits is None else splits
        epochs = epochs_of(self.origin.choice)
        return {split + added: split for added, _ in epochs for split in found}

    def units(self, label: str) -> list[ExportUnit]:
        """The shards of one of ``labels``, in order.

        Those of the tokens; of packed rows, which may not depend on shards, portions of a fixed
        number of examples.
        """
        split = self.labels()[label]
        weights = {split + added: weights for added, weights in epochs_of(self.origin.choice)}
        shards = [s for s in self.origin.tokens.shards if s.split == split]
        bounds = [(s.first_row, s.first_row + s.rows) for s in shards]
        if getattr(self.options, "pack", None):
            rows = bounds[-1][1] if bounds else 0
            bounds = [(a, min(a + WINDOW, rows)) for a in range(0, max(rows, 1), WINDOW)]
        return [
            ExportUnit(shard_name(label, k, len(bounds)), label, split, weights[label], first, last)
            for k, (first, last) in enumerate(bounds)
        ]

    def make(self, unit: ExportUnit) -> Made:
        """One shard's rows. Refused where `error` is what is to be done with a row."""
        tally, changes = Tally(), list[RowChange]()
        texts = self._rendered_anew or self.format.text is not None
        named = self._limit is not None or len(unit.weights) > 1
        columns = None if self._needs_ends else ["id", *_IDS] if named else _IDS
        tokens = self._read(self.origin.tokens, unit, columns)
        ends = self._ends(tokens) if self._needs_ends else np.zeros(tokens.num_rows, np.int64)
        examples: pa.Table | None = None
        anew: RenderedChat | None = None
        messages: list[list[dict[str, Any]]] = []
        if texts:
            examples = self._read(self.origin.examples, unit)
            messages = read_messages(examples)
            if self._rendered_anew:
                anew = render(examples, tokens, messages, ends, self._system, self.reader)
                examples, tokens, messages, ends = (
                    *(anew.examples, anew.tokens),
                    *(anew.messages, anew.ends),
                )
        placement = self._placement(unit, tokens)
        if anew is not None:
            placement = anew.placed(placement)
        sequences = insert_pauses(tokens, placement, self.origin.pause.id, ends)
        if getattr(self.options, "eos", "keep") == "drop":
            sequences = sequences.only(~sequences.is_end)
        fitted = self._fitted(sequences, tokens, unit.label)
        sequences, kept = fitted.sequences, fitted.kept
        tally.note(fitted.changes)
        changes += fitted.changes
        if self.format.text is not None:
            assert examples is not None
            written = _take(examples, kept), _take(tokens, kept)
            return self._text(
                *written, [messages[k] for k in kept], ends[kept], _take(placement, kept),
                tally, changes, unit.label, tokens.column("id").to_pylist(),
            )  # fmt: skip
        if length := getattr(self.options, "pack", None):
            sequences = pack(sequences, length)
        tally.add(sequences, bears_loss(sequences, self.options))
        assert self.format.rows is not None
        return Made(sequences, self.format.rows(sequences, self.options), tally, changes)

    @property
    def _limit(self) -> int | None:
        """The most elements of an example."""
        limits = [getattr(self.options, name, None) for name in ("max_length", "pack")]
        return min((limit for limit in limits if limit), default=None)

    def _fitted(self, sequences: Sequences, tokens: pa.Table, label: str) -> Fitted:
        """What of the examples, those of ``tokens``, is short enough."""
        limit, text = self._limit, self.format.text
        if not limit:
            return Fitted(sequences, np.arange(tokens.num_rows))
        ids = tokens.column("id").to_pylist()
        if text is None:
            return fit(sequences, ids, limit, self.options.overlong)
        if self._settled is None:
            behind = len(self.reader.turn_tail_ids) if text.chat else 0
            policy = self.options.overlong
            return fit(sequences, ids, limit, policy, behind=behind, may_cut=False)
        # What a chat template puts behind a row only the tokenizer knows: it is on record instead.
        found = [self._settled.get(f"{label}\0{id}") for id in ids]
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
        """A table's shards of a split with their numbers: found once, there may be thousands."""
        key = (table.name, split)
        if key not in self._shards:
            self._shards[key] = [
                (number, shard) for number, shard in enumerate(table.shards) if shard.split == split
            ]
        return self._shards[key]

    def _placement(self, unit: ExportUnit, tokens: pa.Table) -> pa.Table:
        tables = [self._read(self.origin.placements[name], unit, _PLACES) for name in unit.weights]
        if len(tables) == 1:
            return tables[0]
        ids = tokens.column("id").to_pylist()
        return mixed(tables, draw(ids, unit.weights, getattr(self.options, "seed", 0)))

    def _ends(self, tokens: pa.Table) -> np.ndarray:
        """How many of each response's tokens were appended to its text: [examples].

        They stand behind the text, so that their spans are empty. Of a truncated one: none.
        """
        offsets, start = list_parts(tokens, "char_start")
        _, end = list_parts(tokens, "char_end")
        rules = self.origin.tokens.entry.provenance.get("inputs", {}).get("scoring", {})
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

    def _text(
        self,
        examples: pa.Table,
        tokens: pa.Table,
        messages: list[list[dict[str, Any]]],
        ends: np.ndarray,
        placement: pa.Table,
        tally: Tally,
        changes: list[RowChange],
        label: str,
        ids: list[str],
    ) -> Made:
        """Rows of text, each of them read back; ``changes`` and ``tally`` know of those among
        ``ids`` that are left out already.
        """
        text = self.format.text
        assert text is not None
        if text.chat and not all(messages):
            raise UsageError(
                f"{self.format.name} writes messages, and the prompts of this dataset are plain "
                "text. `--chat-template model` makes each prompt the user's turn; or build it from "
                "messages (prompt: {messages: […]} in the recipe)."
            )
        own = list(read_examples(examples, tokens, messages, ends, self._specials))
        places = read_places(placement)
        made: list[dict[str, Any]] = []
        final: list[list[Place]] = []
        rest: list[int] = []
        own_changes: list[RowChange] = []
        verdicts = self._verdicts(own, places, label)
        for k, (example, before, verdict) in enumerate(zip(own, places, verdicts, strict=True)):
            if verdict.reason is not None:
                own_changes.append(RowChange(example.id, "skipped", verdict.reason))
                continue
            if verdict.places != before:
                pair = [list(p) for p in verdict.places], [list(p) for p in before]
                own_changes.append(RowChange(example.id, "moved", None, *pair))
            row = text.render(example.text(verdict.places, self.origin.pause.token), self.options)
            made.append(dict(row))
            final.append(verdict.places)
            rest.append(k)
        tally.note(own_changes)
        kept = np.array(rest, np.int64)
        sequences = insert_pauses(
            _take(tokens, kept), as_placement(final), self.origin.pause.id, ends[kept]
        )
        loss = ~sequences.is_prompt
        if self.format.masks(self.options):
            loss &= ~sequences.is_pause
        # A stored export that is made again is not counted again.
        chat = text.chat and self._settled is None
        tally.add(sequences, loss, len(self.reader.turn_tail_ids) if chat else 0)
        table = pa.Table.from_pylist(made, schema=self.format.schema(self.options))
        order = {id: k for k, id in enumerate(ids)}
        in_order = sorted([*changes, *own_changes], key=lambda change: order[change.id])
        return Made(sequences, table, tally, in_order)

    def _verdicts(
        self, examples: list[ExportExample], places: list[list[Place]], label: str
    ) -> list[CheckedExample]:
        """For each example the places that it is written with, or why it is left out."""
        if self._settled is not None:
            found = [self._settled.get(f"{label}\0{example.id}") for example in examples]
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
