"""What a warm-up cannot be done with, in one line each; here, so that none needs torch."""

from __future__ import annotations

from pausedata.core.errors import UsageError, missing_extra


def quantised(name: str) -> UsageError:
    """The error for a model whose weights are held in a form that no gradient changes."""
    return UsageError(
        f"{name} is quantised, and its weights cannot be trained: name the model that it was "
        "quantised from, or score without a warm-up (`warmup: false`)."
    )


def no_peft() -> UsageError:
    """The error where PEFT is not installed."""
    return missing_extra("peft", "transformers", "A warm-up with a LoRA adapter")
