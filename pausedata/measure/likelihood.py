"""Log-likelihoods with the pauses and without them, example by example, in turns."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pausedata.measure.examples import ExamplePair
from pausedata.measure.measured import Measured
from pausedata.scorers import Example, Scorer
from pausedata.store.tables import schema_of


def measure_pairs(
    pairs: Sequence[ExamplePair], first: int, trained: Scorer, baseline: Scorer
) -> Measured:
    """``trained`` reads each example with its pauses, ``baseline`` the same without them.

    Each alone, as a model that answers reads its prompt, so that the times are of one example; of
    every second example (``first`` is the number of ``pairs[0]``) the one without comes first, so
    that what drifts, as a processor's clock does, falls on both.
    """
    rows = []
    for number, pair in enumerate(pairs, first):
        turns = [(trained, pair.with_pauses), (baseline, pair.without)]
        timed = [_timed(*turn) for turn in (turns if number % 2 else turns[::-1])]
        (with_pauses, took_with), (without, took) = timed if number % 2 else timed[::-1]
        real = with_pauses[~pair.is_pause]
        after = pair.is_after
        rows.append(
            {
                "id": pair.id,
                "group_name": pair.group,
                "tokens": len(without),
                "pauses": int(pair.is_pause.sum()),
                "after": int(after.sum()),
                "logprob_without": float(without.sum()),
                "logprob_with": float(real.sum()),
                "logprob_after_without": float(without[after].sum()),
                "logprob_after_with": float(real[after].sum()),
                "seconds_without": took,
                "seconds_with": took_with,
            }
        )
    return Measured.of_table(pa.Table.from_pylist(rows, schema_of("gates")))


def _timed(scorer: Scorer, example: Example) -> tuple[np.ndarray, float]:
    """The log-probabilities of an example's response tokens, and the seconds that they took."""
    start = time.perf_counter()
    found = scorer.score([example])[0].logprob
    return found.astype(np.float64), time.perf_counter() - start
