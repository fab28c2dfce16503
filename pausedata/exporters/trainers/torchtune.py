"""torchtune: its ``SFTDataset``, with tokens and mask as they are."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pausedata.exporters.trainers.base import LoadPath, TensorRow, Trainer, TrainerInput


def load(given: TrainerInput) -> Iterator[TensorRow]:
    """The rows of an ``SFTDataset``."""
    from torchtune.datasets import SFTDataset

    def as_they_are(row: Any) -> Any:
        return row

    rows = SFTDataset(
        source="json",
        data_files=str(given.path),
        split="train",
        cache_dir=str(given.scratch / "cache"),
        message_transform=as_they_are,
        model_transform=lambda row: {"tokens": row["tokens"], "mask": row["mask"]},
    )
    for number in range(len(rows)):
        row = rows[number]
        yield TensorRow(list(row["tokens"]), [int(label) for label in row["labels"]])


TRAINER = Trainer(
    name="torchtune",
    packages=("torchtune", "torchao", "torch", "datasets"),
    formats=("shifted",),
    ways=(LoadPath("SFTDataset", load, applies=lambda given: given.options.columns == "mask"),),
)
