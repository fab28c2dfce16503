"""What stored scores say of the highest next-token probability, where they do not hold it.

Where the text's own token has rank 1 the highest probability is its own. Elsewhere its
log-probability l, its rank r and the entropy H of the prediction hold the highest one, m, between
two bounds that are true of every distribution:

- m is above exp(l), and at most 1 - (r - 1) exp(l): r - 1 tokens are each more probable.
- Of all distributions with highest probability m, the least entropy is that of a second token which
  takes all the rest, where m is at least a half: h(m) = -m ln m - (1 - m) ln(1 - m). So H < ln 2
  means m >= 1/2 or more, up to where h(m) = H; and always m >= exp(-H).
- The greatest is that of a rest which is spread evenly over the vocabulary of V:
  h(m) + (1 - m) ln(V - 1), Fano's inequality. So m is at most where that is H.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Double = NDArray[np.float64]

_GRID = 20_000  # points of m at which the two functions of it are known
_SLACK = 1e-4  # for what lies between them, and for scores that are rounded


def bounds(
    logprob: NDArray[np.float32],
    rank: NDArray[np.int32],
    entropy: NDArray[np.float32] | None,
    vocabulary: int,
) -> tuple[Double, Double]:
    """The least and the greatest that the highest probability can be: two arrays [tokens]."""
    own = np.exp(logprob.astype(np.float64))
    least, most = own.copy(), 1 - (rank - 1.0) * own
    if entropy is not None:
        nats = np.maximum(entropy.astype(np.float64), 0)
        least = np.maximum(least, np.exp(-nats) - _SLACK)
        peaked = nats < np.log(2)
        halves = np.linspace(0.5, 1, _GRID)
        with_peak = np.interp(nats, _binary(halves)[::-1], halves[::-1]) - _SLACK
        least = np.where(peaked, np.maximum(least, with_peak), least)
        shares = np.linspace(1 / vocabulary, 1, _GRID)
        spread = _binary(shares) + (1 - shares) * np.log(max(vocabulary - 1, 1))
        most = np.minimum(most, np.interp(nats, spread[::-1], shares[::-1]) + _SLACK)
    first = rank == 1
    least = np.clip(np.where(first, own, least), 0, 1)
    most = np.clip(np.where(first, own, most), 0, 1)
    return least, np.maximum(most, least)


def _binary(share: Double) -> Double:
    """The entropy, in nats, of two tokens that share the probability as ``share`` says."""
    rest = 1 - share
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = share * np.log(share), np.where(rest > 0, rest * np.log(rest), 0)
    return -(terms[0] + terms[1])
