"""A LoRA adapter's folder as a model: scored as peft itself runs it, named without a path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pausedata import scorers
from pausedata.models import ModelRef
from pausedata.scorers import Example
from tests.conftest import make_model

EXAMPLES = [
    Example([5, 6, 7], np.array([8, 300, 399, 0], np.int32)),
    Example([9], np.array([10, 11, 12], np.int32)),
]
# How trainers let a new token in, and what the adapter then brings along of the embedding.
TRAINED = {
    "no_new_token": {},
    "resized": {"grow": True},  # saved whole by peft, since its size changed
    "modules_to_save": {"grow": True, "modules_to_save": ["embed_tokens", "lm_head"]},
    "one_row": {"grow": True, "trainable_token_indices": [400]},
    "shrunk": {"rows": 400, "base_rows": 416},
    "an_old_row": {"trainable_token_indices": [399]},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "embedding_and_head": {
        "target_modules": ["q_proj", "embed_tokens", "lm_head"],
        "ensure_weight_tying": True,
    },
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "tied_row": {"grow": True, "trainable_token_indices": [400], "ensure_weight_tying": True},
}


def train_adapter(
    base: Path,
    folder: Path,
    *,
    grow: bool = False,
    rows: int | None = None,
    tokenizer: bool = True,
    **lora: Any,
) -> Any:
    """An adapter with weights that are not zero, saved as a trainer does; the model with it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(3)
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    words: Any = AutoTokenizer.from_pretrained(base)
    if grow:
        words.add_tokens(["[PAUSE]"])
        model.resize_token_embeddings(len(words))
    if rows:
        model.resize_token_embeddings(rows)
    config = {"r": 2, "target_modules": ["q_proj", "v_proj", "up_proj"]} | lora
    adapted = get_peft_model(model, LoraConfig(init_lora_weights=False, **config))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name or "modules_to_save" in name or "trainable_tokens" in name:
                weight += 0.1 * torch.randn_like(weight)
    adapted.save_pretrained(folder)
    if tokenizer:
        words.save_pretrained(folder)
    return adapted.eval()


def logprobs(model: Any, example: Example) -> Any:
    """The response's log-probabilities by the model's own forward."""
    import torch

    ids = torch.tensor([[*example.prompt_ids, *example.response_ids.tolist()]])
    with torch.inference_mode():
        everything = torch.log_softmax(model(input_ids=ids).logits[0].double(), -1)
    first = len(example.prompt_ids)
    rows = everything[first - 1 : -1]
    return rows[torch.arange(len(rows)), ids[0, first:]].numpy()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("adapter") / "base")


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    """An adapter beside its base, without a tokenizer of its own."""
    train_adapter(base, base.parent / "lora", tokenizer=False)
    return base.parent / "lora"


@pytest.mark.parametrize("case", TRAINED)
def test_an_adapter_is_scored_as_peft_runs_it(case: str, base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    how = dict(TRAINED[case])
    if padded := how.pop("base_rows", None):  # a base whose embedding is padded
        wide: Any = AutoModelForCausalLM.from_pretrained(base)
        wide.resize_token_embeddings(padded)
        base = tmp_path / "wide"
        wide.save_pretrained(base)
        AutoTokenizer.from_pretrained(make_model(tmp_path / "x")).save_pretrained(base)
    trained = train_adapter(base, tmp_path / "lora", **how)
    ref = ModelRef.parse("lora", None, tmp_path)
    scorer = scorers.load_scorer("transformers", ref, device="cpu")
    for example, scores in zip(EXAMPLES, scorer.score(EXAMPLES), strict=True):
        assert scores.logprob == pytest.approx(logprobs(trained, example), abs=1e-4)
