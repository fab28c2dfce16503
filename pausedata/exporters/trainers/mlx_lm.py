"""mlx-lm: its local datasets, with the loss that ``--mask-prompt`` gives."""

# pyright: reportMissingImports=false
from __future__ import annotations

import shutil
from collections.abc import Iterator
from types import SimpleNamespace

from pausedata.exporters.base import IGNORE
from pausedata.exporters.trainers.base import LoadPath, TensorRow, Trainer, TrainerInput


def load(given: TrainerInput, mask_prompt: bool = True) -> Iterator[TensorRow]:
    """The rows of ``load_local_dataset``: tokens, and the index from which on they bear loss."""
    from mlx_lm.tuner.datasets import load_local_dataset

    folder = given.scratch / "data"
    folder.mkdir()
    shutil.copyfile(given.path, folder / "train.jsonl")
    config = SimpleNamespace(mask_prompt=mask_prompt)
    rows, _, _ = load_local_dataset(folder, given.tokenizer, config)
    for number in range(len(rows)):
        tokens, offset = rows.process(rows[number])
        yield TensorRow(list(tokens), [IGNORE] * offset + list(tokens[offset:]))


TRAINER = Trainer(
    name="mlx-lm",
    packages=("mlx-lm", "mlx", "transformers"),
    formats=("messages",),
    ways=(LoadPath("load_local_dataset, mask_prompt", load),),
)
