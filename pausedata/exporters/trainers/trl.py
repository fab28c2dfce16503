"""TRL's ``SFTTrainer``: its dataset, its dataloader, and one step of its optimiser."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pausedata.exporters.trainers.base import (
    Finding,
    LoadPath,
    TensorRow,
    Trainer,
    TrainerInput,
    one_step,
    unpadded,
)


def sft_trainer(given: TrainerInput, rows: Any = None, **settings: Any) -> Any:
    """An ``SFTTrainer`` over the export, unless other rows are given; a tiny model, on the CPU.

    ``settings`` go over those that an export's README gives.
    """
    from trl import SFTConfig, SFTTrainer

    arguments: dict[str, Any] = {
        "output_dir": str(given.scratch / "trl"),
        "max_length": None,
        "per_device_train_batch_size": 4,
        "max_steps": 1,
        "train_sampling_strategy": "sequential",
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "gradient_checkpointing": False,
    }
    if given.format.text is not None:
        arguments |= {"completion_only_loss": True}
    if given.packed:
        arguments |= {"padding_free": True, "per_device_train_batch_size": 1}
    return SFTTrainer(
        model=given.model(),
        args=SFTConfig(**arguments | settings),
        train_dataset=given.rows() if rows is None else rows,
        processing_class=given.tokenizer,
    )


def load(given: TrainerInput, rows: Any = None, **settings: Any) -> Iterator[TensorRow | Finding]:
    """What its dataloader yields, and a step of training."""
    trainer = sft_trainer(given, rows, **settings)
    for batch in trainer.get_train_dataloader():
        yield from unpadded(batch)
    yield one_step(trainer)


def _packing(given: TrainerInput) -> Iterator[TensorRow | Finding]:
    return load(given, packing=True, max_length=given.longest * 2, packing_strategy="bfd")


def _padding_free(given: TrainerInput) -> Iterator[TensorRow | Finding]:
    return load(given, padding_free=True)


def _unpacked_ids(given: TrainerInput) -> bool:
    return given.format.text is None and not given.packed


TRAINER = Trainer(
    name="trl",
    packages=("trl", "transformers", "torch", "datasets"),
    formats=("tokenized", "hf-disk", "prompt-completion"),
    ways=(
        LoadPath("SFTTrainer", load),
        LoadPath("SFTTrainer, padding_free", _padding_free, applies=_unpacked_ids),
        LoadPath("SFTTrainer, packing", _packing, ordered=False, applies=_unpacked_ids),
    ),
)
