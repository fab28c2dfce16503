"""How much memory and time a warm-up takes, from headers and configuration alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pausedata.warmup.settings import Warmup

if TYPE_CHECKING:
    from pausedata.models.ref import ModelRef
    from pausedata.models.shape import Shape


def bytes_needed(
    shape: Shape, settings: Warmup, dtype: str, *, batch_tokens: int, longest: int
) -> dict[str, int]:
    """Bytes of weights, trained weights' gradients and optimizer, activations and logits.

    ``batch_tokens``: padded tokens at once; ``longest``: tokens of the longest row, which is a
    batch of its own where it is longer.
    """
    raise NotImplementedError


def check(
    model: ModelRef, settings: Warmup, dtype: str, device: str, longest: int | None
) -> dict[str, int] | None:
    """`bytes_needed` on the device that ``device`` stands for; None where the sizes are unknown.

    UsageError, with the numbers, where there is not so much. ``longest`` None: some 512 tokens.
    """
    raise NotImplementedError


def scoring_tokens(settings: Warmup, tokens_a_row: float, rows: int) -> int:
    """The work of all folds' training, in tokens that are scored in the same time on the device.

    ``rows``: those of the split that is trained on; ``tokens_a_row``: prompt and response.
    """
    raise NotImplementedError
