"""A LoRA adapter's folder as a model: scored as peft itself runs it, named without a path."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Recipe, Run, make_model

from pausedata import scorers
from pausedata.analysis.verify import verify
from pausedata.core.errors import UsageError
from pausedata.core.progress import Silent
from pausedata.models.ref import ModelRef
from pausedata.scorers import Example
from pausedata.store.dataset import open_version

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


def test_an_adapter_scores_another_run_of_a_dataset(
    recipe: Recipe, adapter: Path, base: Path, run: Callable[..., Run]
) -> None:
    recipe.data["model"] = {"id": str(base)}
    recipe.build()
    done = run("score", recipe.out, "--run", "lora", "--model", adapter)
    assert done.status == 0, done.err
    version = open_version(recipe.out)
    facts = version.table("scores/lora").entry.provenance
    assert facts["tokenizer"]["checked"] == "hash"  # its base's
    assert facts["model"]["id"] == "lora"
    assert facts["model"]["base"]["id"] == "base"
    first = version.table("scores/base").entry.provenance
    assert facts["model"]["base"] == first["model"]
    assert facts["mean_logprob"] != first["mean_logprob"]
    assert str(adapter.parent) not in (version.folder / "manifest.json").read_text()
    assert verify(version, Silent()) == []


def test_an_adapter_can_be_a_recipes_model(recipe: Recipe, adapter: Path) -> None:
    recipe.data["model"] = {"id": str(adapter)}
    recorded = recipe.build().version.manifest.recipe["model"]
    assert (recorded["id"], recorded["base"]["id"]) == ("lora", "base")
    assert not recipe.build().committed


@pytest.mark.parametrize(
    ("layers", "message"),
    [(1, "weights, such as base_model"), (3, "weights, such as base_model")],
)
def test_an_adapter_on_another_base_is_refused(
    base: Path, adapter: Path, tmp_path: Path, layers: int, message: str
) -> None:
    """peft leaves out what does not fit, and scores of half an adapter would be wrong unseen."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(base)
    config.num_hidden_layers = layers
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "other")
    folder = tmp_path / "lora"
    shutil.copytree(adapter, folder)
    settings = json.loads((folder / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = "../other"
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    ref = ModelRef.parse(str(folder), None, tmp_path)
    with pytest.raises(UsageError, match=f"does not fit its base: .*{message}"):
        scorers.load_scorer("transformers", ref, device="cpu")


def test_an_adapter_of_other_sizes_is_refused(base: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(base)
    config.intermediate_size = 48
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "other")
    train_adapter(base, tmp_path / "lora")
    settings = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(tmp_path / "other")
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(settings))
    ref = ModelRef.parse(str(tmp_path / "lora"), None, tmp_path)
    with pytest.raises(UsageError, match="does not fit its base: size mismatch"):
        scorers.load_scorer("transformers", ref, device="cpu")


def test_a_model_folder_into_which_transformers_would_mix_an_adapter_is_refused(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    """The adapter's own base would be in no record."""
    folder = tmp_path / "both"
    shutil.copytree(base, folder)
    shutil.copytree(adapter, folder, dirs_exist_ok=True)
    ref = ModelRef.parse(str(folder), None, tmp_path)
    assert ref.kind == "folder"
    with pytest.raises(UsageError, match="both holds a model and a LoRA adapter"):
        scorers.load_scorer("transformers", ref, device="cpu")
