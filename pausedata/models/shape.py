"""A model's sizes and limits, from its configuration and the headers of its files alone."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pausedata.core.errors import UsageError, first_line
from pausedata.models.gguf_header import GgufHeader, read_gguf_header
from pausedata.models.ref import (
    ModelRef,
    cached_file,
    import_transformers,
    needs_own_code,
    own_code,
    quiet,
)

# What a configuration calls the longest sequence that the model takes.
_CONTEXT_KEYS = (
    "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length",
    "seq_length",
)  # fmt: skip


def context_length(ref: ModelRef) -> int | None:
    """The tokens that the model takes at most, from its configuration; None where it is silent."""
    ref = ref.base or ref
    if ref.kind == "gguf" and ref.path is not None:
        return read_gguf_header(ref.path).context_length()
    file = ref.path / "config.json" if ref.path else cached_file(ref, "config.json")
    if file is not None and (stated := _stated_context(_read_config(file))):
        return stated  # transformers takes seconds to say the same
    with quiet():
        AutoConfig = import_transformers("Reading a model's configuration").AutoConfig
        where, keywords = ref.from_pretrained_args()
        try:
            config = AutoConfig.from_pretrained(where, **keywords)
        except (OSError, ValueError, KeyError) as error:
            if needs_own_code(error):
                raise own_code(ref.name) from error
            raise UsageError(f"{ref.name}: its config.json: {first_line(error)}") from error
    return _stated_context(config.to_dict())


def is_quantised(ref: ModelRef) -> bool:
    """Whether the configuration says that the weights are quantised; a GGUF file's are unpacked."""
    ref = ref.base or ref
    if ref.kind == "gguf":
        return False
    file = ref.path / "config.json" if ref.path else cached_file(ref, "config.json")
    return file is not None and "quantization_config" in _read_config(file)


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # transformers says what is wrong with it
        return {}
    return config if isinstance(config, dict) else {}


def _stated_context(config: dict[str, Any]) -> int | None:
    """The context length in a configuration; a model of text and images keeps it one level down."""
    text = config.get("text_config")
    for part in (text if isinstance(text, dict) else {}, config):
        for key in _CONTEXT_KEYS:
            value = part.get(key)
            if isinstance(value, int) and value > 0:
                return value
    return None


def parameter_count(ref: ModelRef) -> int | None:
    """About how many weights the model has, for estimates of time; None where nothing says.

    Reads headers only: safetensors, GGUF, or of a Hub id the copy in the cache, else its API.
    """
    ref = ref.base or ref
    if ref.kind == "gguf" and ref.path is not None:
        return read_gguf_header(ref.path).parameters
    if ref.path is None:
        config = cached_file(ref, "config.json")
        if config is not None and (count := _safetensors_parameters(config.parent)):
            return count
        try:
            from huggingface_hub import HfApi

            info = HfApi().model_info(ref.name, revision=ref.revision, timeout=10).safetensors
        except Exception:  # an estimate is not worth a failure
            return None
        return info.total if info else None
    return _safetensors_parameters(ref.path)


@dataclass(frozen=True)
class Shape:
    """The sizes of a model that decide how much memory it takes.

    ``parameters`` is its weights, ``vocabulary`` the rows of its output head, ``kv`` the numbers
    that its attention keeps for a token, over all ``layers``. ``certain``: the weights are held as
    they are counted, not in a quantised form, nor are some of them left out.
    """

    parameters: int
    vocabulary: int
    hidden: int
    intermediate: int
    kv: int
    layers: int
    certain: bool


def model_shape(ref: ModelRef) -> Shape | None:
    """The model's sizes, from headers and configuration alone; None where they are not there."""
    ref = ref.base or ref
    if ref.kind == "gguf" and ref.path is not None:
        return _gguf_shape(read_gguf_header(ref.path))
    file = ref.path / "config.json" if ref.path else cached_file(ref, "config.json")
    if file is None:
        return None
    whole = _read_config(file)
    text = whole.get("text_config")
    config = whole | text if isinstance(text, dict) else whole

    def size(*keys: str) -> int | None:
        return next((config[k] for k in keys if isinstance(config.get(k), int)), None)

    vocabulary, hidden = size("vocab_size"), size("hidden_size", "n_embd", "d_model")
    layers = size("num_hidden_layers", "n_layer", "num_layers")
    if not (vocabulary and hidden and layers):
        return None
    parameters = parameter_count(ref)
    if parameters is None:
        return None
    heads = size("num_attention_heads", "n_head", "num_heads") or 1
    each = size("head_dim") or hidden // heads
    return Shape(
        parameters,
        vocabulary,
        hidden,
        size("intermediate_size", "n_inner", "ffn_dim") or 4 * hidden,
        2 * layers * (size("num_key_value_heads") or heads) * each,
        layers,
        certain="quantization_config" not in whole and not isinstance(text, dict),
    )


def _gguf_shape(header: GgufHeader) -> Shape | None:
    hidden, layers = header.size("embedding_length"), header.size("block_count")
    embedding = header.tensors.get("token_embd.weight")
    if not (hidden and layers and embedding):
        return None
    heads = header.size("attention.head_count") or 1
    each = header.size("attention.key_length") or hidden // heads
    return Shape(
        header.parameters,
        embedding // hidden,
        hidden,
        header.size("feed_forward_length") or 4 * hidden,
        2 * layers * (header.size("attention.head_count_kv") or heads) * each,
        layers,
        certain=True,  # both backends turn it into a plain model
    )


def _safetensors_parameters(folder: Path) -> int | None:
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            try:
                (length,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(min(length, 1 << 28)))
            except (struct.error, ValueError):
                return None
        total += sum(math.prod(t["shape"]) for name, t in header.items() if name != "__metadata__")
    return total or None
