"""A causal language model, loaded with transformers; UsageError in one line where that fails."""

from __future__ import annotations

import importlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pausedata.core.errors import UsageError, missing_extra, nearest

try:
    import torch
    import transformers
except ImportError as error:
    raise missing_extra("torch and transformers", "transformers", "Loading a model") from error

from pausedata.models.merge import merge_adapter
from pausedata.models.ref import needs_own_code, own_code, quiet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pausedata.models.ref import ModelRef


def torch_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU; UsageError for what is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        hint = nearest(name, {"auto", "cpu", "cuda", "mps"} - {name})
        raise UsageError(
            f"scoring.device: no device '{name}' on this machine.{hint} "
            "`auto` takes the GPU if there is one."
        ) from error
    return device


def load_model(model: ModelRef, dtype: torch.dtype, device: torch.device) -> Any:
    """The model in evaluation mode; UsageError in one line where that fails."""
    where, keywords = model.from_pretrained_args()
    name = getattr(model, "name", where)
    try:
        with quiet(), _no_gguf_bar():
            loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
                where, dtype=dtype, **keywords
            )
            if model.kind == "adapter" and model.path is not None:
                loaded = merge_adapter(loaded, model.path)
            elif getattr(loaded, "_hf_peft_config_loaded", False):
                # transformers put it on a base, or on these weights, which nothing would record.
                raise UsageError(
                    f"{name} is a LoRA adapter: download it (hf download {name} --local-dir …) and "
                    "name that folder."
                    if model.path is None
                    else f"{name} holds a model and a LoRA adapter: give each its own folder."
                )
            return loaded.eval().to(device)
    except UsageError:
        raise
    except Exception as error:  # transformers raises whatever the part that fails raises
        if is_out_of_memory(error):
            raise does_not_fit(name, device) from error
        if isinstance(error, ImportError):
            raise missing_extra("gguf and accelerate", "transformers", f"Loading {name}") from error
        if needs_own_code(error):
            raise own_code(name) from error
        line = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UsageError(f"{name} cannot be loaded as a causal language model: {line}") from error


@contextmanager
def _no_gguf_bar() -> Iterator[None]:
    """Stop the bar of a GGUF file's conversion, for which transformers has no setting."""
    try:
        module: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
        bar = module.tqdm
    except (ImportError, AttributeError):  # made in another way by another version
        yield
        return
    module.tqdm = lambda iterable=(), *_, **__: iterable
    try:
        yield
    finally:
        module.tqdm = bar


def does_not_fit(name: str, device: torch.device) -> UsageError:
    """The error for a model that a device has no room for."""
    return UsageError(
        f"{name} does not fit in the memory of {device}: choose a smaller model, "
        "`model.dtype: bfloat16` or another `scoring.device`."
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or this machine ran out of memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)
