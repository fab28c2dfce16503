"""A dataset of any size, made without a model, in shards as `pausedata build` would cut them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from common import tables_of

from pausedata.store import commit
from pausedata.store.manifest import PauseEntry, SplitRows
from pausedata.store.shards import choose_shard_rows, shard_name
from pausedata.store.staging import Stage
from pausedata.store.tables import list_array, schema_of

SHORTEST, LONGEST = 20, 2_000  # response tokens of an example
RUNS = ("base", "other")
TABLES = ("examples", "tokens", *(f"scores/{run}" for run in RUNS))


def vocabulary(size: int) -> list[str]:
    """Texts of tokens, the frequent ones first: words, numbers, marks, ends of sentences."""
    rng = np.random.default_rng(0)
    letters = rng.choice(list("etaoinshrdlu"), (size, 7)).tolist()
    words = ["".join(each[:n]) for each, n in zip(letters, rng.integers(1, 8, size), strict=True)]
    texts = [word if k % 4 == 3 else " " + word for k, word in enumerate(words)]
    marks = [".", " 12", ",", "\n", "=", " <<", ">>", " +", "7", " 3", " *", "!", " $", "…", " é"]
    for k, mark in enumerate(marks):
        texts[5 + 3 * k] = mark
    return texts


def make(root: Path, tokens: int, texts: list[str], splits: Sequence[str] = ("train",)) -> int:
    """A dataset of about ``tokens`` response tokens; returns how many they are.

    It has the runs ``RUNS``. Of several ``splits`` the first has nine tenths of the examples.
    """
    stage, total = Stage(root / "staging" / "made"), 0
    wanted = max(len(splits), round(tokens / ((SHORTEST + LONGEST) / 2)))
    rest = wanted // 10 or 1
    rows = dict.fromkeys(splits[1:], rest)
    rows = {splits[0]: wanted - sum(rows.values()), **rows}
    paths = list[tuple[str | None, str]]()
    # Drawing the next shard while this one's tables are written keeps two cores busy.
    with ThreadPoolExecutor(1) as ahead, ThreadPoolExecutor(len(TABLES)) as writers:
        for split, path, shard in _one_ahead(ahead, _shards(rows, tokens, texts)):
            paths.append((split, path))
            jobs = [
                writers.submit(stage.write, f"{name}/{path}", table)
                for name, table in shard.items()
            ]
            for job in jobs:
                job.result()
            total += int(shard[f"scores/{RUNS[0]}"].column("n_tokens").to_numpy().sum())
    tables = {
        name: stage.table(
            name,
            schema_of(name),
            [(split, f"{name}/{path}") for split, path in paths],
            {"inputs": {}},
        )
        for name in TABLES
    }
    ids = np.arange(len(texts), dtype=np.int32)
    columns = [ids, texts, [text.encode() for text in texts], np.zeros(len(texts), np.bool_)]
    stage.write("vocab.parquet", tables_of({"vocab": columns})["vocab"])
    tables["vocab"] = stage.table(
        "vocab", schema_of("vocab"), [(None, "vocab.parquet")], {"inputs": {}}
    )
    pause = PauseEntry(token="[PAUSE]", id=len(texts), id_is_new=True)
    counts = {split: SplitRows(into=n, out=n) for split, n in rows.items()}
    change = commit.Change("benchmark", tables, name="synthetic", recipe={}, pins={}, pause=pause,
                           rows=counts)  # fmt: skip
    commit.commit(root, None, change, card=lambda manifest: "")
    return total


Shard = tuple[str, str, dict[str, pa.Table]]  # its split, its name, the rows of its tables


def _shards(rows: dict[str, int], tokens: int, texts: list[str]) -> Iterator[Shard]:
    each = choose_shard_rows(sum(rows.values()), tokens)
    vocab, width = pa.array(texts), np.array([len(text) for text in texts])
    seed = 0
    for split, examples in rows.items():
        count = -(-examples // each)
        for number in range(count):
            rng = np.random.default_rng(seed)
            seed += 1
            first = number * each
            lengths = rng.integers(SHORTEST, LONGEST + 1, min(each, examples - first))
            columns = _columns(rng, split, first, lengths, vocab, width)
            yield split, shard_name(split, number, count), tables_of(columns)


def _one_ahead(pool: ThreadPoolExecutor, shards: Iterator[Shard]) -> Iterator[Shard]:
    coming = pool.submit(next, shards, None)
    while (shard := coming.result()) is not None:
        coming = pool.submit(next, shards, None)
        yield shard


def _columns(
    rng: np.random.Generator, split: str, first: int, lengths: Any, vocab: pa.Array, width: Any
) -> dict[str, list[Any]]:
    rows, offsets = len(lengths), np.concatenate([[0], np.cumsum(lengths)])
    n = int(offsets[-1])
    raw = rng.bytes(16 * rows).hex()
    ids = [raw[start : start + 32] for start in range(0, len(raw), 32)]
    # Few tokens are most of a text: about as compressible as real ones.
    token_ids = (len(vocab) * rng.random(n) ** 4).astype(np.int32)
    ends = np.cumsum(width[token_ids])
    begins = np.concatenate([[0], ends])[offsets[:-1]]
    ends = (ends - np.repeat(begins, lengths)).astype(np.int32)
    starts = (ends - width[token_ids]).astype(np.int32)
    texts = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), vocab.take(pa.array(token_ids)))
    responses = pc.binary_join(texts, "")  # pyright: ignore[reportAttributeAccessIssue]

    def lists(values: Any, kind: pa.DataType) -> pa.Array:
        return list_array(offsets, values, kind)

    def scores() -> list[Any]:
        # Most tokens are likely, and the few least likely ones are far from each other: half of
        # them have more than -0.12 nats, one in a thousand less than -12.
        logprob = -0.25 * rng.standard_exponential(n, np.float32) ** 2
        ranks = (1 + 100 * rng.random(n, np.float32) ** 8).astype(np.int32)
        entropy = 4 * rng.random(n, np.float32) ** 2
        least = np.minimum.reduceat(logprob, offsets[:-1])
        mean = np.add.reduceat(logprob, offsets[:-1], dtype=np.float64) / lengths
        return [ids, lengths.astype(np.int32), mean.astype(np.float32), least,
                lists(logprob, pa.float32()), lists(ranks, pa.int32()),
                lists(entropy, pa.float32())]  # fmt: skip

    nothing = list_array(np.zeros(rows + 1, np.int32), np.zeros(0, np.int32), pa.int32())
    return {
        "examples": [ids, [split] * rows, range(first, first + rows), [""] * rows, responses,
                     ["{}"] * rows],
        "tokens": [ids, nothing, lists(token_ids, pa.int32()), lists(starts, pa.int32()),
                   lists(ends, pa.int32()), np.zeros(rows, np.bool_)],
        **{f"scores/{run}": scores() for run in RUNS},
    }  # fmt: skip
