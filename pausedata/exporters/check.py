"""Reads each row of text back as its trainer will, and moves pauses that would change the ids.

A pause is planned between two tokens. In text it may split a word, whose second half is then
tokenised in another way: only a tokenizer tells whether the ids are the planned ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pausedata.exporters.base import Text
from pausedata.exporters.examples import ExportExample, Place
from pausedata.exporters.reader import Reader


@dataclass(frozen=True)
class CheckedExample:
    """One example's places, perhaps moved, or why it cannot be written."""

    places: list[Place]
    reason: str | None = None  # None: the text gives the planned ids
    planned: tuple[int, ...] = ()  # of what cannot be written: the ids planned, and those read
    read: tuple[int, ...] = ()


class Checker:
    """Reads rows of one format back."""

    def __init__(self, text: Text, options: Any, reader: Reader) -> None:
        self._text, self._options, self._reader = text, options, reader
        self._tail = reader.turn_tail_ids if text.chat else []

    def check(
        self, examples: Sequence[ExportExample], places: Sequence[list[Place]]
    ) -> list[CheckedExample]:
        """A verdict for each example with its places; with ``on_mismatch: move`` they may move."""
        written = list(zip(examples, places, strict=True))
        read = self._read(written)
        verdicts = []
        for (example, own), ids in zip(written, read, strict=True):
            if ids is not None and self._fits(example, own, ids):
                verdicts.append(CheckedExample(own))
            elif self._options.on_mismatch == "move" and (moved := self._moved(example, own)):
                verdicts.append(CheckedExample(moved))
            else:
                verdicts.append(self._refused(example, own, ids))
        return verdicts

    def _read(self, written: Sequence[tuple[ExportExample, list[Place]]]) -> list[list[int] | None]:
        """The ids that each gives as text; None where a place cannot stand in text."""
        able = [all(example.can_stand(p) for p, _ in places) for example, places in written]
        rows = [
            self._text.render(example.text(places, self._reader.pause), self._options)
            for (example, places), can in zip(written, able, strict=True)
            if can
        ]
        found = iter(self._text.read_back(rows, self._reader, self._options) if rows else [])
        return [next(found) if can else None for can in able]

    def _fits(self, example: ExportExample, places: list[Place], ids: list[int]) -> bool:
        return ids == example.ids(places, self._reader.pause_id) + self._tail

    def _moved(self, example: ExportExample, places: list[Place]) -> list[Place] | None:
        """The same pauses, each at the nearest place that survives; None where there is none.

        Of two places equally near the earlier is taken. Pauses that meet stand together.
        """
        (plain,) = self._read([(example, [])])
        if plain is None or not self._fits(example, [], plain):
            return None  # the ids differ even without pauses
        survives: dict[int, bool] = {}

        def try_out(positions: list[int]) -> None:
            new = [p for p in dict.fromkeys(positions) if p not in survives]
            written = [(example, [(p, 1)]) for p in new if example.can_stand(p)]
            survives.update(dict.fromkeys(new, False))
            for (_, own), ids in zip(written, self._read(written), strict=True):
                survives[own[0][0]] = ids is not None and self._fits(example, own, ids)

        try_out([position for position, _ in places])
        found: dict[int, int] = {}
        for position, count in places:
            for distance in range(len(example.response_ids) + 1):
                near = [position] if distance == 0 else [position - distance, position + distance]
                try_out([p for p in near if 0 <= p <= example.last])
                target = next((p for p in near if survives.get(p)), None)
                if target is not None:
                    found[target] = found.get(target, 0) + count
                    break
            else:
                return None
        moved = sorted(found.items())
        (ids,) = self._read([(example, moved)])
        return moved if ids is not None and self._fits(example, moved, ids) else None

    def _refused(
        self, example: ExportExample, places: list[Place], ids: list[int] | None
    ) -> CheckedExample:
        planned = example.ids(places, self._reader.pause_id)
        if ids is None:
            return CheckedExample(places, reason="place_not_in_text", planned=tuple(planned))
        (plain,) = self._read([(example, [])])
        if not example.appended:
            reason = "no_end"  # the trainer will add one
        elif plain is not None and self._fits(example, [], plain):
            reason = "pause_changes_tokens"
        else:
            reason = "text_changes_tokens"
        return CheckedExample(places, reason, tuple(planned), tuple(ids))
