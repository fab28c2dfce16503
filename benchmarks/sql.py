"""SQL over stored shards against the same rows in one flat Parquet file: seconds and memory.

    python benchmarks/sql.py --tokens 50000000 --folder /tmp/sql

Synthetic examples of 20 to 2,000 response tokens in two splits, with two runs. Beside the dataset
lies one file with a row for each token and run, in the order of the view `tokens`, written by
DuckDB as it writes by default, but for zstd. Each question is put to the view and to the file in
turn, in one process, and the fastest of each counts; the answers have to be equal. So is it put to
the flat copy in the cache that `sql --flat` reads. Memory is that of a process of its own.
Cold starts are measured by cold.py.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from common import machine, parser_of, peak_mib
from synthetic import RUNS, make, vocabulary

from pausedata.query.session import Session
from pausedata.query.views import literal
from pausedata.store.dataset import Version, open_version
from pausedata.store.opening import POINTER
from pausedata.store.tables import list_parts

VOCABULARY = 49_152  # tokens
_HARDEST = "SELECT id, run, pos, token, logprob FROM tokens ORDER BY logprob LIMIT 100"
TOKENS = """
    SELECT token, avg(logprob) AS mean, count(*) AS n FROM tokens
    GROUP BY token HAVING n >= 100 ORDER BY mean, token LIMIT 20"""
CONTEXT = f"""
    SELECT id, run, pos, token, logprob, translate(context(id, pos, 5), '⟦⟧', '') AS around
    FROM ({_HARDEST}) ORDER BY logprob"""
CONTEXT_FLAT = f"""
    SELECT h.id, h.run, h.pos, h.token, h.logprob, string_agg(t.token, '' ORDER BY t.pos) AS around
    FROM ({_HARDEST}) AS h JOIN tokens AS t
    ON t.id = h.id AND t.run = h.run AND t.pos BETWEEN h.pos - 5 AND h.pos + 5
    GROUP BY ALL ORDER BY h.logprob"""
QUANTILES = """
    SELECT split, run, quantile_cont(logprob, [0.01, 0.1, 0.5, 0.9, 0.99]) AS quantiles
    FROM tokens GROUP BY split, run ORDER BY split, run"""
SIDES = ("view", "copy", "flat")

# Run once in a process of its own: for its memory.
ASK = "import sys, sql; sql.ask_once(*sys.argv[1:])"


def arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("--tokens", type=int, default=50_000_000, help="of all responses together")
    add("--repeats", type=int, default=3, help="times that each is asked; the fastest counts")
    add("--folder", type=Path, default=None, help="keep the data here, and use it again")
    return parser.parse_args()


# The data


def prepare(folder: Path, tokens: int) -> None:
    """The dataset and the flat file in ``folder``, unless they are there."""
    if not (folder / "dataset" / POINTER).is_file():
        start = time.perf_counter()
        make(folder / "dataset", tokens, vocabulary(VOCABULARY), ("train", "test"))
        print(f"made the dataset in {time.perf_counter() - start:.0f} s")
    if not (folder / "flat.parquet").is_file():
        start = time.perf_counter()
        write_flat(open_version(folder / "dataset"), folder / "flat.parquet")
        print(f"made the flat file in {time.perf_counter() - start:.0f} s")


def write_flat(version: Version, path: Path) -> None:
    """The rows of the view ``tokens``, worked out without it, in one Parquet file."""
    rows = _flat_rows(version)
    first = next(rows)
    reader = pa.RecordBatchReader.from_batches(first.schema, itertools.chain([first], rows))
    written = path.with_suffix(".tmp")
    with duckdb.connect() as connection:
        connection.register("every_row", reader)
        target = literal(str(written))
        connection.execute(f"COPY every_row TO {target} (FORMAT parquet, COMPRESSION zstd)")
    written.replace(path)


def _flat_rows(version: Version) -> Iterator[pa.RecordBatch]:
    vocab = version.table("vocab")
    texts = vocab.read(vocab.shards[0]).column("token").combine_chunks()
    stored = version.table("tokens")
    for run in RUNS:
        scored = version.table(f"scores/{run}")
        for shard, other in zip(stored.shards, scored.shards, strict=True):
            tokens, scores = stored.read(shard), scored.read(other)
            offsets, token_ids = list_parts(tokens, "response_ids")
            lengths, count = np.diff(offsets), len(token_ids)
            example = pa.array(np.repeat(np.arange(len(lengths)), lengths))
            yield pa.RecordBatch.from_pydict(
                {
                    "id": tokens.column("id").combine_chunks().take(example),
                    "split": pa.repeat(pa.scalar(shard.split), count),
                    "run": pa.repeat(pa.scalar(run), count),
                    "pos": (np.arange(count) - np.repeat(offsets[:-1], lengths)).astype(np.int32),
                    "token_id": token_ids,
                    "token": texts.take(pa.array(token_ids)),
                    **{n: list_parts(tokens, n)[1] for n in ("char_start", "char_end")},
                    **{n: list_parts(scores, n)[1] for n in ("logprob", "rank", "entropy")},
                }
            )


# Asking


Ask = Callable[[str], list[Any]]


def connect(folder: Path, side: str) -> Ask:
    """What answers a query in which ``tokens`` is the view, or over the copy, or the flat file."""
    if side != "flat":
        os.environ["PAUSEDATA_CACHE"] = str(folder / "cache")
        session = Session(open_version(folder / "dataset"), flat=side == "copy")
        return lambda query: session.connection.execute(query).fetchall()
    connection = duckdb.connect()
    file = literal(str(folder / "flat.parquet"))
    connection.execute(f"CREATE VIEW tokens AS FROM read_parquet({file})")
    return lambda query: connection.execute(query).fetchall()


def questions() -> dict[str, tuple[str, str]]:
    """What is asked, of the views and of the file."""
    return {
        "mean log-probability by token text": (TOKENS, TOKENS),
        "the 100 least likely tokens with context": (CONTEXT, CONTEXT_FLAT),
        "quantiles of log-probability by split and run": (QUANTILES, QUANTILES),
    }


def ask_once(folder: str, side: str, what: str) -> None:
    """One question, once: for its memory."""
    connect(Path(folder), side)(questions()[what][side == "flat"])


def queries(folder: Path, repeats: int) -> None:
    """Each question of both, with the ratios."""
    start = time.perf_counter()
    connect(folder, "copy")
    print(f"the flat copy was made, or found, in {time.perf_counter() - start:.1f} s")
    sides = [connect(folder, side) for side in SIDES]
    assert len({str(ask("SELECT current_setting('threads')")) for ask in sides}) == 1
    ratios: dict[str, list[float]] = {side: [] for side in SIDES}
    for what, (ours, theirs) in questions().items():
        times: list[list[float]] = [[] for _ in SIDES]
        for _ in range(repeats):
            answers = []
            for side, spent, ask in zip(SIDES, times, sides, strict=True):
                start = time.perf_counter()
                answers.append(ask(theirs if side == "flat" else ours))
                spent.append(time.perf_counter() - start)
            for answer in answers[:-1]:
                check_equal(answer, answers[-1])
        best = [min(spent) for spent in times]
        print(what)
        for side, seconds in zip(SIDES, best, strict=True):
            ratios[side].append(seconds / best[-1])
            print(f"  {side}: {seconds:.2f} s, ratio {seconds / best[-1]:.2f}, peak memory "
                  f"{peak_mib(ASK, folder, side, what):,.0f} MiB")  # fmt: skip
    for side in SIDES[:-1]:
        mean = statistics.geometric_mean(ratios[side])
        print(f"{side}: largest ratio {max(ratios[side]):.2f} (aim: at most 3), "
              f"geometric mean {mean:.2f} (aim: at most 2)")  # fmt: skip


def check_equal(ours: Any, theirs: Any) -> None:
    """Raise unless two answers are the same, floats to 1e-9 of their size."""
    if isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), (len(ours), len(theirs))
        for a, b in zip(ours, theirs, strict=True):
            check_equal(a, b)
    elif isinstance(ours, float):
        assert math.isclose(ours, theirs, rel_tol=1e-9), (ours, theirs)
    else:
        assert ours == theirs, (ours, theirs)


def measure(folder: Path, tokens: int, repeats: int) -> None:
    """Make what is not there yet, ask, and print."""
    prepare(folder, tokens)
    version = open_version(folder / "dataset")
    lines = version.table("tokens").entry.rows
    read = ["tokens", "vocab", *(f"scores/{run}" for run in RUNS)]
    stored = sum(shard.bytes for name in read for shard in version.table(name).shards)
    flat = (folder / "flat.parquet").stat().st_size
    print(f"{lines:,} examples, {len(version.table('tokens').shards)} shards; MB: tables tokens, "
          f"scores and vocab {stored / 1e6:,.0f}, flat {flat / 1e6:,.0f}")  # fmt: skip
    queries(folder, repeats)


def main() -> None:
    asked = arguments()
    print(f"{machine()}; DuckDB {duckdb.__version__}")
    if asked.folder is None:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), asked.tokens, asked.repeats)
    else:
        measure(asked.folder, asked.tokens, asked.repeats)
    print(machine())


if __name__ == "__main__":
    main()
