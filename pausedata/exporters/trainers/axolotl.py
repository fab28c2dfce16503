"""axolotl: its own preparation of datasets, as `axolotl preprocess` runs it."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pausedata.exporters.trainers.base import LoadPath, TensorRow, Trainer, TrainerInput

# What an export's README says of each format, beside the path.
_TYPES: dict[str, dict[str, Any]] = {
    "tokenized": {"type": ""},
    "axolotl-segments": {"type": "input_output"},
    "axolotl-chat": {"type": "chat_template", "roles_to_train": [], "train_on_eos": "turn"},
}


def load(given: TrainerInput, **settings: Any) -> Iterator[TensorRow]:
    """The rows that it would train on; ``settings`` go over those of an export's README."""
    from axolotl.utils.data.sft import prepare_datasets
    from axolotl.utils.dict import DictDefault

    config = {
        "base_model": str(given.model_folder),
        "datasets": [{"path": str(given.path), "ds_type": "json", **_TYPES[given.format.name]}],
        "chat_template": "tokenizer_default",
        "sequence_len": given.longest,
        "dataset_prepared_path": str(given.scratch / "prepared"),
        "tokens": [given.reader.pause],
        "train_on_inputs": False,
        "val_set_size": 0,
        "num_epochs": 1,
        "micro_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "batch_size": 4,
        "world_size": 1,
        "dataset_num_proc": 1,
        "shuffle_merged_datasets": False,
    }
    prepared, *_ = prepare_datasets(DictDefault(config | settings), given.tokenizer)
    for row in prepared:
        yield TensorRow(list(row["input_ids"]), list(row["labels"]))


def _sample_packing(given: TrainerInput) -> Iterator[TensorRow]:
    """Its packing takes rows as they are prepared, and puts them together in its dataloader."""
    return load(
        given,
        sample_packing=True,
        sample_packing_group_size=100_000,
        sample_packing_bin_size=200,
        sample_packing_eff_est=1.0,
    )


def _reads(given: TrainerInput) -> bool:
    """Of tokenised rows it requires the mask, which packed ones do not have."""
    return not given.packed


TRAINER = Trainer(
    name="axolotl",
    packages=("axolotl", "transformers", "torch", "datasets"),
    formats=tuple(_TYPES),
    ways=(
        LoadPath("prepare_datasets", load, ordered=False, applies=_reads),
        LoadPath(
            "prepare_datasets, sample_packing", _sample_packing, ordered=False, applies=_reads
        ),
    ),
)
