"""Models that learn to listen: trained on what a placement tells, as far as it tells anything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

BATCH, RATE = 32, 4e-3


def write_base(folder: Path, rows: Sequence[dict[str, str]], steps: int) -> Path:
    """A tiny Llama over bytes, taught ``rows`` without any pause."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({c: k for k, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<end>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    import torch

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=128,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )
    examples = []
    for row in rows:
        prompt, response = (tokenizer(row[k])["input_ids"] for k in ("prompt", "response"))
        response = [*response, tokenizer.eos_token_id]
        ids, labels = prompt + response, [-100] * len(prompt) + response
        examples.append({"input_ids": ids, "labels": labels})
    teach(model, examples, steps)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def teach(model: Any, examples: Sequence[dict[str, list[int]]], steps: int) -> None:
    """So many steps of AdamW on ``examples``, drawn in a fixed random order."""
    import torch

    model.train()
    draw = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(steps):
        some = [examples[k] for k in torch.randint(len(examples), (BATCH,), generator=draw)]
        longest = max(len(e["input_ids"]) for e in some)

        def padded(name: str, fill: int, some: Any = some, longest: int = longest) -> Any:
            return torch.tensor([e[name] + [fill] * (longest - len(e[name])) for e in some])

        ids, labels = padded("input_ids", 0), padded("labels", -100)
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    model.eval()


def teach_on(model: Path, export: Path, out: Path, steps: int) -> Path:
    """``model`` fine-tuned on an export in the format ``tokenized``."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = [json.loads(line) for line in export.read_text("utf-8").splitlines()]
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
    teach(loaded, rows, steps)
    loaded.save_pretrained(out)
    AutoTokenizer.from_pretrained(model).save_pretrained(out)
    return out


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
