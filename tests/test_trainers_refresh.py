"""Placements that follow the model, in TRL: the same as in transformers' own ``Trainer``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_refresh import (
    SaveAt,
    Seen,
    built,  # noqa: F401
    dataset,  # noqa: F401
    model_and_tokenizer,
    offline,
    positions,
    without_padding,
)

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
