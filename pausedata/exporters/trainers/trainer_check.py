"""Checks, row by row, that a trainer has in its tensors what the placement gives.

What is planned comes from the dataset's tables, never from the exported file.
"""

from __future__ import annotations

import os
import tempfile
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from pausedata.core.errors import reason
from pausedata.exporters.base import IGNORE
from pausedata.exporters.export_rows import ExportRows, Made
from pausedata.exporters.labels import loss_of
from pausedata.exporters.trainers.base import Finding, LoadPath, TensorRow, Trainer, TrainerInput


@dataclass
class Check:
    """One thing that was compared."""

    what: str
    compared: int = 0
    differ: int = 0
    first: str | None = None  # the first difference, in words

    def count(self, compared: int, differ: int, where: str = "") -> None:
        """Add what one row comes to."""
        self.compared += compared
        self.differ += differ
        if differ and self.first is None:
            self.first = where


@dataclass
class TrainerCheck:
    """The result of one way in which a trainer reads one split."""

    trainer: str
    way: str
    split: str
    checks: list[Check] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether nothing differs."""
        return not any(check.differ for check in self.checks)

    def shown(self) -> dict[str, Any]:
        """JSON-able."""
        return {**asdict(self), "holds": self.holds}


class Planned(NamedTuple):
    """One example as it should arrive."""

    input_ids: list[int]
    labels: list[int]
    is_pause: list[bool]
    own: int  # elements of the example itself; a chat template adds those after them


def prove(trainer: Trainer, rows: ExportRows, label: str, path: Path) -> Iterator[TrainerCheck]:
    """A check of each way in which ``trainer`` reads the split ``label`` of an export at ``path``.

    None for a split without rows. ``rows`` makes what is planned.
    """
    os.environ.update(trainer.environment)
    made = [rows.make(unit) for unit in rows.units(label)]
    plan = [row for one in made for row in planned(one, rows)]
    longest = max(
        *(int(one.sequences.lengths.max(initial=0)) for one in made),
        *(len(row.input_ids) for row in plan),
        0,
        0,
    )
    for way in trainer.ways if plan else ():
        with tempfile.TemporaryDirectory(prefix="pausedata-check-") as scratch:
            given = TrainerInput(
                rows.format, rows.options, path, label, rows.reader, longest, Path(scratch)
            )
            if way.applies(given):
                yield _compare(trainer, way, given, plan)


def planned(made: Made, rows: ExportRows) -> Iterator[Planned]:
    """The examples of a shard as they should arrive, packed or not."""
    sequences, options, format = made.sequences, rows.options, rows.format
    loss = loss_of(format, sequences, options)
    tail = rows.reader.turn_tail_ids if format.text and format.text.chat else []
    shifted = getattr(options, "columns", None) == "labels"
    for first, last in zip(sequences.parts[:-1], sequences.parts[1:], strict=True):
        ids = sequences.input_ids[first:last].tolist()
        bears = loss[first:last].tolist()
        labels = [token if one else IGNORE for token, one in zip(ids, bears, strict=True)]
        pauses = sequences.is_pause[first:last].tolist()
        if shifted:  # each label beside the token that it is predicted from
            ids, labels, pauses = ids[:-1], labels[1:], pauses[1:]
        yield Planned(
            ids + tail,
            labels + [IGNORE] * len(tail),
            pauses + [False] * len(tail),
            len(ids),
        )


def _compare(
    trainer: Trainer, way: LoadPath, given: TrainerInput, plan: list[Planned]
) -> TrainerCheck:
    findings: list[Finding] = []
    proof = TrainerCheck(trainer.name, way.name, given.split)

    def rows() -> Iterator[TensorRow]:
        for item in way.load(given):
            if isinstance(item, TensorRow):
                yield item
            else:
                findings.append(item)

    try:
        pairs = _in_order(plan, rows()) if way.ordered else _in_any_order(plan, rows())
        proof.checks = _checks(pairs, given)
    except Exception as error:  # whatever a trainer may raise
        proof.checks.append(Check("it loads and trains", 1, 1, reason(error)))
    for finding in findings:
        check = Check(finding.what, 1, int(not finding.holds), finding.found or None)
        proof.checks.append(check)
    return proof


# A planned example and the row that it is compared with, with their number in the plan or, of rows
# that nothing was planned for, among the trainer's. One of them may be lacking.
Pair = tuple[int, Planned | None, TensorRow | None]


def _in_order(plan: list[Planned], rows: Iterable[TensorRow]) -> Iterator[Pair]:
    """Each row with the next planned example, or with the later one whose ids it has.

    So an example that a trainer leaves out is one difference, and not all rows after it.
    """
    numbers = _by_ids(plan)
    at = 0
    for count, row in enumerate(rows):
        same = numbers.get(hash(tuple(row.input_ids)), deque())
        while same and same[0] < at:
            same.popleft()
        target = same[0] if same else at
        for number in range(at, min(target, len(plan))):
            yield number, plan[number], None
        at = target
        if at < len(plan):
            yield at, plan[at], row
            at += 1
        else:
            yield count, None, row
    for number in range(at, len(plan)):
        yield number, plan[number], None


def _in_any_order(plan: list[Planned], rows: Iterable[TensorRow]) -> Iterator[Pair]:
    """Each row with an example of the same ids.

    A row without one is compared with the next example in the order of ids: where it was cut, that
    is the example that it was cut from.
    """
    numbers = _by_ids(plan)
    strays: list[tuple[int, TensorRow]] = []
    for count, row in enumerate(rows):
        same = numbers.get(hash(tuple(row.input_ids)))
        if same:
            number = same.popleft()
            yield number, plan[number], row
        else:
            strays.append((count, row))
    left = sorted((plan[number].input_ids, number) for same in numbers.values() for number in same)
    for count, row in strays:
        if left:
            near = min(bisect_left(left, (row.input_ids, -1)), len(left) - 1)
            _, number = left.pop(near)
            yield number, plan[number], row
        else:
            yield count, None, row
    for _, number in left:
        yield number, plan[number], None


def _by_ids(plan: list[Planned]) -> dict[int, deque[int]]:
    """The numbers of the examples of each hash of ids, ascending."""
    found: dict[int, deque[int]] = {}
    for number, example in enumerate(plan):
        found.setdefault(hash(tuple(example.input_ids)), deque()).append(number)
    return found


def _checks(pairs: Iterable[Pair], given: TrainerInput) -> list[Check]:
    """Rows, ids, and the labels of each kind of token, as far as a row has the planned ids."""
    masked = given.format.masks(given.options)
    counted = Check("rows: as many as planned")
    whole = Check("rows: none cut")
    ids = Check("rows: the planned ids")
    pauses = Check("pauses: no loss" if masked else "pauses: trained, as the format says")
    loss = Check("other tokens: loss where planned")
    none = Check("other tokens: no loss where planned")
    for number, want, have in pairs:
        where = f"row {number}"
        if want is None or have is None:
            lacking = "is missing" if have is None else "of the trainer's is one too many"
            counted.count(1, 1, f"{where} {lacking}")
            continue
        counted.count(1, 0)
        short = len(have.input_ids) < len(want.input_ids)
        shown = f"{where}: {len(have.input_ids)} tokens of {len(want.input_ids)}"
        if len(have.labels) < len(have.input_ids):
            short, shown = True, f"{where}: {len(have.labels)} labels of {len(have.input_ids)}"
        whole.count(1, int(short), shown)
        same = _same_prefix(want.input_ids, have.input_ids)
        ids.count(1, *_difference(want.input_ids, have.input_ids, same, where))
        own = zip(want.labels, have.labels, want.is_pause, strict=False)
        for at, (planned, found, is_pause) in enumerate(islice(own, min(same, want.own))):
            check = pauses if is_pause else (none if planned == IGNORE else loss)
            check.count(
                1, int(planned != found), f"{where}, token {at}: label {found}, not {planned}"
            )
    return [counted, whole, ids, pauses, loss, none]


def _same_prefix(want: list[int], have: list[int]) -> int:
    """How many ids are the same, from the first on."""
    both = enumerate(zip(want, have, strict=False))
    return next((k for k, (a, b) in both if a != b), min(len(want), len(have)))


def _difference(want: list[int], have: list[int], at: int, where: str) -> tuple[int, str]:
    """1 and where, if the ids differ; ``at``: how many are the same, from the first on."""
    if want == have:
        return 0, ""
    return 1, f"{where}: from token {at} on {have[at : at + 4]}, not {want[at : at + 4]}"
