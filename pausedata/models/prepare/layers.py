"""Which tensors of a model's files have a row for each token."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pausedata.core.errors import UsageError, first_line
from pausedata.models.ref import needs_own_code, own_code, quiet

_QUANTISED = "it is quantised. Prepare the model that it was quantised from, then quantise that."


@dataclass(frozen=True)
class Layers:
    """Tensors by the names that they have in the files."""

    embedding: str
    head: str | None  # None: tied to the embedding, or there is none
    bias: str | None  # of the head
    tied: bool


def find_layers(folder: Path, stored: Iterable[str], name: str) -> Layers:
    """The embedding and the output head, from the model's own class, without its weights.

    UsageError for a quantised model, and for one that transformers does not know.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        with quiet(), torch.device("meta"):
            config: Any = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
            if getattr(config, "quantization_config", None):
                raise UsageError(f"{name}: {_QUANTISED}")
            model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (ValueError, OSError, KeyError, ImportError) as error:
        if needs_own_code(error):
            raise own_code(name) from error
        raise UsageError(
            f"{name}: transformers does not load it as a language model: {first_line(error)}"
        ) from error
    names = list(stored)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = bool(config.get_text_config().tie_word_embeddings)
    found = _stored_name(model, embedding, "weight", names)
    if found is None:
        raise UsageError(f"{name}: its files hold no embedding that its configuration describes.")
    own = _stored_name(model, head, "weight", names) if head is not None else None
    if own is None and not tied and head is not None:
        raise UsageError(f"{name}: its files hold no output head that its configuration describes.")
    biased = head is not None and getattr(head, "bias", None) is not None
    bias = _stored_name(model, head, "bias", names) if biased else None
    return Layers(found, None if own == found else own, bias, tied)


def _stored_name(model: Any, layer: Any, part: str, names: list[str]) -> str | None:
    """What the files call a layer's tensor: the class's name, or with another prefix."""
    own = next((n for n, module in model.named_modules() if module is layer), None)
    if own is None:
        return None
    wanted = f"{own}.{part}"
    if wanted in names:
        return wanted
    close = [n for n in names if n.endswith("." + wanted) or wanted.endswith("." + n)]
    return close[0] if len(close) == 1 else None
