"""ms-swift: its dataset, and its template's encoding in training."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pausedata.exporters.trainers.base import LoadPath, TensorRow, Trainer, TrainerInput


def load(given: TrainerInput, **settings: Any) -> Iterator[TensorRow]:
    """The rows that it would train on; ``settings`` go over those of an export's README."""
    from swift.dataset import load_dataset
    from swift.model import get_processor
    from swift.template import get_template

    processor = get_processor(
        str(given.model_folder), model_type="llama", new_special_tokens=[given.reader.pause]
    )
    arguments = {
        "template_type": "chatml",
        "use_chat_template": False,
        "max_length": given.longest,
        "truncation_strategy": "raise",
        "loss_scale": "default",
    }
    template = get_template(processor, **arguments | settings)
    template.set_mode("train")
    rows, _ = load_dataset([str(given.path)], split_dataset_ratio=0.0, strict=True, num_proc=1)
    for row in rows:
        encoded = template.encode(dict(row))
        yield TensorRow(list(encoded["input_ids"]), list(encoded["labels"]))


TRAINER = Trainer(
    name="ms-swift",
    packages=("ms-swift", "transformers", "torch", "datasets"),
    formats=("swift",),
    ways=(LoadPath("load_dataset, template.encode", load),),
)
