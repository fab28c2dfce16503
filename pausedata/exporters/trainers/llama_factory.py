"""LLaMA-Factory: its ``get_dataset``, as its trainers call it."""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pausedata.exporters.base import Guide
from pausedata.exporters.trainers.base import LoadPath, TensorRow, Trainer, TrainerInput


def load(given: TrainerInput, **settings: Any) -> Iterator[TensorRow]:
    """The rows that it would train on; ``settings`` go over those of an export's README."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args

    arguments: dict[str, Any] = {
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full",
        "model_name_or_path": str(given.model_folder),
        "output_dir": str(given.scratch / "out"),
        "overwrite_cache": True,
        "preprocessing_num_workers": 1,
        "report_to": "none",
        "add_special_tokens": given.reader.pause,
        "resize_vocab": True,
        "use_cpu": True,
    }
    if given.format.text is None:
        # It asks for the name of a dataset, too, which it then does not look at.
        arguments |= {"tokenized_path": str(given.path), "dataset": "any"}
    else:
        arguments |= _as_guided(given)
    model, data, training, _, _ = get_train_args(arguments | settings)
    template = get_template_and_fix_tokenizer(given.tokenizer, data)
    module = get_dataset(template, model, data, training, "sft", given.tokenizer)
    for row in module["train_dataset" if given.format.text else _SPLITS[given.split]]:
        yield TensorRow(list(row["input_ids"]), list(row["labels"]))


def _as_guided(given: TrainerInput) -> dict[str, Any]:
    """The arguments that the export's README gives; writes its dataset_info.json."""
    guide = Guide(
        given.options, {"token": given.reader.pause}, {"own": str(given.path.resolve())}, 0
    )
    entries = json.loads(given.format.guide(guide)[0].code)
    (given.scratch / "dataset_info.json").write_text(json.dumps(entries), encoding="utf-8")
    return {
        "dataset_dir": str(given.scratch),
        "dataset": "own",
        "cutoff_len": given.longest + 8,
        "mask_history": True,
    }


# What it makes of a ``tokenized_path``'s splits; others it does not load.
_SPLITS = {"train": "train_dataset", "validation": "eval_dataset"}


def _reads(given: TrainerInput) -> bool:
    """Text, or rows of those splits that are not packed: its collator makes masks of its own."""
    return given.format.text is not None or (given.split in _SPLITS and not given.packed)


TRAINER = Trainer(
    name="llama-factory",
    packages=("llamafactory", "transformers", "torch", "datasets"),
    formats=("hf-disk", "alpaca", "sharegpt"),
    ways=(LoadPath("get_dataset", load, applies=_reads),),
    environment={"DISABLE_VERSION_CHECK": "1"},
)
