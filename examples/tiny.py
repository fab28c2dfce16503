"""Models over bytes, small enough to be trained on a laptop: what the examples share."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

NOTHING = -100  # a label without loss
Row = dict[str, list[int]]  # input_ids and labels


def make_tokenizer(*more: str) -> PreTrainedTokenizerFast:
    """Every byte a token: a digit of a number is one decision of the model. ``more`` stand last."""
    special = ["<eos>", "<pad>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: id for id, token in enumerate([*special, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in more])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=special[0], pad_token=special[1]
    )


def make_model(
    tokenizer: PreTrainedTokenizerFast,
    *,
    hidden: int,
    layers: int,
    context: int,
    spread: float = 0.02,
) -> LlamaForCausalLM:
    """A Llama with four heads, drawn anew; ``spread`` is the deviation of its first weights."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=3 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=context,
            tie_word_embeddings=True,
            initializer_range=spread,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def teach(
    model: Any, batches: Iterator[Sequence[Row]], steps: int, peak: float, warm_up: int = 100
) -> None:
    """So many steps of AdamW, the learning rate up to ``peak`` and down to nothing as a cosine."""
    torch.set_num_threads(1)  # a model as small as this is no quicker with more
    pad = model.config.pad_token_id
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.01)
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            warm = min(1.0, (step + 1) / warm_up)
            group["lr"] = peak * warm * (1 + math.cos(math.pi * step / steps)) / 2
        ids, labels = padded(next(batches), pad)
        loss = model(input_ids=ids, attention_mask=(ids != pad).long(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 500 == 0 or step == steps - 1:
            print(f"step {step} of {steps}, loss {loss.item():.3f}", flush=True)
    model.eval()


def padded(rows: Sequence[Row], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and labels [rows, longest]."""
    longest = max(len(row["input_ids"]) for row in rows)
    filled = [
        [row[name] + [fill] * (longest - len(row[name])) for row in rows]
        for name, fill in (("input_ids", pad), ("labels", NOTHING))
    ]
    return torch.tensor(filled[0]), torch.tensor(filled[1])


def epochs(rows: Sequence[Row], batch: int, seed: int) -> Iterator[Sequence[Row]]:
    """Batches of ``rows``, in another order each epoch, without end."""
    draw = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(rows), generator=draw).tolist()
        for start in range(0, len(order) - batch + 1, batch):
            yield [rows[k] for k in order[start : start + batch]]


def teach_on(
    model: Path, export: Path, out: Path, *, steps: int, batch: int, peak: float, seed: int
) -> Path:
    """``model`` fine-tuned on an export of the format ``tokenized``, as ``out``."""
    rows = [json.loads(line) for line in export.read_text("utf-8").splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
    teach(loaded, epochs(rows, batch, seed), steps, peak, warm_up=steps // 10)
    save(loaded, tokenizer, out)
    return out


def save(model: Any, tokenizer: Any, out: Path) -> None:
    """Both, in a folder that is there when all of it is."""
    unfinished = out.with_name(out.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    shutil.rmtree(out, ignore_errors=True)
    unfinished.rename(out)
