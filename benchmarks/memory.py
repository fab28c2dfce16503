"""Peak memory of `pausedata build` for N rows and for ten times as many: it should not grow.

    python benchmarks/memory.py --n 200

Each build runs in a process of its own. The real model is used where `make model` fetched it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHILD = """
import resource, sys
from pathlib import Path
from pausedata.build import build
from pausedata.recipe import load_recipe
build(load_recipe(Path(sys.argv[1])), Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_mib(rows: int, model: Path, folder: Path, shard_rows: int) -> float:
    """MiB at the peak of a build of ``rows`` rows, made of the quickstart's problems."""
    problems = (ROOT / "recipes/data/word_problems.jsonl").read_text("utf-8").splitlines()
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
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(recipe), str(folder / f"out-{rows}")],
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout.split()[-1]) / 1024


def main() -> None:
    """Print both peaks and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=200, help="rows of the smaller build")
    parser.add_argument("--shard-rows", type=int, default=50)
    parser.add_argument(
        "--model", type=Path, default=ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf"
    )
    given = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, {given.model.name}")
    with tempfile.TemporaryDirectory() as folder:
        peaks = [
            peak_mib(rows, given.model.resolve(), Path(folder), given.shard_rows)
            for rows in (given.n, 10 * given.n)
        ]
    print(f"{given.n} rows: {peaks[0]:,.0f} MiB; {10 * given.n} rows: {peaks[1]:,.0f} MiB")
    print(f"ratio {peaks[1] / peaks[0]:.3f} (aim: at most 1.1)")


if __name__ == "__main__":
    main()
