"""What was measured of each example, as a table: the rows that a gate's record keeps."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pausedata.store.tables import schema_of

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """Examples, in the order in which they were measured: every array is [examples].

    ``tokens`` are real response tokens, ``after`` those of them right after a pause. ``logprob``
    is in nats, summed over the real tokens, ``logprob_after`` over those after a pause; each
    ``_with`` the pauses and ``_without`` them, of the same tokens. ``seconds`` are of one pass.
    """

    id: NDArray[np.object_]
    group_name: NDArray[np.object_]  # texts; None where no groups were asked for
    tokens: Ints
    pauses: Ints
    after: Ints
    logprob_without: Floats
    logprob_with: Floats
    logprob_after_without: Floats
    logprob_after_with: Floats
    seconds_without: Floats
    seconds_with: Floats
    with_each: Floats
    without_each: Floats
    same_each: Floats

    def __len__(self) -> int:
        """How many examples."""
        return len(self.id)

    @property
    def gains(self) -> Floats:
        """Nats that each example's real tokens gain by the pauses, summed: [examples]."""
        return self.logprob_with - self.logprob_without

    @property
    def gains_after(self) -> Floats:
        """Nats that the tokens right after a pause gain by it, summed: [examples]."""
        return self.logprob_after_with - self.logprob_after_without

    def take(self, which: NDArray[np.bool_] | slice) -> Measured:
        """The examples that ``which`` chooses."""
        return replace(self, **{f.name: getattr(self, f.name)[which] for f in fields(self)})

    def groups(self) -> list[str]:
        """The groups' names, sorted; empty where there are none."""
        return sorted({name for name in self.group_name if name is not None})

    def of_group(self, name: str) -> Measured:
        """The examples of one group."""
        return self.take(np.asarray(self.group_name == name, dtype=bool))

    def of_units(self, units: NDArray[np.object_]) -> Measured:
        """Sums over the examples of each unit, in the order in which the units come.

        ``units`` [examples] names the one that each belongs to; all of its examples stand together.
        """
        first = _first_of(units)
        summed = {
            f.name: unit_sums(getattr(self, f.name), units)
            for f in fields(self)
            if f.name not in ("id", "group_name")
        }
        return Measured(units[first], self.group_name[first], **summed)

    def table(self) -> pa.Table:
        """As the rows of a table ``gates/NAME``."""
        schema = schema_of("gates")
        columns = [pa.array(getattr(self, f.name), f.type, from_pandas=True) for f in schema]
        return pa.Table.from_arrays(columns, schema=schema)

    def part(self) -> pa.Table:
        """As ``table``, with what the record leaves out: `of_part` reads it."""
        found = self.table()
        for name in _EACH:
            found = found.append_column(name, pa.array(getattr(self, name).tolist(), _LISTS))
        return found

    @classmethod
    def of_part(cls, rows: pa.Table) -> Measured:
        """The inverse of ``part``."""
        read: dict[str, NDArray] = {
            f.name: rows.column(f.name).to_numpy() for f in fields(cls) if f.name not in _EACH
        }
        read = {n: v.astype(np.int64) if v.dtype.kind == "i" else v for n, v in read.items()}
        for name in _EACH:
            lists = rows.column(name).to_pylist()
            width = len(lists[0]) if lists else 0
            read[name] = np.array(lists, np.float64).reshape(len(lists), width)
        return cls(**read)

    @classmethod
    def joined(cls, parts: list[Measured]) -> Measured:
        """Several, at least one, one after another."""
        return cls(
            **{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)}
        )


def unit_sums(values: Floats | Ints, units: NDArray[np.object_]) -> Any:
    """Sums of ``values`` [examples, …] over each unit, all of whose examples stand together."""
    return np.add.reduceat(values, _first_of(units), axis=0) if len(values) else values


def _first_of(units: NDArray[np.object_]) -> Ints:
    """Where each unit begins: [units]."""
    return np.flatnonzero(np.concatenate([[True], units[1:] != units[:-1]])[: len(units)])


_EACH = ("with_each", "without_each", "same_each")
_LISTS = pa.list_(pa.float64())
