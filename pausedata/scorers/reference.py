"""The reference that other backends are checked against: transformers, float32, on the CPU."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from pausedata.core.errors import DataError, UsageError, missing_extra
from pausedata.core.progress import ignore_message
from pausedata.core.system_memory import available, readable
from pausedata.scorers import Example
from pausedata.scorers.agreement import ReferenceScores

try:
    import torch
except ImportError as error:
    need = missing_extra("torch and transformers", "transformers", "The cross-check")
    raise UsageError(f"{need}; or score unchecked: scoring.cross_check: 0") from error

from pausedata.models.cache import in_cache
from pausedata.models.load import load_model
from pausedata.models.shape import parameter_count
from pausedata.scorers.transformers import DEFAULT_BATCH_TOKENS, TransformersScorer

if TYPE_CHECKING:
    from pausedata.models.ref import ModelRef

_CPU = torch.device("cpu")
# Of the memory that is free: the rest is for logits, and for what else runs here.
_MOST_OF_MEMORY = 0.8


class ReferenceModel:
    """A model in float32 that scores one example at a time, as a reference for other scores."""

    def __init__(self, model: ModelRef, say: Callable[[str], None] = ignore_message) -> None:
        """Load the model; UsageError where that fails. ``say`` hears what takes long."""
        loaded = load_model(in_cache(model, say), torch.float32, _CPU)
        self._scorer = TransformersScorer(loaded, DEFAULT_BATCH_TOKENS["cpu"])

    def examine(self, example: Example, tolerance: float) -> ReferenceScores:
        """The log-probabilities in float64, and the ranks possible within ``tolerance`` (nats)."""
        targets = torch.from_numpy(np.asarray(example.response_ids, np.int64))[:, None]
        logprob, lowest, highest, done = [], [], [], 0
        for block in self._scorer.logits(example):
            logits = block.double()
            chosen = logits.gather(1, targets[done : done + len(block)])
            logprob.append(chosen[:, 0] - logits.logsumexp(1))
            lowest.append(1 + (logits > chosen + tolerance).sum(1))
            highest.append((logits >= chosen - tolerance).sum(1))
            done += len(block)
        found = ReferenceScores(
            torch.cat(logprob).numpy(),
            torch.cat(lowest).numpy().astype(np.int32),
            torch.cat(highest).numpy().astype(np.int32),
        )
        if not np.isfinite(found.logprob).all():
            raise DataError(
                f"the model itself, in float32, gives response token "
                f"{int(np.isfinite(found.logprob).argmin())} a log-probability that is not finite: "
                "its weights are damaged, fetch it again."
            )
        return found

    def versions(self) -> dict[str, str]:
        """The versions of torch and transformers."""
        found = self._scorer.versions()
        return {name: found[name] for name in ("torch", "transformers")}

    def close(self) -> None:
        """Free the model's memory."""
        self._scorer.close()
        gc.collect()  # modules and their hooks refer to each other


def lacks_memory(model: ModelRef) -> str | None:
    """Why the model surely does not fit in this machine's memory; None where it may."""
    free, parameters = available(), parameter_count(model)
    if free is None or parameters is None or 4 * parameters <= _MOST_OF_MEMORY * free:
        return None
    return (
        f"{model.name} takes {readable(4 * parameters)} in float32, "
        f"{readable(free)} of memory are free"
    )
