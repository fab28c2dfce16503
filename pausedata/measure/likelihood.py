"""Log-likelihoods with the pauses and without them, example by example, in turns."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from pausedata.core.errors import DataError
from pausedata.measure.examples import ExamplePair
from pausedata.measure.measured import Measured
from pausedata.scorers import Example, Scorer


@dataclass(frozen=True)
class Readers:
    """The models that read examples: each of ``trained`` with the pauses, all others without.

    ``same`` differ from ``baselines`` by their seed alone.
    """

    trained: Sequence[Scorer]
    baselines: Sequence[Scorer]
    same: Sequence[Scorer] = ()


def measure_pairs(pairs: Sequence[ExamplePair], first: int, readers: Readers) -> Measured:
    """Each of ``readers.trained`` reads each example with its pauses, the others without them.

    Each alone, as a model that answers reads its prompt, so that the times, which are of the first
    two models, are of one example; of every second example (``first`` is the number of
    ``pairs[0]``) the one without comes first, so that what drifts, as a processor's clock does,
    falls on both. DataError where a log-probability is not finite.
    """
    rows: dict[str, list[Any]] = {f.name: [] for f in fields(Measured)}
    for number, pair in enumerate(pairs, first):
        turns = [(readers.trained[0], pair.with_pauses), (readers.baselines[0], pair.without)]
        timed = [_timed(*turn, pair.id) for turn in (turns if number % 2 else turns[::-1])]
        (own, took_with), (plain, took) = timed if number % 2 else timed[::-1]
        others = [_timed(model, pair.with_pauses, pair.id)[0] for model in readers.trained[1:]]
        plains = [plain, *(_timed(m, pair.without, pair.id)[0] for m in readers.baselines[1:])]
        real = [found[~pair.is_pause] for found in (own, *others)]
        after = pair.is_after
        row = {
            "id": pair.id,
            "group_name": pair.group,
            "tokens": len(plain),
            "pauses": int(pair.is_pause.sum()),
            "after": int(after.sum()),
            "logprob_without": np.mean([found.sum() for found in plains]),
            "logprob_with": np.mean([found.sum() for found in real]),
            "logprob_after_without": np.mean([found[after].sum() for found in plains]),
            "logprob_after_with": np.mean([found[after].sum() for found in real]),
            "seconds_without": took,
            "seconds_with": took_with,
            "with_each": [found.sum() for found in real],
            "without_each": [found.sum() for found in plains],
            "same_each": [_timed(m, pair.without, pair.id)[0].sum() for m in readers.same],
        }
        for name, value in row.items():
            rows[name].append(value)
    widths = {
        "with_each": len(readers.trained),
        "without_each": len(readers.baselines),
        "same_each": len(readers.same),
    }
    columns: dict[str, Any] = {}
    for name, values in rows.items():
        if name in widths:
            columns[name] = np.array(values, np.float64).reshape(len(values), widths[name])
        elif name in ("id", "group_name"):
            columns[name] = np.array(values, dtype=object)
        else:
            columns[name] = np.array(values)
    return Measured(**columns)


def _timed(scorer: Scorer, example: Example, id: str) -> tuple[np.ndarray, float]:
    """The log-probabilities of an example's response tokens, and the seconds that they took."""
    start = time.perf_counter()
    found = scorer.score([example])[0].logprob.astype(np.float64)
    took = time.perf_counter() - start
    if not np.isfinite(found).all():
        at = int(np.flatnonzero(~np.isfinite(found))[0])
        raise DataError(
            f"example {id}: the model gives token {at} of the response a log-probability of "
            f"{found[at]}. Its weights are damaged, or overflow in this precision: look at the "
            "training's loss, or try --dtype float32."
        )
    return found, took
