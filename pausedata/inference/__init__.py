"""Pauses while a model generates: forced where it is unsure, under limits, and left out of texts.

`PauseLogitsProcessor` is for transformers' `generate`; `pausedata.inference.vllm:PausesForVLLM`
is named to vLLM. Both follow `PauseParams` and obey an `Eligibility` rule. docs/inference.md shows
all of it. Importing this loads neither torch, transformers nor vllm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pausedata.inference.across import PauseStopStrings, WithoutPauses
    from pausedata.inference.eligibility import Eligibility
    from pausedata.inference.params import PauseParams
    from pausedata.inference.processor import PauseLogitsProcessor
    from pausedata.inference.text import (
        OutputDeltas,
        PauseStreamer,
        Stripped,
        TextDeltas,
        strip_output,
        strip_pauses,
    )

_HOMES = {
    "Eligibility": "eligibility",
    "OutputDeltas": "text",
    "PauseLogitsProcessor": "processor",
    "PauseParams": "params",
    "PauseStopStrings": "across",
    "PauseStreamer": "text",
    "Stripped": "text",
    "TextDeltas": "text",
    "WithoutPauses": "across",
    "strip_output": "text",
    "strip_pauses": "text",
}

__all__ = [
    "Eligibility",
    "OutputDeltas",
    "PauseLogitsProcessor",
    "PauseParams",
    "PauseStopStrings",
    "PauseStreamer",
    "Stripped",
    "TextDeltas",
    "WithoutPauses",
    "strip_output",
    "strip_pauses",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pausedata.inference' has no attribute '{name}'")
    from importlib import import_module

    value = getattr(import_module(f"pausedata.inference.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
