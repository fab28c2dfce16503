"""NeMo AutoModel: its collater, with labels that are shifted already."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Iterator

from pausedata.exporters.trainers.base import LoadPath, TensorRow, Trainer, TrainerInput


def load(given: TrainerInput) -> Iterator[TensorRow]:
    """The rows of ``default_collater``'s batches, their padding cut off."""
    from nemo_automodel.components.datasets.utils import default_collater

    rows = given.rows()
    for first in range(0, len(rows), 4):
        batch = default_collater([dict(rows[k]) for k in range(first, min(first + 4, len(rows)))])
        mask = ~batch["padding_mask"]
        for k in range(len(mask)):
            yield TensorRow(
                batch["input_ids"][k][mask[k]].tolist(), batch["labels"][k][mask[k]].tolist()
            )


TRAINER = Trainer(
    name="nemo",
    packages=("nemo-automodel", "transformers", "torch", "datasets"),
    formats=("shifted",),
    ways=(
        LoadPath(
            "default_collater",
            load,
            applies=lambda given: given.options.columns == "labels" and not given.packed,
        ),
    ),
)
