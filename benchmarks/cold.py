"""Cold starts: a command in a process of its own, against one that only does what it must.

    python benchmarks/cold.py --starts 15

`sql` counts the examples, against Python with DuckDB alone on the same Parquet files. `show` of one
example, `place` of one placement and `--help` are against `python -c "import typer"`. They take
turns; the median of each counts, and the shortest stands beside it. What a machine needs to start
Python and import a library differs by a factor of ten: only the ratios say something.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
from common import ROOT, machine, parser_of
from synthetic import make, vocabulary

from pausedata.store.dataset import open_version
from pausedata.store.opening import POINTER

VOCABULARY = 49_152  # tokens
COMMAND = "from pausedata.__main__ import main; main()"
TYPER = "import typer"
DUCKDB = """
import sys, duckdb
print(duckdb.connect().execute("SELECT count(*) FROM read_parquet(?)", [sys.argv[1]]).fetchall())
"""
# command → what it is compared with
AGAINST = {"sql": "DuckDB alone", "show": "import typer", "place": "import typer",
           "--help": "import typer"}  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("--tokens", type=int, default=1_000_000, help="of all responses together")
    add("--starts", type=int, default=15, help="starts of each; the median counts")
    add("--folder", type=Path, default=None, help="keep the dataset here, and use it again")
    return parser.parse_args()


def processes(dataset: Path, nth: int) -> dict[str, list[str]]:
    """What is started in each turn: Python's code and its words."""
    shards = open_version(dataset).folder / "examples" / "*.parquet"
    strategy = ["--strategy", "lowest_logprob", "--param", "positions=5", "--run", "base"]
    place = ["place", str(dataset), f"cold-{os.getpid()}-{nth}", *strategy]
    return {
        "DuckDB alone": [DUCKDB, str(shards)],
        "sql": [COMMAND, "sql", str(dataset), "select count(*) from examples"],
        "import typer": [TYPER],
        "show": [COMMAND, "show", str(dataset)],
        "place": [COMMAND, *place],
        "--help": [COMMAND, "--help"],
    }


def seconds(words: list[str]) -> float:
    """How long a Python takes that runs this."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", *words],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    return time.perf_counter() - start


def measure(dataset: Path, tokens: int, starts: int) -> None:
    """Start each in turn, and print how they compare."""
    if not (dataset / POINTER).is_file():
        make(dataset, tokens, vocabulary(VOCABULARY))
    version = open_version(dataset)
    stored = {name: sum(s.bytes for s in table.shards) for name, table in version.tables.items()}
    print(f"{version.table('examples').entry.rows:,} examples, "
          f"{len(version.table('examples').shards)} shards; MB: examples "
          f"{stored['examples'] / 1e6:.1f}, tokens {stored['tokens'] / 1e6:.1f}")  # fmt: skip
    times: dict[str, list[float]] = {}
    for nth in range(starts + 1):
        for name, words in processes(dataset, nth).items():
            took = seconds(words)
            if nth:  # the first puts bytecode and files into the system's cache
                times.setdefault(name, []).append(took)
    for name, against in AGAINST.items():
        ours, theirs = times[name], times[against]
        aim = " (aim: under 2)" if name == "sql" else ""
        print(f"{name:7} {statistics.median(ours):.3f} s, {against} "
              f"{statistics.median(theirs):.3f} s, ratio "
              f"{statistics.median(ours) / statistics.median(theirs):.2f}{aim}; "
              f"of the shortest {min(ours) / min(theirs):.2f}")  # fmt: skip


def main() -> None:
    asked = arguments()
    print(f"{machine()}; Python {sys.version.split()[0]}, DuckDB {duckdb.__version__}")
    if asked.folder is None:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder) / "dataset", asked.tokens, asked.starts)
    else:
        measure(asked.folder / "dataset", asked.tokens, asked.starts)
    print(machine())


if __name__ == "__main__":
    main()
