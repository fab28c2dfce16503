"""Models that learn to listen: trained on what a placement tells, as far as it tells anything."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from conftest import ROOT

sys.path.insert(0, str(ROOT / "examples"))
from tiny import NOTHING, epochs, make_model, make_tokenizer, save, teach
from tiny import teach_on as fine_tune

BATCH, PEAK = 32, 4e-3


def write_base(folder: Path, rows: Sequence[dict[str, str]], steps: int) -> Path:
    """A tiny Llama over bytes, taught ``rows`` without any pause."""
    tokenizer = make_tokenizer()
    examples = []
    for row in rows:
        prompt, response = tokenizer.encode(row["prompt"]), tokenizer.encode(row["response"])
        response = [*response, tokenizer.eos_token_id]
        labels = [NOTHING] * len(prompt) + response
        examples.append({"input_ids": prompt + response, "labels": labels})
    model = make_model(tokenizer, hidden=32, layers=2, context=128, spread=0.1)
    teach(model, epochs(examples, BATCH, 0), steps, PEAK, warm_up=steps // 10)
    save(model, tokenizer, folder)
    return folder


def teach_on(model: Path, export: Path, out: Path, steps: int) -> Path:
    """``model`` fine-tuned on an export in the format ``tokenized``."""
    out.parent.mkdir(exist_ok=True)
    return fine_tune(model, export, out, steps=steps, batch=BATCH, peak=PEAK, seed=0)


def write_recipe(
    folder: Path, base: Path, splits: dict[str, Sequence[dict[str, str]]], placements: Any
) -> Path:
    """A recipe over ``splits``, with these placements and one export of each."""
    (folder / "corpus").mkdir()
    for split, rows in splits.items():
        lines = (json.dumps(row) + "\n" for row in rows)
        (folder / "corpus" / f"{split}.jsonl").write_text("".join(lines), "utf-8")
    recipe = {
        "format": "pausedata-recipe/1",
        "name": "listening",
        "source": {"hub": str(folder / "corpus"), "split": list(splits)},
        "prompt": "{{ prompt }}",
        "response": "{{ response }}",
        "model": {"id": str(base)},
        "placements": placements,
        "exports": {
            name.replace("_", "-"): {"placement": name, "format": "tokenized"}
            for name in placements
        },
        "output": str(folder / "dataset"),
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), "utf-8")
    return path
