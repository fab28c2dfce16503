"""The paper's APPD: all pauses between the prompt and the response."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from pausedata.strategies.base import MOST_PAUSES, Batch, Parameters, Placed, Strategy


class Append(Parameters):
    """After the prompt, before the response (Goyal et al. 2024; the paper's APPD)."""

    tokens: int = Field(ge=0, le=MOST_PAUSES, description="pauses before the response")


def place(batch: Batch, parameters: Append) -> Placed:
    """Position 0 of each example, with the whole count."""
    examples = np.arange(len(batch.lengths) if parameters.tokens else 0)
    return Placed(
        examples, np.zeros_like(examples), np.full(len(examples), parameters.tokens, np.int64)
    )


STRATEGY = Strategy(
    "append",
    Append,
    place,
    source='Goyal et al., "Think before you speak: Training Language Models With Pause Tokens" '
    "(ICLR 2024); the paper's APPD",
    formula="Position 0 of every response, with the whole count.",
    known_before=True,
    worked=({"tokens": 3},),
)
