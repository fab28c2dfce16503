"""An export is used at once: the lines that `export` prints, then one training step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import SMOLLM2, Recipe, make_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def printed_lines(run: Any, recipe: Recipe) -> str:
    ended = run("export", recipe.out, "--placement", "dit", "--format", "tokenized")
    assert ended.status == 0, ended.err
    return ended.out


def train_one_step(code: str, tokenizer: Any, model: Any, tmp_path: Path) -> Any:
    """Run the printed lines as they are, then a step of the Trainer on the rows they load."""
    scope = {"tokenizer": tokenizer, "model": model}
    exec(code, scope)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    collate = transformers.DataCollatorForSeq2Seq(tokenizer)
    trainer = transformers.Trainer(
        model,
        transformers.TrainingArguments(
            str(tmp_path / "trainer"),
            max_steps=1,
            per_device_train_batch_size=4,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=scope["rows"],
        data_collator=collate,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.train()
    return scope["rows"], batch


def check(rows: Any, batch: Any, pause_id: int) -> None:
    """The trainer's own tensors hold the pauses, without loss on any of them."""
    assert len(rows) > 0
    pauses = batch["input_ids"] == pause_id
    assert pauses.any()
    assert (batch["labels"][pauses] == -100).all()
    kept = batch["labels"] != -100
    assert (batch["labels"][kept] == batch["input_ids"][kept]).all()


@pytest.mark.parametrize("padded", [False, True], ids=["exact matrix", "padded matrix"])
def test_the_printed_lines_and_one_step(
    recipe: Recipe, run: Any, tmp_path: Path, padded: bool
) -> None:
    folder = make_model(tmp_path / "base")
    recipe.data["model"]["id"] = str(folder)
    recipe.build()
    code = printed_lines(run, recipe)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    if padded:
        model.resize_token_embeddings(pad_to_multiple_of=256, new_num_tokens=len(tokenizer))
    old = model.get_input_embeddings().weight.detach().clone()
    scope = {"tokenizer": tokenizer, "model": model}
    exec(code, scope)
    new_id = scope["pause_id"]
    rows = model.get_input_embeddings().weight.detach()
    assert rows.shape[0] >= new_id + 1
    mean = old[:new_id].mean(dim=0)
    assert torch.allclose(rows[new_id], mean, atol=1e-3)
    assert torch.equal(rows[:new_id], old[:new_id])
    trained, batch = train_one_step(code, tokenizer, model, tmp_path)
    check(trained, batch, new_id)
    # Every row arrives as planned: what the trainer sees without pauses is what was tokenised.
    meta = json.loads(
        (recipe.out / "current" / "exports" / "dit-tokenized" / "train.meta.json").read_text()
    )
    assert meta["rows"] == len(trained)
    assert meta["embedding_rows_needed"] == new_id + 1


def test_a_tokenizer_that_has_the_token_already_is_left_as_it_is(
    recipe: Recipe, run: Any, tmp_path: Path
) -> None:
    folder = make_model(tmp_path / "base")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer.add_tokens(["[PAUSE]"], special_tokens=True)
    model.resize_token_embeddings(len(tokenizer))
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    recipe.data["model"]["id"] = str(folder)
    recipe.build()
    code = printed_lines(run, recipe)
    assert "add_tokens" not in code
    rows, batch = train_one_step(code, tokenizer, model, tmp_path)
    check(rows, batch, len(tokenizer) - 1)


@pytest.mark.model
def test_the_printed_lines_and_one_step_on_the_real_model(
    recipe: Recipe, run: Any, tmp_path: Path
) -> None:
    if not SMOLLM2.is_file():
        pytest.skip("models/ has no SmolLM2: make model")
    recipe.data["model"]["id"] = str(SMOLLM2)
    recipe.data["source"]["limit"] = 4
    recipe.build()
    code = printed_lines(run, recipe)
    where, name = SMOLLM2.parent, SMOLLM2.name
    tokenizer = transformers.AutoTokenizer.from_pretrained(where, gguf_file=name)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        where, gguf_file=name, dtype=torch.float32
    )
    # A model that came from GGUF still says that it is quantised, which Trainer refuses to train
    # (and to save: hence no checkpoint above).
    model.is_quantized = False
    rows, batch = train_one_step(code, tokenizer, model, tmp_path)
    check(rows, batch, 49152)
