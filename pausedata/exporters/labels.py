"""Which tokens bear loss."""

from __future__ import annotations

import numpy as np

from pausedata.exporters.base import IGNORE, TokenOptions
from pausedata.exporters.sequences import Flags, Ids, Sequences


def bears_loss(sequences: Sequences, options: TokenOptions) -> Flags:
    """Whether each element is trained on: [elements].

    Of packed rows an example's first token is not: what stands before it is another example.
    """
    loss = np.ones(len(sequences.input_ids), bool)
    if options.prompt_label == "ignore":
        loss &= ~sequences.is_prompt
    if options.pause_label == "ignore":
        loss &= ~sequences.is_pause
    if options.eos == "ignore":
        loss &= ~sequences.is_end
    if options.pack:
        loss[sequences.parts[:-1][np.diff(sequences.parts) > 0]] = False
    return loss


def labels(sequences: Sequences, options: TokenOptions) -> Ids:
    """Unshifted labels: [elements]."""
    return np.where(bears_loss(sequences, options), sequences.input_ids, np.int32(IGNORE))
