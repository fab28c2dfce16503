"""How often the gate says no-go where pauses help just as much as they have to.

    python benchmarks/gate_error_rate.py                        # some minutes
    python benchmarks/gate_error_rate.py --dataset DATASET      # and with a gate's own examples

The true gain is `min_gain` exactly: the hardest case, in which a no-go is an error, and a go too.
One looks after every example. Beside it stands what the same looking does to a t-test that is made
to be read once. `--effect` moves the true gain below `min_gain`, by so many standard deviations:
then a no-go is right, and the examples that it took are what stopping early is worth.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import machine, parser_of
from numpy.typing import NDArray

from pausedata.measure.figures import figures
from pausedata.measure.judge import Watch, judge
from pausedata.measure.measured import Measured
from pausedata.pipeline.rules import Rules
from pausedata.store.dataset import open_version

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Floats]

# Differences between examples, of mean 0 and standard deviation 1.
SHAPES: dict[str, Draw] = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "heavy tails (t, 4 degrees)": lambda rng, n: rng.standard_t(4, n) / math.sqrt(2),
    "skewed up (exponential)": lambda rng, n: rng.exponential(size=n) - 1,
    "skewed down (exponential)": lambda rng, n: 1 - rng.exponential(size=n),
}


def arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("--tries", type=int, default=2000, help="simulated measurements for each shape")
    add("--examples", type=int, default=500, help="at most so many in each")
    add("--confidence", type=float, default=0.95)
    add("--effect", type=float, default=0.3, help="standard deviations below min_gain")
    add("--resamples", type=int, default=300, help="of the bootstrap at the end")
    add("--dataset", type=Path, help="whose gates' examples are drawn from too")
    return parser.parse_args()


def measured(gains: Floats, tokens: NDArray[np.int64]) -> Measured:
    """Examples that gain so many nats in all."""
    count = len(gains)
    nothing, zeros = np.full(count, None, dtype=object), np.zeros(count, np.int64)
    none = np.zeros(count)
    return Measured(nothing, nothing, tokens, zeros, zeros, none, gains, none, none, none, none)


def looked_at_by_t_test(values: Floats, rules: Rules) -> int | None:
    """When a one-sided t-test for one look, made after every example, first says no."""
    n = np.arange(1, len(values) + 1)
    mean = np.cumsum(values) / n
    spread = np.maximum(np.cumsum(values**2) / n - mean**2, 1e-300) * n / np.maximum(n - 1, 1)
    said = mean / np.sqrt(spread / n) < -quantile(rules.confidence)
    said[: rules.min_examples - 1] = False
    return int(np.argmax(said)) + 1 if said.any() else None


def quantile(confidence: float) -> float:
    """Of the normal distribution, which Student's is near after 20 examples."""
    from statistics import NormalDist

    return NormalDist().inv_cdf(confidence)


def simulate(draw: Draw, told: argparse.Namespace, below: float) -> dict[str, float]:
    """Shares of no-go and go by the gate, and of no by the t-test; median examples to a no-go."""
    rules = Rules(min_gain=0.01, confidence=told.confidence)
    rng = np.random.default_rng(0)
    ended: list[int] = []
    went = t_test = 0
    for seed in range(told.tries):
        # Longer answers gain more: what is tested is a ratio of sums.
        tokens = rng.integers(40, 200, told.examples)
        values = draw(rng, told.examples) - below
        own = measured(rules.min_gain * tokens + values, tokens)
        watch = Watch(rules)
        watch.add(own)
        t_test += looked_at_by_t_test(values, rules) is not None
        if watch.ruled_out is not None:
            ended.append(watch.ruled_out)
        elif told.resamples:
            found = figures(own, confidence=rules.confidence, seed=seed, resamples=told.resamples)
            went += judge(found, rules).verdict == "go"
    middle = float(np.median(ended)) if ended else math.nan
    shares = {"no-go": len(ended), "go": went, "t-test": t_test}
    return {name: count / told.tries for name, count in shares.items()} | {"median": middle}


def recorded(root: Path) -> dict[str, Draw]:
    """Draws from what gates of a dataset measured, moved and scaled to mean 0 and deviation 1."""
    version = open_version(root)
    found: dict[str, Draw] = {}
    for name in version.manifest.names("gates"):
        table = version.table(f"gates/{name}")
        own = Measured.of_table(table.read(table.shards[0]))
        values = own.gains - own.tokens * own.gains.sum() / own.tokens.sum()
        values = (values - values.mean()) / values.std()
        found[f"gates/{name} ({len(own)} examples)"] = lambda rng, n, v=values: rng.choice(v, n)
    return found


def main() -> None:
    told = arguments()
    print(machine())
    stated = 1 - told.confidence
    print(
        f"{told.tries} measurements of up to {told.examples} examples, looked at after each; "
        f"stated error {stated:.3f}"
    )
    shapes = SHAPES | (recorded(told.dataset) if told.dataset else {})
    for shape, draw in shapes.items():
        at, under = simulate(draw, told, 0.0), simulate(draw, told, told.effect)
        print(
            f"{shape}: wrongly no-go {at['no-go']:.4f}, {at['no-go'] / stated:.2f} of what is "
            f"stated (a t-test looked at as often {at['t-test']:.4f}, "
            f"{at['t-test'] / stated:.2f}), wrongly go {at['go']:.4f}; {told.effect} deviations "
            f"below: no-go {under['no-go']:.3f}, after {under['median']:.0f} examples in the median"
        )


if __name__ == "__main__":
    main()
