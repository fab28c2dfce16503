"""The base model: a small Llama that has learnt shorter problems than those of the corpus."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from corpus import problems
from tiny import NOTHING, Row, make_model, make_tokenizer, save, teach
from transformers import PreTrainedTokenizerFast

PROMPT = "Question: {question}\nAnswer:"
BATCH, PEAK = 64, 2e-3


def write_base(out: Path, steps: range, batches: int) -> None:
    """Train on ``batches`` of problems with so many ``steps``, and write model and tokenizer."""
    tokenizer = make_tokenizer()
    model = make_model(tokenizer, hidden=128, layers=4, context=512)  # 800,000 parameters
    source = (_row(tokenizer, problem) for problem in problems(0, steps))
    teach(model, iter(lambda: list(islice(source, BATCH)), []), batches, PEAK)
    save(model, tokenizer, out)


def _row(tokenizer: PreTrainedTokenizerFast, problem: dict[str, str]) -> Row:
    """A problem with its answer; no loss on the question."""
    prompt = tokenizer.encode(PROMPT.format(**problem))
    response = [*tokenizer.encode(" " + problem["answer"]), tokenizer.eos_token_id]
    return {"input_ids": prompt + response, "labels": [NOTHING] * len(prompt) + response}
