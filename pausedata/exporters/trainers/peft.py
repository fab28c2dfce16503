"""PEFT: LoRA that trains the pause's own row of the embedding, and no other."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pausedata.exporters.trainers.base import Finding, LoadPath, TensorRow, Trainer, TrainerInput
from pausedata.exporters.trainers.hf_trainer import batches, hf_trainer


def load(given: TrainerInput) -> Iterator[TensorRow | Finding]:
    """The rows of a ``Trainer`` over a LoRA model, and what its step did to the embedding."""
    import torch
    from peft import LoraConfig, get_peft_model

    base: Any = given.model()
    before = base.get_input_embeddings().weight.detach().clone()
    pause = given.reader.pause_id
    config = LoraConfig(target_modules=["q_proj", "v_proj"], trainable_token_indices=[pause])
    model = get_peft_model(base, config)
    paused = False
    for row in batches(hf_trainer(given, model, learning_rate=1e-2, warmup_steps=0)):
        paused = paused or (isinstance(row, TensorRow) and pause in row.input_ids)
        yield row
    merged: Any = model.merge_and_unload()
    weight = merged.get_input_embeddings().weight.detach()
    moved = (weight != before).any(dim=1).nonzero().flatten().tolist()
    yield Finding(
        f"of the embedding, row {pause} alone was trained",
        moved == [pause] or (not moved and not paused),
        f"rows {moved[:5]}",
    )
    tied = torch.equal(weight, merged.get_output_embeddings().weight)
    yield Finding("merged, the head is still tied to the embedding", tied)


TRAINER = Trainer(
    name="peft",
    packages=("peft", "transformers", "torch", "datasets"),
    formats=("tokenized", "hf-disk"),
    ways=(LoadPath("Trainer, LoRA with trainable_token_indices", load),),
)
