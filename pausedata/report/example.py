"""One example with its scores and pauses, as plain data."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pausedata.errors import DataError, UsageError, listing, nearest
from pausedata.query.values import short_float
from pausedata.store.dataset import Version

_TRIED = 10_000  # ids that an unknown one is compared with


@dataclass(frozen=True)
class Token:
    """A response token. ``logprob`` (nats), ``rank`` and ``entropy`` are null without a run."""

    pos: int
    token: str | None
    char_start: int
    char_end: int
    logprob: float | None
    rank: int | None
    entropy: float | None


@dataclass(frozen=True)
class Example:
    """An example, the run and placement that it is shown with, and pauses as (pos, count)."""

    id: str
    split: str
    prompt: str
    response: str
    meta: Any
    run: str | None
    placement: str | None
    tokens: list[Token]
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


def load_example(
    version: Version, id: str | None = None, placement: str | None = None, run: str | None = None
) -> Example:
    """The example ``id`` (None: the first), with a placement (None: the first) and a run (None: the
    placement's, else the first). Raises UsageError for a name or an id that is not there.
    """
    if placement is None and version.placements:
        placement = version.placements[0]
    placed = version.table(f"placements/{placement}") if placement is not None else None
    if run is None:
        made_from = placed.entry.provenance.get("inputs", {}).get("run") if placed else None
        run = made_from if made_from in version.runs else next(iter(version.runs), None)
    if run is not None:
        version.table(f"scores/{run}")  # an unknown name is told before anything is read
    shard, example = _find(version, id)
    found = str(example["id"])
    tokens = _row(version, "tokens", found, shard)
    scores = _row(version, f"scores/{run}", found, shard) if run is not None else {}
    pauses = _row(version, placed.name, found, shard) if placed else {"position": [], "count": []}
    names = version.token_texts(tokens["response_ids"])
    length = len(tokens["response_ids"])
    nothing = [None] * length
    columns = [scores.get(name) or nothing for name in ("logprob", "rank", "entropy")]
    return Example(
        id=found,
        split=example["split"],
        prompt=example["prompt"],
        response=example["response"],
        meta=json.loads(example["meta"]) if example["meta"] else None,
        run=run,
        placement=placement,
        tokens=[
            Token(
                pos=k,
                token=names.get(tokens["response_ids"][k]),
                char_start=tokens["char_start"][k],
                char_end=tokens["char_end"][k],
                logprob=short_float(columns[0][k]),
                rank=columns[1][k],
                entropy=short_float(columns[2][k]),
            )
            for k in range(length)
        ],
        pauses=list(zip(pauses["position"], pauses["count"], strict=True)),
    )


def example_json(
    version: Version, id: str | None = None, placement: str | None = None, run: str | None = None
) -> dict[str, Any]:
    """What ``show --json`` prints; arguments and errors as of ``load_example``."""
    example = load_example(version, id, placement, run)
    return {
        "id": example.id,
        "split": example.split,
        "prompt": example.prompt,
        "response": example.response,
        "meta": example.meta,
        "run": example.run,
        "placement": example.placement,
        "tokens": [vars(token) for token in example.tokens],
        "pauses": [{"pos": pos, "count": count} for pos, count in example.pauses],
    }


def _find(version: Version, id: str | None) -> tuple[int, dict[str, Any]]:
    """The number of the shard that holds ``id``, over all splits, and the row of ``examples``."""
    table = version.table("examples")
    seen: list[str] = []
    for number, shard in enumerate(table.shards):
        ids = table.read(shard, ["id"]).column("id")
        index = (0 if shard.rows else -1) if id is None else pc.index(ids, pa.scalar(id)).as_py()
        if index >= 0:
            return number, table.read(shard).slice(index, 1).to_pylist()[0]
        seen += islice((i.as_py() for i in ids), max(0, _TRIED - len(seen)))
    if id is None:
        raise UsageError(f"version {version.number} has no examples.")
    raise UsageError(
        f"version {version.number} has no example '{id}'.{nearest(id, seen)} "
        f"There: {listing(seen[:3])}{' …' if len(seen) > 3 else ''}"
    )


def _row(version: Version, name: str, id: str, expected: int) -> dict[str, Any]:
    """The row of ``id`` in the table ``name``, looked for in the shard ``expected`` first."""
    table = version.table(name)
    for shard in [*table.shards[expected : expected + 1], *table.shards]:
        rows = table.read(shard)
        index = pc.index(rows.column("id"), pa.scalar(id)).as_py()
        if index >= 0:
            return rows.slice(index, 1).to_pylist()[0]
    raise DataError(f"{name} has no row '{id}'. `pausedata verify` says what else is wrong.")
