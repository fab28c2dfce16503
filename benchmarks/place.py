"""Placing: tokens a second of every strategy, from stored shards to a stored placement.

    python benchmarks/place.py --tokens 10000000

Synthetic examples of 20 to 2,000 response tokens, in shards as `pausedata build` would cut them.
The yardstick is the same work, from shards to a placement, with a Python loop over examples and
`sorted()`; `again` only reads what `lowest_logprob` reads and writes what it wrote, so that it is
as fast as reading and writing allow. In memory, the choice alone is compared with the loop.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, parser_of
from synthetic import make, vocabulary

from pausedata import strategies
from pausedata.core.progress import Silent
from pausedata.pipeline.steps import place as place_step
from pausedata.pipeline.steps.batches import Batches
from pausedata.store.dataset import Table, open_version
from pausedata.store.staging import Staging
from pausedata.strategies import Batch, Placed, Strategy

VOCABULARY = 4_000  # tokens
PARAMETERS: dict[str, list[dict[str, Any]]] = {
    "lowest_logprob": [{"positions": 5}, {"fraction": 0.1}, {"positions": 5, "min_gap": 4}],
    "random": [{"positions": 5}],
    "append": [{"tokens": 10}],
    "none": [{}],
    "every_word": [{}, {"every_n_tokens": 8}],
    "threshold": [{"probability": 0.5}, {"rank": 10, "positions": 5}],
    "highest_entropy": [{"positions": 5}],
    "surprisal_spike": [{}],
    "sampled": [{"positions": 5}],
    "budget": [{"per_100": 3}],
    "excess": [{"positions": 5, "reference": "other"}],
    "hardest_sentence": [{"positions": 3}],
    "regex": [{"preset": "math_front_ver2"}, {"pattern": r"\d+", "where": "after"}],
    "sentence": [{}, {"only": "calculating"}],
    "combine": [{"of": ["a", "b"]}],
}


def arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("--tokens", type=int, default=10_000_000, help="of all responses together")
    add("--strategy", action="append", help="this one alone; may be given several times")
    add("--folder", type=Path, default=None, help="where to write; the system's temporary folder")
    return parser.parse_args()


# The yardsticks


def loop(batch: Batch, parameters: Any) -> Placed:
    """``lowest_logprob`` as one would write it first: a loop over examples, and ``sorted()``."""
    assert batch.logprob is not None
    example, position = [], []
    scores, offsets = batch.logprob.tolist(), batch.offsets.tolist()
    begins = batch.begins_character.tolist()
    for number, (a, b) in enumerate(itertools.pairwise(offsets)):
        eligible = [k for k in range(a, b) if begins[k]]
        for k in sorted(sorted(eligible, key=lambda k: scores[k])[: parameters.positions]):
            example.append(number)
            position.append(k - a)
    one = np.ones(len(example), np.int64)
    return Placed(np.array(example, np.int64), np.array(position, np.int64), one)


def again(tables: dict[str, Table], lowest: Strategy, parameters: Any) -> Strategy:
    """What reads as ``lowest_logprob`` does, and writes what that placed, worked out before."""
    batches = Batches(lowest, parameters, "base", tables)
    placed = {}
    for number in range(len(tables["tokens"].shards)):
        batch = batches.read(number)
        placed[batch.ids[0]] = lowest.place(batch, parameters)
    return dataclasses.replace(
        lowest, name="again", place=lambda batch, parameters: placed[batch.ids[0]]
    )


# Measuring


def end_to_end(root: Path, tables: dict[str, Table], strategy: Strategy, values: Any) -> float:
    """Seconds from stored shards to a stored placement, with every file's checks."""
    parameters = strategies.parse(strategy, values, strategy.name)
    names = place_step.tables_read(strategy, parameters, "base")
    read = {name: tables[name] for name in names}
    contents = {name: table.entry.content for name, table in read.items()}
    wanted = place_step.inputs(strategy, parameters, "base", contents)
    with closing(Staging(root)) as staging:
        start = time.perf_counter()
        table = place_step.place(staging, "p", strategy, parameters, wanted, read, Silent())
        seconds = time.perf_counter() - start
        staging.discard([table])
    return seconds


def in_memory(tables: dict[str, Table], lowest: Strategy, parameters: Any) -> tuple[float, float]:
    """Seconds of the choice alone and of the loop alone, taking turns shard by shard."""
    batches = Batches(lowest, parameters, "base", tables)
    spent = [0.0, 0.0]
    for number in range(len(tables["tokens"].shards)):
        found = []
        for k, place in enumerate((lowest.place, loop)):
            batch = batches.read(number)
            start = time.perf_counter()
            found.append(place(batch, parameters))
            spent[k] += time.perf_counter() - start
        assert all(
            np.array_equal(getattr(found[0], name), getattr(found[1], name))
            for name in ("example", "positions", "counts")
        )
    return spent[0], spent[1]


def measure(root: Path, tokens: int, only: list[str] | None) -> None:
    """Make the dataset, time every strategy on it, print a line for each."""
    total = make(root, tokens, vocabulary(VOCABULARY))
    tables = dict(open_version(root).tables)
    lowest, five = strategies.get("lowest_logprob"), {"positions": 5}
    parameters = strategies.parse(lowest, five, "")
    for name in ("a", "b"):  # what `combine` joins
        values = {"positions": 5, "seed": ord(name)}
        drawn = strategies.get("random")
        read, given = {"tokens": tables["tokens"]}, strategies.parse(drawn, values, "")
        contents = {"tokens": tables["tokens"].entry.content}
        wanted = place_step.inputs(drawn, given, None, contents)
        with closing(Staging(root)) as staging:
            placed = place_step.place(staging, name, drawn, given, wanted, read, Silent())
            tables[f"placements/{name}"] = placed
    print(f"{total:,} response tokens in {tables['tokens'].entry.rows:,} examples, "
          f"{len(tables['tokens'].shards)} shards")  # fmt: skip
    kernel, slow = in_memory(tables, lowest, parameters)
    print(f"in memory, lowest_logprob {five}: {_rate(total, kernel)}; "
          f"loop over sorted() {_rate(total, slow)}; ratio {slow / kernel:.1f}")  # fmt: skip
    looped = dataclasses.replace(lowest, name="loop", place=loop)
    yardstick = end_to_end(root, tables, looped, five)
    floor = end_to_end(root, tables, again(tables, lowest, parameters), five)
    print(f"{'loop over sorted(), end to end':58} {_rate(total, yardstick)}")
    print(f"{'again: reading and writing alone':58} {_rate(total, floor)}")
    for name in only or strategies.own():
        for values in PARAMETERS[name]:
            seconds = end_to_end(root, tables, strategies.get(name), values)
            label = f"{name} {values or ''}"
            ratio = f"ratio to the loop {yardstick / seconds:5.1f}"
            print(f"{label:58} {_rate(total, seconds)}; {ratio}; to again {floor / seconds:.2f}")


def _rate(tokens: int, seconds: float) -> str:
    return f"{tokens / seconds / 1e6:7.2f} M tokens/s"


def main() -> None:
    asked = arguments()
    print(machine())
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        measure(Path(folder) / "dataset", asked.tokens, asked.strategy)
    print(machine())


if __name__ == "__main__":
    main()
