"""Placements that follow the model while it learns, as the paper's reference code has them.

`RefreshPlacement` scores the dataset anew every epoch or every N steps, commits what it found, and
training goes on with the new rows; `PlacingCollator` places in every batch, by a forward pass of
the model as it is. docs/training.md shows both.
"""

from __future__ import annotations

from pausedata.core.errors import missing_extra

try:
    import torch  # noqa: F401
    import transformers  # noqa: F401
except ImportError as error:
    raise missing_extra("torch and transformers", "transformers", "Training") from error

from pausedata.training.callback import RefreshPlacement
from pausedata.training.collator import PlacingCollator, UnplacedRows
from pausedata.training.rows import PlacedRows, as_dataset

__all__ = ["PlacedRows", "PlacingCollator", "RefreshPlacement", "UnplacedRows", "as_dataset"]
