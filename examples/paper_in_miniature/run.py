"""The paper in miniature: the whole chain, from a corpus to a verdict, on a CPU.

    python examples/paper_in_miniature/run.py --output build/miniature           # under an hour
    python examples/paper_in_miniature/run.py --output build/quick --quick       # some minutes

Needs pausedata[transformers] and trl. Started again, it goes on: what is finished is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # what the examples share
WAYS = ["none", "random", "append", "every_word", "lowest_logprob"]


@dataclass(frozen=True)
class Size:
    """How much of everything; chosen on plain fine-tuning alone, before any pause was trained."""

    base_batches: int  # of 64 problems with one to three steps
    train: int
    test: int
    epochs: int
    seeds: int
    answer: int  # tokens of a generated one, at most


FULL = Size(base_batches=400, train=2000, test=400, epochs=3, seeds=3, answer=80)
QUICK = Size(base_batches=20, train=128, test=24, epochs=1, seeds=1, answer=16)
BASE_STEPS, STEPS = range(1, 4), range(4, 7)


def main() -> None:
    """The whole chain, and its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--output", type=Path, default=Path("build/miniature"))
    parser.add_argument("--quick", action="store_true", help="the chain alone, in some minutes")
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS, help="some of them alone")
    parser.add_argument("--jobs", type=int, default=2, help="models trained side by side")
    given = parser.parse_args()
    out, size = given.output.resolve(), QUICK if given.quick else FULL
    started = time.monotonic()
    prepare(out, size)
    ways = [way for way in WAYS if way in {"none", *given.ways}]
    results: dict[str, list[dict[str, Any]]] = {}

    def job(way: str, seed: int) -> dict[str, Any]:
        found = trained_and_measured(out, size, way, seed)
        print(f"{way}, seed {seed}: done after {time.monotonic() - started:.0f} s", flush=True)
        return found

    with ThreadPoolExecutor(given.jobs) as pool:
        for some in (ways[:1], ways[1:]):  # "none" first: the others are compared with it
            begun = {w: [pool.submit(job, w, seed) for seed in range(size.seeds)] for w in some}
            results |= {way: [each.result() for each in jobs] for way, jobs in begun.items()}
    from table import table

    shown = table(results)
    (out / "results.json").write_text(
        json.dumps({"size": asdict(size), "results": results}, indent=1) + "\n", "utf-8"
    )
    (out / "results.md").write_text(shown + "\n", "utf-8")
    print(f"\n{shown}\n\n{time.monotonic() - started:.0f} s; {out / 'results.md'}")


def prepare(out: Path, size: Size) -> None:
    """Corpus, base model, dataset with its placements and exports, and the model with the pause."""
    if not (out / "base" / "config.json").is_file():
        from base import write_base
        from corpus import write

        write(out / "corpus", STEPS, {"train": size.train, "test": size.test})
        write_base(out / "base", BASE_STEPS, size.base_batches)
    pausedata(
        *("build", HERE / "recipe.yaml", "--output", out / "dataset"),
        *("--set", f"source.hub={out / 'corpus'}", "--set", f"model.id={out / 'base'}"),
    )
    if not (out / "prepared").exists():
        pausedata("prepare-model", out / "base", out / "prepared")


def trained_and_measured(out: Path, size: Size, way: str, seed: int) -> dict[str, Any]:
    """What `measure` finds of a model that was trained ``way``, against one trained on none."""
    model = out / "models" / f"{way}-{seed}"
    if not model.exists():
        export = out / "dataset" / "current" / "exports" / way / "train.jsonl"
        python(HERE / "train.py", out / "prepared", export, model, seed, size.epochs)
    result = out / "measured" / f"{way}-{seed}.json"
    if not result.exists():
        result.parent.mkdir(exist_ok=True)
        printed = pausedata(
            *("measure", out / "dataset", "--model", model, "--placement", way),
            *("--baseline", out / "models" / f"none-{seed}", "--to-the-end", "--json"),
            *("--generate", "--task", "gsm8k", "--max-new-tokens", size.answer),
            *("--batch", 50, "--max-pauses", 20, "--name", f"{way}-{seed}"),
            *("--answers", result.with_suffix(".jsonl")),
            may_fail=True,  # status 1 says that the gate does not let it through
        )
        result.write_text(printed, "utf-8")
    return json.loads(result.read_text("utf-8"))


def pausedata(*words: object, may_fail: bool = False) -> str:
    """Run the command line, as anybody would; what it prints on standard output."""
    return python("-m", "pausedata", *words, may_fail=may_fail)


def python(*words: object, may_fail: bool = False) -> str:
    """Run Python on one core; with ``may_fail`` a status of 1 is an answer, too."""
    command = [sys.executable, *map(str, words)]
    alone = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | alone)
    if done.returncode > 1 or (done.returncode and not (may_fail and done.stdout)):
        sys.exit(f"{shlex.join(command)}: status {done.returncode}")
    return done.stdout


if __name__ == "__main__":
    main()
