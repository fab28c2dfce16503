"""The control: plain fine-tuning."""

from __future__ import annotations

import numpy as np

from pausedata.strategies.base import Batch, Parameters, Placed, Strategy


class Nowhere(Parameters):
    """Nowhere: the plain fine-tuning control."""

    @property
    def asks(self) -> bool:
        """Never for a pause."""
        return False


def place(batch: Batch, parameters: Nowhere) -> Placed:
    """No pause at all."""
    nothing = np.zeros(0, np.int64)
    return Placed(nothing, nothing, nothing)


STRATEGY = Strategy(
    "none",
    Nowhere,
    place,
    source="plain supervised fine-tuning (SFT), the control for pauses as such",
    formula="No position at all: the same tokens, without a pause.",
    known_before=True,
    worked=({},),
)
