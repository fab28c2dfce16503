"""Placements that follow the model, in TRL: the same as in transformers' own ``Trainer``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_refresh import (
    SaveAt,
    Seen,
    built,  # noqa: F401
    dataset,  # noqa: F401
    model_and_tokenizer,
    offline,
    positions,
    trainer_of,
    without_padding,
)
from transformers import TrainerCallback

from pausedata.core.errors import UsageError
from pausedata.store.dataset import open_version
from pausedata.training import (
    PlacedRows,
    PlacingCollator,
    RefreshPlacement,
    UnplacedRows,
    as_dataset,
)

pytestmark = pytest.mark.trainers


def sft_trainer(model: Any, tokenizer: Any, rows: Any, out: Path, **settings: Any) -> Any:
    from trl import SFTConfig, SFTTrainer  # pyright: ignore

    arguments: dict[str, Any] = {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 4,
        "learning_rate": 3e-3,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "max_length": None,
        "remove_unused_columns": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }
    return SFTTrainer(
        model=model,
        args=SFTConfig(output_dir=str(out), **arguments),
        train_dataset=as_dataset(rows),
        processing_class=tokenizer,
        **settings,
    )


def test_sft_trains_each_epoch_on_what_the_last_one_placed(
    dataset: Path,  # noqa: F811
    model_folder: Path,
    tmp_path: Path,
) -> None:
    model, tokenizer = model_and_tokenizer(model_folder)
    rows, seen = PlacedRows(dataset, "dit"), Seen()
    callbacks = [RefreshPlacement(rows), SaveAt(tmp_path / "saved"), seen]
    trainer = sft_trainer(model, tokenizer, rows, tmp_path / "t", callbacks=callbacks)
    seen.watch(trainer)
    trainer.train()
    assert {"epoch-1", "epoch-2"} <= set(open_version(dataset).runs)
    for epoch in (1, 2):
        expected = offline(dataset, tmp_path / f"saved/epoch-{epoch}", model_folder, f"o-{epoch}")
        assert positions(dataset, f"dit-epoch-{epoch}") == expected
    for epoch, placement in enumerate(("dit", "dit-epoch-1", "dit-epoch-2")):
        placed = PlacedRows(dataset, placement)
        wanted = [placed[k]["input_ids"] for k in range(len(placed))]
        pad = tokenizer.pad_token_id
        assert without_padding(seen.epochs[epoch], pad) == without_padding(wanted, pad)


def test_sft_with_the_collator(
    dataset: Path,  # noqa: F811
    model_folder: Path,
    tmp_path: Path,
) -> None:
    model, tokenizer = model_and_tokenizer(model_folder)
    rows, seen = UnplacedRows(dataset), Seen()
    collator = PlacingCollator(model, rows, positions=3)
    trainer = sft_trainer(
        model, tokenizer, rows, tmp_path / "t", data_collator=collator, callbacks=[seen]
    )
    seen.watch(trainer)
    trainer.train()
    for batch in seen.epochs:
        assert len(batch) == 12
        assert all(row.count(rows.pause_id) == 3 for row in batch)


LORA = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "down_proj"], "r": 4}


def logprobs(dataset: Path, run: str) -> Any:  # noqa: F811
    table = open_version(dataset).table(f"scores/{run}")
    rows = [
        table.read(shard).column("logprob").combine_chunks().flatten() for shard in table.shards
    ]
    return np.concatenate([row.to_numpy() for row in rows])


@pytest.mark.parametrize(
    "more",
    [{}, {"trainable_token_indices": [400, 5]}, {"modules_to_save": ["lm_head", "embed_tokens"]}],
    ids=["lora", "with trained tokens", "with whole embeddings"],
)
def test_an_adapter_in_training_is_scored_as_the_merged_model(
    dataset: Path,  # noqa: F811
    model_folder: Path,
    tmp_path: Path,
    more: dict[str, Any],
) -> None:
    import copy

    import peft  # pyright: ignore

    class Merge(TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if round(state.epoch) == 1:
                copy.deepcopy(kwargs["model"]).merge_and_unload().save_pretrained(tmp_path / "m")

    rows = PlacedRows(dataset, "dit")
    callbacks = [RefreshPlacement(rows), Merge()]
    trainer = trainer_of(
        *(model_folder, rows, tmp_path / "t", callbacks), num_train_epochs=2, learning_rate=3e-2
    )
    config = peft.LoraConfig(lora_dropout=0.1, **LORA, **more)
    trainer.model = trainer.model_wrapped = peft.get_peft_model(trainer.model, config)
    trainer.train()
    assert offline(dataset, tmp_path / "m", model_folder, "merged") == positions(
        dataset, "dit-epoch-1"
    )
    assert positions(dataset, "dit-epoch-1") != positions(dataset, "dit")
    assert np.abs(logprobs(dataset, "epoch-1") - logprobs(dataset, "merged")).max() < 1e-3


def test_a_learned_prompt_is_refused(
    dataset: Path,  # noqa: F811
    model_folder: Path,
    tmp_path: Path,
) -> None:
    import peft  # pyright: ignore

    rows = PlacedRows(dataset, "dit")
    trainer = trainer_of(model_folder, rows, tmp_path / "t", [RefreshPlacement(rows)])
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    trainer.model = trainer.model_wrapped = peft.get_peft_model(trainer.model, config)
    with pytest.raises(UsageError, match="learned prompt"):
        trainer.train()
