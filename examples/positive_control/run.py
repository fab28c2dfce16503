"""The positive control: a gate that says go where pauses help, and only there.

    python examples/positive_control/run.py --output build/positive-control           # half an hour
    python examples/positive_control/run.py --output build/quick --quick              # some minutes

Needs pausedata[transformers]. Started again, it goes on: what is finished is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # what the examples share

TWENTY = 20  # examples that are too few, whatever they gain


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    digits: int  # look-ups of a hard problem
    base_steps: int  # of 64 problems
    train: int
    test: int
    steps: int  # of 32 rows
    seeds: int
    more: bool  # also random places, and a base that never saw a pause


FULL = Size(4, 4000, 2000, 600, 190, 3, True)
QUICK = Size(3, 1250, 600, 150, 60, 1, False)
BATCH, PEAK = 32, 3e-4
ANSWERS = [
    *("--generate", "--task", "gsm8k", "--max-new-tokens", 10, "--batch", 50, "--to-the-end"),
    *("--gate", "min_accuracy_gain=0.05"),
]
COIN_STEPS, COIN_PEAK = 200, 3e-3


def main() -> None:
    """The whole chain, and its verdicts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--output", type=Path, default=Path("build/positive-control"))
    parser.add_argument("--quick", action="store_true", help="a seed alone, in some minutes")
    parser.add_argument("--jobs", type=int, default=2, help="what runs side by side")
    given = parser.parse_args()
    out, size = given.output.resolve(), QUICK if given.quick else FULL
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    check_size(out, size)
    tasks = [partial(lookups, out, size, True), partial(coin_flips, out, size)]
    if size.more:
        tasks.insert(1, partial(lookups, out, size, False))
    verdicts: dict[str, Any] = {}
    # In processes: torch has one random number generator in each.
    with ProcessPoolExecutor(given.jobs, get_context("spawn")) as pool:
        for found in [pool.submit(task) for task in tasks]:
            verdicts |= found.result()
    seconds = round(time.monotonic() - started)
    told = {"size": asdict(size), "machine": machine(), "seconds": seconds, "verdicts": verdicts}
    (out / "results.json").write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    shown = table(verdicts)
    (out / "results.md").write_text(shown + "\n", "utf-8")
    print(f"\n{shown}\n\n{machine()}, {seconds} s; {out / 'results.md'}")


def check_size(out: Path, size: Size) -> None:
    """Ends where what is there was made at another size."""
    file, said = out / "size.json", json.dumps(asdict(size))
    if file.exists() and file.read_text("utf-8") != said:
        raise SystemExit(f"{out} holds another size ({file}): give another --output.")
    file.write_text(said, "utf-8")


def lookups(out: Path, size: Size, taught: bool) -> dict[str, Any]:
    """The verdicts on look-ups, from a base model that was taught to pause or was not."""
    from base import write_base
    from tasks import problems

    def rows(seed: int) -> Iterator[tuple[str, str]]:
        return ((one.prompt, one.response) for one in problems(size.digits, seed))

    name = "taught" if taught else "untaught"
    made = Chain(out / name, HERE / "recipe.yaml", size)
    made.prepare(rows, lambda base: write_base(base, size.digits, size.base_steps, taught=taught))
    seeds = range(size.seeds)
    arms = ["none", "helping"]
    if taught:
        arms += ["useless", *(["random"] if size.more else [])]
    models = {arm: [made.train(arm, seed, size.steps, PEAK) for seed in seeds] for arm in arms}

    def gate(arm: str, chosen: list[int], *more: object, label: str) -> Any:
        words = [w for s in chosen for w in ("--model", models[arm][s])]
        words += [w for s in chosen for w in ("--baseline", models["none"][s])]
        return made.measure(label, arm, *words, *more)

    def answers(label: str) -> Any:
        # The same models: `appended` has the places of `helping`.
        words = ["--model", models["helping"][0], "--baseline", models["none"][0], *ANSWERS]
        return made.measure(label, "appended", *words)

    found: dict[str, Any] = {}
    if not taught:
        found["never saw a pause"] = [gate("helping", [s], label=f"helping-{s}") for s in seeds]
        found["never saw a pause, answers"] = [answers("answers")]
        return found
    found["pauses help"] = [gate("helping", [s], label=f"helping-{s}") for s in seeds]
    if size.seeds > 1:
        found["pauses help, all seeds"] = [gate("helping", [*seeds], label="helping")]
    found["pauses help, answers"] = [answers("answers")]
    found["pauses cannot help"] = [gate("useless", [s], label=f"useless-{s}") for s in seeds]
    if size.more:
        found["random places"] = [gate("random", [s], label=f"random-{s}") for s in seeds]
    found["twenty rows"] = [gate("helping", [0], "--examples", TWENTY, label="twenty")]
    return found


def coin_flips(out: Path, size: Size) -> dict[str, Any]:
    """The verdict on pauses that tell which bit is the unlikely one."""
    from tasks import coins
    from tiny import NOTHING, epochs, make_model, make_tokenizer, save, teach

    made = Chain(out / "coins", HERE / "coins.yaml", size)

    def write(base: Path) -> None:
        tokenizer = make_tokenizer()
        model = make_model(tokenizer, hidden=32, layers=2, context=64, spread=0.1)
        rows = []
        for _, (prompt, response) in zip(range(1500), coins(0), strict=False):
            asked = tokenizer.encode(prompt)
            answer = [*tokenizer.encode(response), tokenizer.eos_token_id]
            rows.append({"input_ids": asked + answer, "labels": [NOTHING] * len(asked) + answer})
        teach(model, epochs(rows, BATCH, 0), COIN_STEPS, COIN_PEAK, warm_up=20)
        save(model, tokenizer, base)

    made.prepare(coins, write)
    plain = made.train("none", 0, COIN_STEPS, COIN_PEAK)
    found = {}
    names = {"telling": "coin flips, places that tell", "random": "coin flips, random places"}
    for arm, name in names.items():
        model = made.train(arm, 0, COIN_STEPS, COIN_PEAK)
        words = ("--model", model, "--baseline", plain, "--to-the-end")
        found[name] = [made.measure(arm, arm, *words)]
    return found


class Chain:
    """From a corpus to verdicts, in a folder of its own."""

    def __init__(self, folder: Path, recipe: Path, size: Size) -> None:
        self.folder, self.recipe, self.size = folder, recipe, size
        self.base, self.prepared = folder / "base", folder / "prepared"
        self.dataset = folder / "dataset"

    def prepare(
        self,
        rows: Callable[[int], Iterator[tuple[str, str]]],
        write_base: Callable[[Path], None],
    ) -> None:
        """Corpus, base model, dataset with its exports, and the model with the pause."""
        from tasks import write

        if not (self.folder / "corpus").exists():
            write(self.folder / "corpus", rows, self.size.train, self.size.test)
        if not self.base.exists():
            write_base(self.base)
        pausedata(
            *("build", self.recipe, "--output", self.dataset),
            *("--set", f"source.hub={self.folder / 'corpus'}", "--set", f"model.id={self.base}"),
        )
        if not self.prepared.exists():
            pausedata("prepare-model", self.base, self.prepared)

    def train(self, arm: str, seed: int, steps: int, peak: float) -> Path:
        """The model that was trained on the export of an arm."""
        from tiny import teach_on

        out = self.folder / "models" / f"{arm}-{seed}"
        out.parent.mkdir(exist_ok=True)
        export = self.dataset / "current" / "exports" / arm / "train.jsonl"
        if not out.exists():
            how = {"steps": steps, "batch": BATCH, "peak": peak, "seed": seed}
            teach_on(self.prepared, export, out, **how)
        return out

    def measure(self, label: str, placement: str, *words: object) -> dict[str, Any]:
        """What `measure --json` prints."""
        result = self.folder / "measured" / f"{label}.json"
        if not result.exists():
            result.parent.mkdir(exist_ok=True)
            printed = pausedata(
                *("measure", self.dataset, "--placement", placement, "--split", "test"),
                *("--name", label, "--json", *words),
                may_fail=True,  # status 1 says that the gate does not let it through
            )
            result.with_suffix(".part").write_text(printed, "utf-8")
            result.with_suffix(".part").rename(result)
        return json.loads(result.read_text("utf-8"))


def pausedata(*words: object, may_fail: bool = False) -> str:
    """Run the command line, as anybody would; what it prints on standard output."""
    command = [sys.executable, "-m", "pausedata", *map(str, words)]
    alone = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | alone)
    if done.returncode > 1 or (done.returncode and not (may_fail and done.stdout)):
        raise SystemExit(f"{shlex.join(command)}: status {done.returncode}")
    return done.stdout


def table(verdicts: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: a row for each measurement."""
    heads = ["", "gain, nats/token", "between", "the places tell", "right with", "without", "gate"]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for what, found in verdicts.items():
        for told in found:
            between = told["gain_interval"]
            answers = told.get("generated")
            row = [
                what,
                f"{told['gain']:+.4f}",
                f"{between[0]:+.4f} … {between[1]:+.4f}" if between else "–",
                f"{told['leak']:.4f}",
                f"{answers['accuracy_with']:.0%}" if answers else "–",
                f"{answers['accuracy_without']:.0%}" if answers else "–",
                f"{told['verdict']} ({told['examples']} examples)",
            ]
            lines.append(_line(row))
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def machine() -> str:
    """What it ran on."""
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
