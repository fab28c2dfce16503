"""Peak memory of `pausedata build` for N rows and for ten times as many: it should not grow.

    python benchmarks/memory.py --n 200

Each build runs in a process of its own. The real model is used where `make model` fetched it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from common import MODEL, OWN_DATA, machine, peak_mib

CHILD = """
import sys
from pathlib import Path
from pausedata.pipeline.build import build
from pausedata.pipeline.recipe import load_recipe
build(load_recipe(Path(sys.argv[1])), Path(sys.argv[2]))
"""


def peak_of_build(rows: int, model: Path, folder: Path, shard_rows: int) -> float:
    """MiB at the peak of a build of ``rows`` rows, made of the quickstart's problems."""
    problems = OWN_DATA.read_text("utf-8").splitlines()
    source = folder / f"{rows}.jsonl"
    with source.open("w", encoding="utf-8") as out:
        for number in range(rows):
            problem = json.loads(problems[number % len(problems)])
            out.write(json.dumps(problem | {"question": f"{number}. {problem['question']}"}) + "\n")
    recipe = folder / f"{rows}.json"  # JSON is YAML
    recipe.write_text(
        json.dumps(
            {
                "name": "memory",
                "source": {"files": [source.name]},
                "prompt": "Question: {{ question }}\nAnswer:",
                "response": " {{ answer }}",
                "model": {"id": str(model)},
                "placements": {"dit": {"strategy": "lowest_logprob", "positions": 5}},
                "exports": {"dit-tokenized": {"placement": "dit", "format": "tokenized"}},
                "shard_rows": shard_rows,
                "output": "out",
            }
        ),
        encoding="utf-8",
    )
    return peak_mib(CHILD, recipe, folder / f"out-{rows}")


def main() -> None:
    """Print both peaks and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=200, help="rows of the smaller build")
    parser.add_argument("--shard-rows", type=int, default=50)
    parser.add_argument("--model", type=Path, default=MODEL)
    given = parser.parse_args()
    print(f"{machine()}; {given.model.name}")
    with tempfile.TemporaryDirectory() as folder:
        peaks = [
            peak_of_build(rows, given.model.resolve(), Path(folder), given.shard_rows)
            for rows in (given.n, 10 * given.n)
        ]
    print(f"{given.n} rows: {peaks[0]:,.0f} MiB; {10 * given.n} rows: {peaks[1]:,.0f} MiB")
    print(f"ratio {peaks[1] / peaks[0]:.3f} (aim: at most 1.1)")


if __name__ == "__main__":
    main()
