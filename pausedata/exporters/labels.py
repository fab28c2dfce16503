"""Which tokens bear loss."""

from __future__ import annotations

from typing import Any

import numpy as np

from pausedata.exporters.base import IGNORE, Format, TokenOptions
from pausedata.exporters.sequences import Flags, Ids, Sequences


def bears_loss(sequences: Sequences, options: TokenOptions) -> Flags:
    """Whether each element is trained on: [elements].

    In packed rows the first token of an example is not: the one before it is another example's.
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


def loss_of(format: Format, sequences: Sequences, options: Any) -> Flags:
    """As `bears_loss`, for formats of text too, whose trainers leave out prompts."""
    if format.text is None:
        return bears_loss(sequences, options)
    loss = ~sequences.is_prompt
    return loss & ~sequences.is_pause if format.masks(options) else loss


def labels(sequences: Sequences, options: TokenOptions) -> Ids:
    """Unshifted labels: [elements]."""
    return np.where(bears_loss(sequences, options), sequences.input_ids, np.int32(IGNORE))
