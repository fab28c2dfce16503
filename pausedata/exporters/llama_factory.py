"""LLaMA-Factory's sections in the READMEs of ``alpaca`` and ``sharegpt``, which it reads."""

from __future__ import annotations

import json
from typing import Any

from pausedata.exporters.base import Guide, Section


def sections(guide: Guide, entry: dict[str, Any]) -> list[Section]:
    """Its ``dataset_info.json``, where each file has this ``entry``, and its configuration."""
    datasets = {split: {"file_name": path} | entry for split, path in guide.files.items()}
    first = next(iter(guide.files), "train")
    return [
        Section(
            "LLaMA-Factory, dataset_info.json",
            "json",
            json.dumps(datasets, indent=2, ensure_ascii=False),
            "Beside the files; without a system prompt leave `system` out of `columns`.",
        ),
        Section(
            "LLaMA-Factory, configuration",
            "yaml",
            "stage: sft\n"
            "do_train: true\n"
            "model_name_or_path: MODEL\n"
            "dataset_dir: .\n"
            f"dataset: {first}\n"
            "mask_history: true          # the last reply alone bears loss\n"
            f"cutoff_len: {guide.longest + 8}             # longer rows would be cut\n"
            f'add_special_tokens: "{guide.pause["token"]}"\n'
            "resize_vocab: true",
            "Without `template` it takes the chat template from the tokenizer, which is how the "
            "rows were read back; a template of its own may give other ids: check with "
            "`--check llama-factory`. Not with `USE_V1`: that puts invisible characters into "
            "special tokens.",
        ),
    ]
