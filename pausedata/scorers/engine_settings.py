"""What `scoring.engine` may hold, as far as it can be checked before vLLM is started."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pausedata.core.errors import UsageError, nearest

# What pausedata sets itself, and why nobody else may.
OURS = {
    "model": "it is model.id",
    "tokenizer": "tokens come from the dataset",
    "skip_tokenizer_init": "tokens come from the dataset",
    "revision": "it is model.revision",
    "dtype": "it is model.dtype",
    "max_model_len": "it follows from scoring.max_length",
    "logprobs_mode": "scores are of the model's own distribution",
    "enable_prefix_caching": "a cached prefix has no scores",
    "trust_remote_code": "code that comes with a model is not run",
    "runner": "it has to generate",
    "data_parallel_size": "there is one engine for each device already: see scoring.engines",
}
_COUNTS = (
    "tensor_parallel_size", "pipeline_parallel_size", "max_num_batched_tokens", "max_num_seqs",
)  # fmt: skip


def check_settings(engine: Mapping[str, Any], known: Collection[str] | None = None) -> None:
    """UsageError for a setting that is unknown, pausedata's own, or no such number.

    ``known``: what vLLM has, None where that is not known.
    """
    for key, value in engine.items():
        if key in OURS:
            raise UsageError(f"scoring.engine.{key} is not yours to set: {OURS[key]}.")
        if known is not None and key not in known:
            hint = nearest(key, known)
            raise UsageError(f"scoring.engine.{key}: vLLM has no such setting.{hint}")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if key in _COUNTS and not (number and isinstance(value, int) and value >= 1):
            raise UsageError(f"scoring.engine.{key}: {value!r}: give a whole number from 1 on.")
        if key == "gpu_memory_utilization" and not (number and 0 < value <= 1):
            raise UsageError(f"scoring.engine.{key}: {value!r}: give a number over 0, at most 1.")


def installed_settings() -> set[str] | None:
    """The settings of the vLLM that is installed, read from its source: an import takes seconds.

    None where it is not installed, or keeps them elsewhere.
    """
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        return None
    try:
        source = (Path(spec.origin).parent / "engine" / "arg_utils.py").read_text("utf-8")
        parts = ast.parse(source).body
    except (OSError, ValueError, SyntaxError):
        return None
    names = {
        item.target.id
        for part in parts
        if isinstance(part, ast.ClassDef) and part.name == "EngineArgs"
        for item in part.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }
    return names or None
