"""One example with its scores and pauses, as plain data."""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported.

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pausedata.core.errors import DataError, UsageError, listing, nearest
from pausedata.query.values import short_float
from pausedata.store.dataset import Table, Version

_TRIED = 10_000  # ids that an unknown one is compared with


@dataclass(frozen=True)
class ShownToken:
    """A response token. ``logprob`` (nats), ``rank`` and ``entropy`` are null without a run."""

    pos: int
    token: str | None
    char_start: int
    char_end: int
    logprob: float | None
    rank: int | None
    entropy: float | None


@dataclass(frozen=True)
class ShownExample:
    """An example, the run and placement that it is shown with, and pauses as (pos, count)."""

    id: str
    split: str
    prompt: str
    response: str
    meta: Any
    run: str | None
    placement: str | None
    tokens: list[ShownToken]
    pauses: list[tuple[int, int]]

    def pieces(self) -> list[str]:
        """The text that each token stands for: joined, they are the response that is tokenised.

        A character that several tokens share belongs to the first of them; the others get ``""``.
        """
        return pieces_of(self.response, [token.char_end for token in self.tokens])[0]


def pieces_of(response: str, ends: Iterable[int]) -> tuple[list[str], str]:
    """The text of each token, of which these are the ends, and what no token covers.

    A character that several tokens share belongs to the first of them; the others get ``""``.
    """
    pieces, printed = [], 0
    for end in ends:
        pieces.append(response[printed : max(printed, end)])
        printed = max(printed, end)
    return pieces, response[printed:]


@dataclass(frozen=True)
class ShownTables:
    """What an example is shown with: a placement, a run, and a run to compare it with."""

    placement: str | None
    run: str | None
    other: str | None = None


@dataclass(frozen=True)
class View:
    """An example as ``ShownTables`` says; ``other`` is it with the other run's scores."""

    example: ShownExample
    other: ShownExample | None = None


Place = tuple[int, str]  # the number of an example's shard, over all splits, and its id


def load_example(
    version: Version, id: str | None = None, placement: str | None = None, run: str | None = None
) -> ShownExample:
    """The example ``id`` (None: the first), with a placement (None: the first) and a run (None: the
    placement's, else the first). Raises UsageError for a name or an id that is not there.
    """
    given = ([] if name is None else [name] for name in (placement, run))
    names = named(version, *given)
    return load_views(version, [find(version, id)], names)[0][0].example


def named(version: Version, placements: Sequence[str], runs: Sequence[str]) -> list[ShownTables]:
    """The placements and runs that ``show`` shows an example with, one view under the other.

    With one run or none, its scores and each of the placements (none given: the first); no run
    given, each placement's own, else the first. With two runs, the difference of the second to the
    first, once for each placement, or without pauses where none is given. Raises UsageError for a
    name that is not there or is given twice, and for more than two runs.
    """
    for what, given in (("--placement", placements), ("--run", runs)):
        if twice := [name for k, name in enumerate(given) if name in given[:k]]:
            raise UsageError(f"{what} {twice[0]} is given twice: give another name, or it once.")
    if len(runs) > 2:
        raise UsageError(
            f"--run is given {len(runs)} times. Two runs are compared at a time: "
            f"--run {runs[0]} --run {runs[1]}."
        )
    for name in runs:
        version.table(f"scores/{name}")  # an unknown name is an error before anything is read
    for name in placements:
        version.table(f"placements/{name}")
    if len(runs) == 2:
        return [ShownTables(placement, runs[0], runs[1]) for placement in placements or [None]]
    shown = list(placements) or version.placements[:1] or [None]
    return [ShownTables(name, runs[0] if runs else _own_run(version, name)) for name in shown]


def _own_run(version: Version, placement: str | None) -> str | None:
    """The run that a placement was made from, else the first; None where there is none."""
    if placement is not None:
        entry = version.table(f"placements/{placement}").entry
        made_from = entry.provenance.get("inputs", {}).get("run")
        if made_from in version.runs:
            return made_from
    return next(iter(version.runs), None)


def load_views(
    version: Version, places: Sequence[Place], names: Sequence[ShownTables]
) -> list[list[View]]:
    """For each of ``places`` the example with each of ``names``.

    A shard is read once, however many of its examples are asked for, and one at a time.
    """
    wanted: dict[int, list[str]] = {}
    for shard, id in places:
        wanted.setdefault(shard, []).append(id)
    tables = ["examples", "tokens"]
    tables += [f"placements/{n.placement}" for n in names if n.placement is not None]
    tables += [f"scores/{run}" for n in names for run in (n.run, n.other) if run is not None]
    rows = {name: _rows(version.table(name), wanted) for name in dict.fromkeys(tables)}
    texts = version.token_texts(i for row in rows["tokens"].values() for i in row["response_ids"])

    def example(id: str, placement: str | None, run: str | None) -> ShownExample:
        parts = {name: found[id] for name, found in rows.items()}
        return _assembled(parts, texts, placement, run)

    return [
        [
            View(
                example(id, n.placement, n.run),
                example(id, n.placement, n.other) if n.other is not None else None,
            )
            for n in names
        ]
        for _, id in places
    ]


def _assembled(
    parts: Mapping[str, dict[str, Any]],
    texts: Mapping[int, str],
    placement: str | None,
    run: str | None,
) -> ShownExample:
    example, tokens = parts["examples"], parts["tokens"]
    scores = parts[f"scores/{run}"] if run is not None else {}
    placed = parts[f"placements/{placement}"] if placement is not None else {}
    length = len(tokens["response_ids"])
    nothing = [None] * length
    columns = [scores.get(name) or nothing for name in ("logprob", "rank", "entropy")]
    return ShownExample(
        id=str(example["id"]),
        split=example["split"],
        prompt=example["prompt"],
        response=example["response"],
        meta=json.loads(example["meta"]) if example["meta"] else None,
        run=run,
        placement=placement,
        tokens=[
            ShownToken(
                pos=k,
                token=texts.get(tokens["response_ids"][k]),
                char_start=tokens["char_start"][k],
                char_end=tokens["char_end"][k],
                logprob=short_float(columns[0][k]),
                rank=columns[1][k],
                entropy=short_float(columns[2][k]),
            )
            for k in range(length)
        ],
        pauses=list(zip(placed.get("position", []), placed.get("count", []), strict=True)),
    )


def example_json(
    version: Version, id: str | None = None, placement: str | None = None, run: str | None = None
) -> dict[str, Any]:
    """What ``show --json`` prints; arguments and errors as of ``load_example``."""
    return as_json(load_example(version, id, placement, run))


def as_json(example: ShownExample) -> dict[str, Any]:
    """An example for programs."""
    return {
        "id": example.id,
        "split": example.split,
        "prompt": example.prompt,
        "response": example.response,
        "meta": example.meta,
        "run": example.run,
        "placement": example.placement,
        **tokens_json(example),
    }


def tokens_json(example: ShownExample) -> dict[str, Any]:
    """The part of the JSON that depends on the run and the placement."""
    return {
        "tokens": [vars(token) for token in example.tokens],
        "pauses": [{"pos": pos, "count": count} for pos, count in example.pauses],
    }


def find(version: Version, id: str | None) -> Place:
    """Where the example ``id`` is (None: the first); UsageError where there is none."""
    table = version.table("examples")
    seen: list[str] = []
    for number, shard in enumerate(table.shards):
        ids = table.read(shard, ["id"]).column("id")
        index = (0 if shard.rows else -1) if id is None else pc.index(ids, pa.scalar(id)).as_py()
        if index >= 0:
            return number, str(ids[index].as_py())
        seen += islice((i.as_py() for i in ids), max(0, _TRIED - len(seen)))
    if id is None:
        raise UsageError(f"version {version.number} has no examples.")
    raise UsageError(
        f"version {version.number} has no example '{id}'.{nearest(id, seen)} "
        f"There: {listing(seen[:3])}{' …' if len(seen) > 3 else ''}"
    )


def _rows(table: Table, wanted: Mapping[int, Iterable[str]]) -> dict[str, dict[str, Any]]:
    """The rows with these ids, each looked for in the shard of its number first."""
    found: dict[str, dict[str, Any]] = {}
    for number, ids in wanted.items():
        for shard in table.shards[number : number + 1]:
            found |= _of_shard(table.read(shard), ids)
    missing = [id for ids in wanted.values() for id in ids if id not in found]
    for shard in table.shards if missing else []:
        found |= _of_shard(table.read(shard), missing)
    if lost := [id for id in missing if id not in found]:
        raise DataError(
            f"{table.name} has no row '{lost[0]}'. `pausedata verify` says what else is wrong."
        )
    return found


def _of_shard(rows: pa.Table, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    column = rows.column("id")
    chosen = rows.filter(pc.is_in(column, pa.array(ids, column.type)))
    return {row["id"]: row for row in chosen.to_pylist()}
