"""Which examples are held out, to check on them what was fitted on the others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pausedata.core.errors import UsageError, listing, nearest
from pausedata.core.same_text import salted_hash

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HOLDOUT = "holdout"  # the split that `source.holdout` cuts
HELD_OUT = 5  # of this many examples one is held out, where there is one split alone
# What a split that is not trained on is called, by its name's first word.
EVALUATED = {HOLDOUT, "test", "validation", "valid", "val", "dev", "eval", "evaluation"}


def is_cut(prompt: str, share: float) -> bool:
    """Whether the example of this prompt is in the split `HOLDOUT`, which has about ``share``.

    The normalised prompt alone says so: duplicates stay together, and no other row moves one.
    """
    known = salted_hash(HOLDOUT, prompt)  # a fold's salt is a number: the two are independent
    return int.from_bytes(known[:8], "big") < share * 2**64


def cut_split(provenance: Mapping[str, Any]) -> str | None:
    """The split that was held out when tables of this ``provenance`` were made; None: none was."""
    source = provenance.get("inputs", {}).get("source", {})
    return HOLDOUT if source.get("holdout") is not None else None


def is_evaluated(split: str) -> bool:
    """Whether a split is there to be measured on, by its name: ``test``, ``validation_matched``."""
    return re.split(r"[._]", split)[0].casefold() in EVALUATED


@dataclass(frozen=True)
class HeldOut:
    """A split that is held out; ``seed``: of its examples a fifth alone, which this chooses."""

    split: str
    seed: int | None


def choose(splits: list[str], split: str | None, seed: int) -> HeldOut:
    """What is held out: ``split``; by default `HOLDOUT` or else the last; of an only one a fifth.

    UsageError for a split that is not among ``splits``.
    """
    if split is not None and split not in splits:
        raise UsageError(
            f"--split: no split '{split}'.{nearest(split, splits)} There: {listing(splits)}."
        )
    default = HOLDOUT if HOLDOUT in splits else splits[-1]
    return HeldOut(split or default, seed if len(splits) == 1 else None)


def holdout_mask(examples: int, seed: int) -> NDArray[np.bool_]:
    """A fifth of ``examples``, none where there is but one, chosen by ``seed``: [examples]."""
    import numpy as np  # who reads a recipe alone needs none

    chosen = np.zeros(examples, np.bool_)
    count = max(1, examples // HELD_OUT) if examples > 1 else 0
    chosen[np.random.default_rng(seed).permutation(examples)[:count]] = True
    return chosen
