"""The examples that are measured: held-out ones, with the pauses of a placement and without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pausedata.core import held_out
from pausedata.core.errors import DataError, UsageError, listing, nearest
from pausedata.core.held_out import HeldOut
from pausedata.core.progress import Progress
from pausedata.exporters.sequences import insert_pauses
from pausedata.scorers import Example
from pausedata.store.dataset import Version, check_shards

NO_GROUP = "(none)"  # of an example that has no such column, or null in it
MOST_GROUPS = 1000


@dataclass(frozen=True)
class ExamplePair:
    """One example twice: with the pauses and without them."""

    id: str
    group: str | None
    without: Example
    with_pauses: Example
    is_pause: NDArray[np.bool_]  # [response tokens of with_pauses]
    is_after: NDArray[np.bool_]  # [response tokens of without]: right after a pause
    response: str = ""
    meta: str = "{}"
    cluster: str | None = None  # whose examples are like one another

    def __len__(self) -> int:
        """Tokens of the longer one."""
        return len(self.with_pauses)


@dataclass(frozen=True)
class HeldOutExamples:
    """Held-out examples in a seeded order, so that any first of them are a random sample."""

    where: HeldOut
    there: int  # held-out examples, of which these are all or the first
    pairs: list[ExamplePair]


def choose(
    version: Version,
    placement: str,
    *,
    split: str | None = None,
    seed: int = 0,
    most: int | None = None,
    group_by: str | None = None,
    cluster: str | None = None,
    texts: bool = False,
    progress: Progress,
) -> HeldOutExamples:
    """The held-out examples of ``version``, at most ``most``, with the pauses of ``placement``.

    ``group_by`` and ``cluster``: columns kept in ``meta``; a cluster's examples stand together.
    With ``texts``, responses and meta too.
    UsageError for a placement, split or column that is not there.
    """
    tokens, placed = version.table("tokens"), version.table(f"placements/{placement}")
    check_shards(placed, tokens)
    where = held_out.choose(tokens.splits(), split, seed)
    splits = np.array([s.split for s in tokens.shards])
    rows = [s.rows for s in tokens.shards]
    held = np.repeat(splits == where.split, rows)
    if where.seed is not None:
        held &= held_out.holdout_mask(len(held), where.seed)
    order = np.random.default_rng([seed, 1]).permutation(np.flatnonzero(held))
    if not len(order):
        raise DataError(
            f"no example of split '{where.split}' is held out: a fifth of {len(held)} is none."
        )
    wanted = order[:most]
    pause = version.manifest.pause.id
    needs_examples = texts or group_by is not None or cluster is not None
    found: dict[int, ExamplePair] = {}
    first = 0
    with progress.step("reading examples", len(wanted), "examples") as advance:
        for number, shard in enumerate(tokens.shards):
            mine = np.sort(wanted[(wanted >= first) & (wanted < first + shard.rows)])
            if len(mine):
                take = pa.array(mine - first)
                ids = tokens.read(shard, ["id", "prompt_ids", "response_ids"]).take(take)
                places = placed.read(placed.shards[number], ["position", "count"]).take(take)
                told: list[dict[str, Any]] = [{} for _ in mine]
                if needs_examples:
                    examples = version.table("examples")
                    told = (
                        examples.read(examples.shards[number], ["response", "meta"])
                        .take(take)
                        .to_pylist()
                    )
                made = _pairs(ids, places, pause, told)
                for row, pair in zip(mine.tolist(), made, strict=True):
                    found[row] = pair
                advance(len(mine))
            first += shard.rows
    pairs = [found[row] for row in wanted.tolist()]
    if group_by is not None:
        names = _of_column(pairs, group_by, "--group-by")
        if len(set(names)) > MOST_GROUPS:
            raise UsageError(
                f"--group-by {group_by}: it has {len(set(names)):,} values in {len(names):,} "
                f"examples. Choose a column with fewer, {MOST_GROUPS} at most."
            )
        pairs = [replace(pair, group=name) for pair, name in zip(pairs, names, strict=True)]
    if cluster is not None:
        names = _of_column(pairs, cluster, "--cluster")
        pairs = [replace(pair, cluster=name) for pair, name in zip(pairs, names, strict=True)]
        # In an order of their own: by their first examples the large ones would come first.
        shuffled = np.random.default_rng([seed, 2]).permutation(sorted(set(names))).tolist()
        turn = {name: k for k, name in enumerate(shuffled)}
        pairs.sort(key=lambda pair: turn[str(pair.cluster)])
    return HeldOutExamples(where, len(order), pairs)


def _pairs(
    tokens: pa.Table, placement: pa.Table, pause_id: int, told: list[dict[str, Any]]
) -> Iterator[ExamplePair]:
    sequences = insert_pauses(tokens, placement, pause_id)
    offsets = sequences.offsets
    for k, id in enumerate(tokens.column("id").to_pylist()):
        mine = slice(offsets[k], offsets[k + 1])
        ids, is_prompt = sequences.input_ids[mine], sequences.is_prompt[mine]
        prompt, response = ids[is_prompt], ids[~is_prompt]
        is_pause = sequences.is_pause[mine][~is_prompt]
        after = np.concatenate([[False], is_pause[:-1]])[~is_pause]
        yield ExamplePair(
            id,
            None,
            Example(prompt, response[~is_pause]),
            Example(prompt, response),
            is_pause,
            after,
            **told[k],
        )


def _of_column(pairs: list[ExamplePair], column: str, option: str) -> list[str]:
    """What each of the pairs has in a column that was kept."""
    metas = [json.loads(pair.meta) for pair in pairs]
    there = sorted({key for meta in metas for key in meta})
    if column not in there:
        raise UsageError(
            f"{option}: no column '{column}' was kept.{nearest(column, there)} "
            f"There: {listing(there)}. (`source.keep` in the recipe chooses.)"
        )
    return [_name(meta.get(column)) for meta in metas]


def _name(value: Any) -> str:
    """A group's name: a text as it is, another value as JSON has it."""
    if value is None:
        return NO_GROUP
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
