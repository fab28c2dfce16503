"""transformers' own ``Trainer``: its dataloader, and one step of its optimiser."""

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


def hf_trainer(given: TrainerInput, model: Any = None, **settings: Any) -> Any:
    """A ``Trainer`` over the export, with a tiny model unless one is given, on the CPU."""
    import transformers

    arguments: dict[str, Any] = {
        "output_dir": str(given.scratch / "hf"),
        "per_device_train_batch_size": 1 if given.packed else 4,
        "max_steps": 1,
        "train_sampling_strategy": "sequential",
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    collator = transformers.DataCollatorForSeq2Seq(given.tokenizer)
    return transformers.Trainer(
        model=given.model() if model is None else model,
        args=transformers.TrainingArguments(**arguments | settings),
        train_dataset=given.rows(),
        # A packed row is a batch of its own, and without a mask, which would join its examples.
        data_collator=transformers.default_data_collator if given.packed else collator,
    )


def batches(trainer: Any) -> Iterator[TensorRow | Finding]:
    """What a trainer's dataloader yields, and a step of training."""
    for batch in trainer.get_train_dataloader():
        yield from unpadded(batch)
    yield one_step(trainer)


def load(given: TrainerInput) -> Iterator[TensorRow | Finding]:
    """The rows of ``hf_trainer``."""
    return batches(hf_trainer(given))


TRAINER = Trainer(
    name="hf-trainer",
    packages=("transformers", "torch", "accelerate", "datasets"),
    formats=("tokenized", "hf-disk"),
    ways=(LoadPath("Trainer", load),),
)
