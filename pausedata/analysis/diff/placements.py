"""How far the positions of two placements are apart."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pausedata.analysis.diff.join import Ints, Joined, MostChanged, PairedRows, Rows
from pausedata.analysis.stats.manifest import share
from pausedata.core.progress import Progress
from pausedata.store.dataset import Version, check_shards
from pausedata.store.tables import list_parts

MOST_PAUSED = 5  # tokens that are named for each of two placements


@dataclass(frozen=True)
class PlacementSide:
    """One of the two placements, over the examples that are compared."""

    table: str
    version: int
    made_by: dict[str, Any]  # strategy, parameters, run
    positions: int
    pauses: int


@dataclass(frozen=True)
class PausePosition:
    """Pauses at one position, and the token that they stand before (None: after the last)."""

    pos: int
    token: str | None
    a: int  # pauses there in A; 0 where A has none
    b: int


@dataclass(frozen=True)
class PausedToken:
    """A token, how often it stands in the responses compared, and how often it has pauses."""

    token_id: int
    token: str | None  # None where ``vocab`` does not have it
    occurrences: int
    a: int  # of these with pauses in A
    b: int


@dataclass(frozen=True)
class PlacedExample:
    """An example whose pauses differ."""

    id: str
    kept: int
    left: list[PausePosition]  # positions that only A has
    came: list[PausePosition]  # positions that only B has
    recounted: list[PausePosition]  # positions of both, with another number of pauses


@dataclass(frozen=True)
class PlacementsDiff:
    """Two placements. A position is an index within an example: both have it where it is equal.

    ``share_of_a`` is kept / A's positions, ``share_of_union`` kept / positions of either; None
    where there is none. A position moved where A has it, B does not, and B has new ones in the
    same example: it went to the nearest of these, ``mean_distance`` tokens away on average.
    """

    kind: str = field(default="placements", init=False)
    a: PlacementSide
    b: PlacementSide
    examples: int
    differing: int  # examples with other positions or counts
    not_compared: int  # examples that are in one version alone, or with another response
    kept: int
    share_of_a: float | None
    share_of_union: float | None
    recounted: int  # kept positions with another number of pauses
    moved: int
    mean_distance: float | None
    most_paused: list[PausedToken]  # the tokens that A or B pauses most, the most paused first
    most_changed: list[PlacedExample]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def diff_placements(
    a: tuple[Version, str], b: tuple[Version, str], joined: Joined, most: int, progress: Progress
) -> PlacementsDiff:
    """Compare two placements, each a version and a table's name, over the examples joined."""
    table_a, table_b = a[0].table(a[1]), b[0].table(b[1])
    check_shards(table_a, a[0].table("tokens"))
    check_shards(table_b, b[0].table("tokens"))
    rows = PairedRows(table_a, table_b, ["position", "count"])
    total = dict.fromkeys(
        ["positions_a", "positions_b", "pauses_a", "pauses_b", "kept", "recounted", "differing",
         "moved", "distance"], 0,
    )  # fmt: skip
    tokens = Rows(a[0].table("tokens"), ["response_ids"])
    by_id = _ByToken()
    largest = MostChanged(most)
    with progress.step(f"comparing {a[1]} and {b[1]}", joined.compared, "examples") as advance:
        for pair in joined.pairs:
            one, other = rows.take(pair)
            by_id.add(tokens.take(pair.shard_a, pair.rows_a), one, other)
            block = _Block(one, other)
            for name, value in block.figures().items():
                total[name] += value
            largest.offer(pair, block.change)
            advance(len(block.change))
    union = total["positions_a"] + total["positions_b"] - total["kept"]
    return PlacementsDiff(
        a=_side(a, total["positions_a"], total["pauses_a"]),
        b=_side(b, total["positions_b"], total["pauses_b"]),
        examples=joined.compared,
        differing=total["differing"],
        not_compared=joined.examples_a + joined.added.count - joined.compared,
        kept=total["kept"],
        share_of_a=share(total["kept"], total["positions_a"]),
        share_of_union=share(total["kept"], union),
        recounted=total["recounted"],
        moved=total["moved"],
        mean_distance=share(total["distance"], total["moved"]),
        most_paused=by_id.most_paused(a[0]),
        most_changed=_most_changed(a[0], tokens, rows, largest),
    )


class _Block:
    """The positions of some examples in both, as flat arrays."""

    def __init__(self, one: pa.Table, other: pa.Table) -> None:
        self._rows = one.num_rows
        self._row_a, pos_a, self._count_a = _flat(one)
        self._row_b, pos_b, self._count_b = _flat(other)
        # One ascending key for example and position.
        width = 1 + int(max(pos_a.max(initial=0), pos_b.max(initial=0)))
        self._key_a = self._row_a * width + pos_a
        self._key_b = self._row_b * width + pos_b
        self._in_b = np.isin(self._key_a, self._key_b, assume_unique=True)
        self._in_a = np.isin(self._key_b, self._key_a, assume_unique=True)
        # Kept positions stand in the same order in both.
        recounted = self._count_a[self._in_b] != self._count_b[self._in_a]
        self._recounted = self._row_a[self._in_b][recounted]
        # Positions that left, that came, or that have other counts, of each example.
        rows = (self._row_a[~self._in_b], self._row_b[~self._in_a], self._recounted)
        self.change: Ints = np.bincount(np.concatenate(rows), minlength=self._rows)

    def figures(self) -> dict[str, int]:
        """What adds up over all examples."""
        distances = self._distances()
        return {
            "positions_a": len(self._key_a),
            "positions_b": len(self._key_b),
            "pauses_a": int(self._count_a.sum()),
            "pauses_b": int(self._count_b.sum()),
            "kept": int(self._in_b.sum()),
            "recounted": len(self._recounted),
            "differing": int((self.change > 0).sum()),
            "moved": len(distances),
            "distance": int(distances.sum()),
        }

    def _distances(self) -> NDArray[np.int64]:
        """From each position that left to the nearest that came in the same example, if any."""
        left, left_row = self._key_a[~self._in_b], self._row_a[~self._in_b]
        came, came_row = self._key_b[~self._in_a], self._row_b[~self._in_a]
        if not len(left) or not len(came):
            return np.zeros(0, np.int64)
        after = np.searchsorted(came, left)
        far = np.iinfo(np.int64).max
        nearest = np.full(len(left), far)
        for neighbour in (after - 1, after):
            inside = (neighbour >= 0) & (neighbour < len(came))
            neighbour = np.clip(neighbour, 0, len(came) - 1)
            inside &= came_row[neighbour] == left_row
            # In one example keys differ as positions do.
            distance = np.where(inside, np.abs(came[neighbour] - left), far)
            nearest = np.minimum(nearest, distance)
        return nearest[nearest < far]


def _flat(rows: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The example, position and count of every position."""
    offsets, position = list_parts(rows, "position")
    _, count = list_parts(rows, "count")
    row = np.repeat(np.arange(rows.num_rows), np.diff(offsets))
    return row, position.astype(np.int64), count.astype(np.int64)


class _ByToken:
    """Of each token id: its occurrences, those paused in A, and those paused in B."""

    def __init__(self) -> None:
        self._counts: NDArray[np.int64] = np.zeros((3, 0), np.int64)

    def add(self, tokens: pa.Table, one: pa.Table, other: pa.Table) -> None:
        """Count some examples: their tokens, and their positions in A and in B."""
        starts, ids = list_parts(tokens, "response_ids")
        found = [ids]
        for side in (one, other):
            row, position, _ = _flat(side)
            within = position < np.diff(starts)[row]  # one after the last token is before none
            found.append(ids[(starts[row] + position)[within]])
        size = max(self._counts.shape[1], int(ids.max(initial=-1)) + 1)
        counts = np.stack([np.bincount(each, minlength=size) for each in found])
        counts[:, : self._counts.shape[1]] += self._counts
        self._counts = counts

    def most_paused(self, version: Version) -> list[PausedToken]:
        """The tokens that A pauses most and those that B does; of equals the smaller id first."""
        _, a, b = self._counts
        most = [np.argsort(-side, kind="stable")[:MOST_PAUSED] for side in (a, b)]
        named = [int(k) for k in np.unique(np.concatenate(most)) if a[k] or b[k]]
        order = sorted(named, key=lambda k: -max(a[k], b[k]))
        texts = version.token_texts(order)
        return [PausedToken(k, texts.get(k), *(int(n) for n in self._counts[:, k])) for k in order]


def _most_changed(
    version: Version, tokens: Rows, rows: PairedRows, largest: MostChanged
) -> list[PlacedExample]:
    raw: list[tuple[str, dict[int, int], dict[int, int], list[int]]] = []
    for pair in largest.places():
        one, other = rows.take(pair)
        ids = tokens.take(pair.shard_a, pair.rows_a).column("response_ids")[0].as_py()
        raw.append((one.column("id")[0].as_py(), _pauses(one), _pauses(other), ids))
    texts = version.token_texts(id for *_, ids in raw for id in ids)
    found = []
    for id, before, now, ids in raw:
        all_pauses = [
            PausePosition(
                pos=pos,
                token=texts.get(ids[pos]) if pos < len(ids) else None,
                a=before.get(pos, 0),
                b=now.get(pos, 0),
            )
            for pos in sorted({*before, *now})
        ]
        found.append(
            PlacedExample(
                id=id,
                kept=sum(1 for p in all_pauses if p.a and p.b),
                left=[p for p in all_pauses if not p.b],
                came=[p for p in all_pauses if not p.a],
                recounted=[p for p in all_pauses if p.a and p.b and p.a != p.b],
            )
        )
    return found


def _pauses(row: pa.Table) -> dict[int, int]:
    columns = (row.column(name)[0].as_py() for name in ("position", "count"))
    return dict(zip(*columns, strict=True))


def _side(side: tuple[Version, str], positions: int, pauses: int) -> PlacementSide:
    version, name = side
    inputs = version.table(name).entry.provenance.get("inputs", {})
    made_by = {key: inputs[key] for key in ("strategy", "parameters", "run") if key in inputs}
    return PlacementSide(name, version.number, made_by, positions, pauses)
