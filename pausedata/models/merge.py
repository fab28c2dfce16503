"""A LoRA adapter put onto its base and merged into it: one model, scored like any other."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from pausedata.core.errors import UsageError, missing_extra


def merge_adapter(model: Any, folder: Path) -> Any:
    """``model``, the base, with the adapter in ``folder`` merged into its weights.

    Merged, since that is what people serve, and the quick paths of scoring know plain layers
    alone; it moves last bits. UsageError where the adapter belongs to another base.
    """
    try:
        from peft import PeftConfig, PeftModel
        from peft.utils.save_and_load import load_peft_weights
    except ImportError as error:
        raise missing_extra("peft", "transformers", "A LoRA adapter") from error
    config: Any = PeftConfig.from_pretrained(str(folder))
    config.inference_mode = True
    stored = load_peft_weights(str(folder), device="cpu")
    _fit_embedding(model, stored, config)
    _untie(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about training with tied embeddings
        adapted = PeftModel(model, config)
        try:
            result: Any = adapted.load_adapter(
                str(folder),
                "default",
                # As PeftModel.from_pretrained does, which keeps what did not fit to itself.
                key_mapping=getattr(model, "_checkpoint_conversion_mapping", {}),
            )
        except RuntimeError as error:  # weights of other shapes
            raise _misfit(folder, str(error).strip().splitlines()[-1].strip()) from error
        strangers = [*result.missing_keys, *(k for k in result.unexpected_keys if "lora_" in k)]
        if strangers:
            raise _misfit(folder, f"{len(strangers)} of its weights, such as {strangers[0]}")
        merged: Any = adapted.merge_and_unload()
    return merged.eval()


def _misfit(folder: Path, what: str) -> UsageError:
    return UsageError(
        f"{folder.name}: this LoRA adapter does not fit its base: {what}. Set "
        "base_model_name_or_path in its adapter_config.json to the model that it was trained on."
    )


def _fit_embedding(model: Any, stored: dict[str, torch.Tensor], config: Any) -> None:
    """Give the embedding as many rows as it had in training, where tokens were added.

    peft saves a resized embedding whole, or, of tokens that were trained alone, their rows. A row
    that neither has, such as padding, becomes the mean of the old ones, as trainers have it.
    """
    rows = int(model.get_input_embeddings().num_embeddings)
    wanted = _stored_rows(model, stored)
    if wanted is None:
        wanted = max(rows, 1 + max(_trained_tokens(config), default=-1))
    if wanted == rows:
        return
    model.resize_token_embeddings(wanted, mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            if layer is not None and wanted > rows:
                layer.weight[rows:] = layer.weight[:rows].float().mean(0).to(layer.weight.dtype)


def _untie(model: Any) -> None:
    """Give the head weights of its own where it shares the embedding's.

    An adapter of one of the two would be merged into both, or into both twice.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is not None and head.weight is embedding.weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)


def _stored_rows(model: Any, stored: dict[str, torch.Tensor]) -> int | None:
    """The rows of the embedding, or of the output head, that the adapter brings along."""
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    names = {name for name, module in model.named_modules() if any(module is x for x in layers)}
    rows = [
        len(weight)
        for key, weight in stored.items()
        if any(f".{name}." in key for name in names)
        and key.endswith(".weight")
        and ".lora_A." not in key  # (rank, size); of lora_B the rows are the head's own
    ]
    return max(rows, default=None)


def _trained_tokens(config: Any) -> list[int]:
    """The ids of tokens whose rows were trained alone."""
    trained = getattr(config, "trainable_token_indices", None) or []
    if isinstance(trained, dict):  # by layer
        return [index for indices in trained.values() for index in indices]
    return list(trained)
