"""Which examples are held out, to check on them what was fitted on the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pausedata.core.errors import UsageError, listing, nearest

HELD_OUT = 5  # of this many examples one is held out, where there is one split alone


@dataclass(frozen=True)
class HeldOut:
    """A split that is held out; ``seed``: of its examples a fifth alone, which this chooses."""

    split: str
    seed: int | None


def choose(splits: list[str], split: str | None, seed: int) -> HeldOut:
    """What is held out: ``split``, by default the last; of an only split a fifth.

    UsageError for a split that is not among ``splits``.
    """
    if split is not None and split not in splits:
        raise UsageError(
            f"--split: no split '{split}'.{nearest(split, splits)} There: {listing(splits)}."
        )
    return HeldOut(split or splits[-1], seed if len(splits) == 1 else None)


def holdout_mask(examples: int, seed: int) -> NDArray[np.bool_]:
    """A fifth of ``examples``, none where there is but one, chosen by ``seed``: [examples]."""
    chosen = np.zeros(examples, np.bool_)
    count = max(1, examples // HELD_OUT) if examples > 1 else 0
    chosen[np.random.default_rng(seed).permutation(examples)[:count]] = True
    return chosen
