"""How often the gate is wrong where pauses bring just as much as they have to: the hardest case.

    python benchmarks/gate_error_rate.py                        # some minutes
    python benchmarks/gate_error_rate.py --dataset DATASET      # and with a gate's own examples

The true gain is `min_gain` exactly, so that a go is an error, and a no-go too. One looks after
every example from the n-th on, up to the last (`--examples`), and is wrong if one ever is; each
shape has a row, each n a column. `once` looks at the n-th alone. `--effect` moves the true gain, by
so many standard deviations: then one of the two is right, and the examples that it took are told.
Clusters are of five examples that share half of their variance, and are given as clusters; `alone`
they are not. Answers are of two models of which each is right in the same share.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from common import machine, parser_of
from numpy.typing import NDArray

from pausedata.measure.paired import paired_interval
from pausedata.measure.sequential import signs
from pausedata.pipeline.rules import Rules
from pausedata.store.dataset import open_version

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Floats]

LOOKS = [20, 50, 100, 200, 500, 2000, 20_000]
_LOGNORMAL = math.exp(0.5), math.sqrt((math.e - 1) * math.e)  # mean and standard deviation


def lognormal(rng: np.random.Generator, n: int) -> Floats:
    mean, deviation = _LOGNORMAL
    return (rng.lognormal(size=n) - mean) / deviation


def few_lose(rng: np.random.Generator, n: int) -> Floats:
    """5 % lose 1.9 nats, the others gain about 0.1."""
    drawn = np.where(rng.random(n) < 0.05, -1.9, 0.1) + rng.normal(0, 0.02, n)
    return drawn / math.sqrt(0.05 * 0.95 * 4 + 0.02**2)


def alike(rng: np.random.Generator, n: int) -> Floats:
    """Examples of clusters of five that share half of their variance, one after another."""
    shared = np.repeat(rng.standard_normal(-(-n // 5)), 5)[:n]
    return (shared + rng.standard_normal(n)) / math.sqrt(2)


def clusters(rng: np.random.Generator, n: int) -> Floats:
    """The sums of such clusters: a cluster is one draw."""
    return alike(rng, 5 * n).reshape(n, 5).sum(axis=1) / math.sqrt(15)


# Differences between examples, of mean 0 and standard deviation 1.
SHAPES: dict[str, Draw] = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "heavy tails (t, 4 degrees)": lambda rng, n: rng.standard_t(4, n) / math.sqrt(2),
    "skewed up (exponential)": lambda rng, n: rng.exponential(size=n) - 1,
    "skewed down (exponential)": lambda rng, n: 1 - rng.exponential(size=n),
    "more so, up (lognormal)": lognormal,
    "more so, down (lognormal)": lambda rng, n: -lognormal(rng, n),
    "5 % lose much": few_lose,
    "5 % gain much": lambda rng, n: -few_lose(rng, n),
    "clusters of five": clusters,
    "the same, alone": alike,
}


def arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("--tries", type=int, default=2000, help="simulated measurements for each shape")
    add("--examples", type=int, default=20_000, help="at most so many in each")
    add("--confidence", type=float, default=0.95)
    add("--effect", type=float, default=0.3, help="standard deviations that the gain is moved by")
    add("--dataset", type=Path, help="whose gates' examples are drawn from too")
    return parser.parse_args()


def said(draw: Draw, told: argparse.Namespace, moved: float = 0.0) -> Iterator[NDArray[np.int8]]:
    """What the gate says after each example, of each simulated measurement."""
    rng = np.random.default_rng(0)
    for _ in range(told.tries):
        yield signs(draw(rng, told.examples) + moved, told.confidence)


def error_rates(draw: Draw, told: argparse.Namespace) -> dict[str, list[float]]:
    """Shares of go and of no-go, ever from each of the looks on, and of both at it alone."""
    looks = [n for n in LOOKS if n <= told.examples]
    found = {name: [0.0] * len(looks) for name in ("go", "no-go", "once")}
    for signs_ in said(draw, told):
        for k, n in enumerate(looks):
            found["go"][k] += bool((signs_[n - 1 :] == 1).any())
            found["no-go"][k] += bool((signs_[n - 1 :] == -1).any())
            found["once"][k] += bool(signs_[n - 1])
    return {name: [count / told.tries for count in counts] for name, counts in found.items()}


def examples_needed(draw: Draw, told: argparse.Namespace, moved: float) -> float:
    """In the median, until the gate is right: from `min_examples` on."""
    least = Rules().min_examples
    ends = []
    for signs_ in said(draw, told, moved):
        right = signs_[least - 1 :] == np.sign(moved)
        ends.append(least + int(right.argmax()) if right.any() else math.inf)
    return float(np.median(ends))


def answers(told: argparse.Namespace) -> Iterator[tuple[float, list[float]]]:
    """How often the interval of answers misses a true difference of none, by how many are right."""
    rng = np.random.default_rng(0)
    for share in (0.02, 0.1, 0.5, 0.9):
        missed = []
        for n in (n for n in LOOKS if n <= min(told.examples, 2000)):
            wrong = 0
            for _ in range(told.tries):
                # Half of the time both models are right or wrong together.
                together, both = rng.random(n) < 0.5, rng.random(n) < share
                own = np.where(together, both, rng.random(n) < share)
                other = np.where(together, both, rng.random(n) < share)
                low, high = paired_interval(own, other, told.confidence)
                wrong += low > 0 or high < 0
            missed.append(wrong / told.tries)
        yield share, missed


def recorded(root: Path) -> dict[str, Draw]:
    """Draws from what gates of a dataset measured, moved and scaled to mean 0 and deviation 1."""
    version = open_version(root)
    found: dict[str, Draw] = {}
    for name in version.manifest.names("gates"):
        table = version.table(f"gates/{name}")
        rows = table.read(table.shards[0])
        columns = ("logprob_with", "logprob_without", "tokens")
        own, plain, tokens = (rows.column(c).to_numpy() for c in columns)
        gains = own - plain
        values = gains - tokens * gains.sum() / tokens.sum()
        values = (values - values.mean()) / values.std()
        found[f"gates/{name} ({len(values)} examples)"] = lambda rng, n, v=values: rng.choice(v, n)
    return found


def row(name: str, values: list[float]) -> str:
    return f"{name:32}" + "".join(f"{value:9.4f}" for value in values)


def main() -> None:
    told = arguments()
    print(machine())
    stated = 1 - told.confidence
    print(
        f"{told.tries} measurements of {told.examples} examples; stated: at most {stated / 2:g} go "
        f"and {stated / 2:g} no-go, however often one looks, from {Rules().min_examples} on"
    )
    looks = [n for n in LOOKS if n <= told.examples]
    print(f"{'from the n-th example on, n =':32}" + "".join(f"{n:9,}" for n in looks))
    for shape, draw in (SHAPES | (recorded(told.dataset) if told.dataset else {})).items():
        print(shape)
        for name, values in error_rates(draw, told).items():
            print(row(f"  {name}", values), flush=True)
        up, down = (examples_needed(draw, told, side * told.effect) for side in (1, -1))
        print(f"  moved by {told.effect:g} deviations: go after {up:.0f}, no-go after {down:.0f}")
    print(f"answers: of equal models the interval leaves out 0; stated: at most {stated:g}")
    for share, missed in answers(told):
        print(row(f"  {share:.0%} right", missed), flush=True)


if __name__ == "__main__":
    main()
