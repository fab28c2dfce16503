"""Fine-tuning with TRL on an export, as anybody would.

python train.py PREPARED EXPORT.jsonl OUT SEED EPOCHS
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer


def train(prepared: Path, export: Path, out: Path, seed: int, epochs: int) -> None:
    """Train what is in ``prepared`` on the rows of ``export``; ``out`` is there when it is done."""
    rows = [json.loads(line) for line in export.read_text("utf-8").splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(prepared)
    unfinished = out.with_name(out.name + ".unfinished")
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(prepared, dtype="float32"),
        args=SFTConfig(
            output_dir=str(unfinished),
            num_train_epochs=epochs,
            per_device_train_batch_size=32,
            learning_rate=1e-3,
            lr_scheduler_type="cosine",
            warmup_steps=10,
            seed=seed,
            max_length=None,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model(str(unfinished))
    tokenizer.save_pretrained(unfinished)
    shutil.rmtree(out, ignore_errors=True)
    unfinished.rename(out)


if __name__ == "__main__":
    prepared, export, out, seed, epochs = sys.argv[1:]
    train(Path(prepared), Path(export), Path(out), int(seed), int(epochs))
