"""The base model: a small Llama that has learnt shorter problems than those of the corpus."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path

import torch
from corpus import problems
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PROMPT = "Question: {question}\nAnswer:"
BATCH = 64


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte a token: a digit of a number is one decision of the model."""
    special = ["<eos>", "<pad>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: id for id, token in enumerate([*special, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=special[0], pad_token=special[1]
    )


def make_model(vocabulary: int, eos: int, pad: int) -> LlamaForCausalLM:
    """Some 800,000 parameters, drawn anew."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            eos_token_id=eos,
            bos_token_id=None,
            pad_token_id=pad,
        )
    )


def write_base(out: Path, steps: range, batches: int) -> None:
    """Train on ``batches`` of problems with so many ``steps``, and write model and tokenizer."""
    tokenizer = make_tokenizer()
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    model = make_model(len(tokenizer), eos, pad)
    torch.set_num_threads(1)  # a model as small as this is no quicker with more
    peak = 2e-3
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.01)
    source = problems(0, steps)
    model.train()
    for batch in range(batches):
        for group in optimizer.param_groups:  # a short warm-up, then down to nothing as a cosine
            warm = min(1.0, (batch + 1) / 100)
            group["lr"] = peak * warm * (1 + math.cos(math.pi * batch / batches)) / 2
        ids, labels = _rows(tokenizer, list(islice(source, BATCH)), eos, pad)
        loss = model(input_ids=ids, attention_mask=(ids != pad).long(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if batch % 100 == 0 or batch == batches - 1:
            print(f"base model: batch {batch} of {batches}, loss {loss.item():.3f}", flush=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _rows(
    tokenizer: PreTrainedTokenizerFast, rows: list[dict[str, str]], eos: int, pad: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and labels [rows, longest]; no loss on questions."""
    prompts = [tokenizer(PROMPT.format(**row))["input_ids"] for row in rows]
    whole = [
        [*prompt, *tokenizer(" " + row["answer"])["input_ids"], eos]
        for prompt, row in zip(prompts, rows, strict=True)
    ]
    longest = max(map(len, whole))
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in whole])
    labels = ids.masked_fill(ids == pad, -100)
    for row, prompt in zip(labels, prompts, strict=True):
        row[: len(prompt)] = -100
    return ids, labels
