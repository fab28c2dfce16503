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
import pyarrow as pa
from common import machine, tables_of

from pausedata import strategies
from pausedata.progress import Silent
from pausedata.steps import place as place_step
from pausedata.steps.batches import Batches
from pausedata.store import commit
from pausedata.store.dataset import Table, open_version
from pausedata.store.manifest import PauseEntry, SplitRows
from pausedata.store.shards import choose_shard_rows, shard_name
from pausedata.store.staging import Stage, Staging
from pausedata.store.tables import list_array, schema_of
from pausedata.strategies import Batch, Placed, Strategy

SHORTEST, LONGEST = 20, 2_000  # response tokens of an example
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
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--tokens", type=int, default=10_000_000, help="of all responses together")
    add("--strategy", action="append", help="this one alone; may be given several times")
    add("--folder", type=Path, default=None, help="where to write; the system's temporary folder")
    return parser.parse_args()


# The dataset


def vocabulary() -> list[str]:
    """Texts of tokens, the frequent ones first: words, numbers, marks, ends of sentences."""
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlu"))
    words = ["".join(rng.choice(letters, rng.integers(1, 8))) for _ in range(4_000)]
    texts = [word if k % 4 == 3 else " " + word for k, word in enumerate(words)]
    marks = [".", " 12", ",", "\n", "=", " <<", ">>", " +", "7", " 3", " *", "!", " $", "…", " é"]
    for k, mark in enumerate(marks):
        texts[5 + 3 * k] = mark
    return texts


def make(root: Path, tokens: int) -> int:
    """A dataset of about ``tokens`` response tokens; returns how many they are."""
    texts = vocabulary()
    width = np.array([len(text) for text in texts])
    examples = max(1, round(tokens / ((SHORTEST + LONGEST) / 2)))
    each = choose_shard_rows(examples, tokens)
    count = -(-examples // each)
    stage, total = Stage(root / "staging" / "made"), 0
    names = ("examples", "tokens", "scores/base", "scores/other")
    for number in range(count):
        rng = np.random.default_rng(number)
        lengths = rng.integers(SHORTEST, LONGEST + 1, min(each, examples - number * each))
        for name, rows in _shard(rng, number, lengths, texts, width).items():
            stage.write(f"{name}/{shard_name('train', number, count)}", rows)
        total += int(lengths.sum())
    stage.write("vocab.parquet", schema_of("vocab").empty_table())
    tables = {
        name: stage.table(
            name,
            schema_of(name),
            [("train", f"{name}/{shard_name('train', k, count)}") for k in range(count)],
            {"inputs": {}},
        )
        for name in names
    }
    tables["vocab"] = stage.table(
        "vocab", schema_of("vocab"), [(None, "vocab.parquet")], {"inputs": {}}
    )
    pause = PauseEntry(token="[PAUSE]", id=len(texts), id_is_new=True)
    rows = {"train": SplitRows(into=examples, out=examples)}
    change = commit.Change("benchmark", tables, name="synthetic", recipe={}, pins={}, pause=pause,
                           rows=rows)  # fmt: skip
    commit.commit(root, None, change, card=lambda manifest: "")
    return total


def _shard(
    rng: np.random.Generator, number: int, lengths: Any, texts: list[str], width: Any
) -> dict[str, pa.Table]:
    rows, offsets = len(lengths), np.concatenate([[0], np.cumsum(lengths)])
    n = int(offsets[-1])
    # Few tokens are most of a text, and most tokens are likely: about as compressible as real ones.
    token_ids = (len(texts) * rng.random(n) ** 4).astype(np.int32)
    ends = np.cumsum(width[token_ids])
    begins = np.concatenate([[0], ends])[offsets[:-1]]
    ends = (ends - np.repeat(begins, lengths)).astype(np.int32)
    starts = (ends - width[token_ids]).astype(np.int32)
    chosen = [texts[k] for k in token_ids]
    responses = ["".join(chosen[a:b]) for a, b in itertools.pairwise(offsets)]
    ids = [f"{number:05d}-{k:05d}" for k in range(rows)]

    def lists(values: Any, kind: pa.DataType) -> pa.Array:
        return list_array(offsets, values, kind)

    def scores() -> list[Any]:
        logprob = (-8 * rng.random(n, np.float32) ** 6).astype(np.float32)
        ranks = (1 + 100 * rng.random(n, np.float32) ** 8).astype(np.int32)
        entropy = (4 * rng.random(n, np.float32) ** 2).astype(np.float32)
        mean = np.zeros(rows, np.float32)
        return [ids, lengths.astype(np.int32), mean, mean, lists(logprob, pa.float32()),
                lists(ranks, pa.int32()), lists(entropy, pa.float32())]  # fmt: skip

    nothing = list_array(np.zeros(rows + 1, np.int32), np.zeros(0, np.int32), pa.int32())
    columns: dict[str, list[Any]] = {
        "examples": [ids, ["train"] * rows, range(rows), [""] * rows, responses, ["{}"] * rows],
        "tokens": [ids, nothing, lists(token_ids, pa.int32()), lists(starts, pa.int32()),
                   lists(ends, pa.int32()), np.zeros(rows, np.bool_)],
        "scores/base": scores(),
        "scores/other": scores(),
    }  # fmt: skip
    return tables_of(columns)


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
    wanted = place_step.inputs(strategy, parameters, "base", read)
    with closing(Staging(root)) as staging:
        start = time.perf_counter()
        table = place_step.place(staging, "p", wanted, read, Silent(), strategy)
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
    total = make(root, tokens)
    tables = dict(open_version(root).tables)
    lowest, five = strategies.get("lowest_logprob"), {"positions": 5}
    parameters = strategies.parse(lowest, five, "")
    for name in ("a", "b"):  # what `combine` joins
        values = {"positions": 5, "seed": ord(name)}
        drawn = strategies.get("random")
        read = {"tokens": tables["tokens"]}
        wanted = place_step.inputs(drawn, strategies.parse(drawn, values, ""), None, read)
        with closing(Staging(root)) as staging:
            tables[f"placements/{name}"] = place_step.place(staging, name, wanted, read, Silent())
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
