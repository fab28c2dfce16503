"""``prepare-model``: a model with the pause in tokenizer, embedding and head."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMOLLM2, Recipe, Run, start
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

from pausedata.core.errors import DataError, UsageError
from pausedata.models.prepare import PreparedModel, prepare_model
from pausedata.models.ref import ModelRef
from pausedata.models.tokenizer import Tokenizer
from pausedata.store.dataset import open_version

TEXTS = ["A roast needs 40 minutes.", " 2.3 * 40 = 92\n\n", "[PAUS E] 🍖 naïve", "<|im_end|>"]


def prepared(model: Path, out: Path, **options: Any) -> PreparedModel:
    return prepare_model(ModelRef.parse(str(model), None, Path()), out, **options)


def resaved(tiny: Path, model: Any, folder: Path, **options: Any) -> Path:
    """Another model with the tiny one's tokenizer."""
    model.save_pretrained(folder, **options)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    return folder


def load(folder: Path) -> Any:
    """The model; every weight of it comes from the files, and every weight in them is used."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    return model.eval()


SMALL: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
}  # fmt: skip


def llama(vocabulary: int, tied: bool) -> Any:
    torch.manual_seed(1)
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, tie_word_embeddings=tied, **SMALL))


def gpt2(vocabulary: int) -> Any:
    torch.manual_seed(2)
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, n_embd=16, n_layer=1, n_head=2))


def phi(vocabulary: int) -> Any:
    torch.manual_seed(3)
    model = PhiForCausalLM(PhiConfig(vocab_size=vocabulary, **SMALL))
    torch.nn.init.normal_(model.lm_head.bias)
    return model


MAKES: dict[str, Callable[[int], Any]] = {
    "llama, tied": lambda n: llama(n, tied=True),
    "llama, untied": lambda n: llama(n, tied=False),
    "gpt2, tied": gpt2,
    "phi, a head with a bias": phi,
    "padded, tied": lambda n: llama(n + 7, tied=True),
    "padded, untied": lambda n: llama(n + 7, tied=False),
}


@pytest.fixture(params=MAKES)
def model(request: pytest.FixtureRequest, model_folder: Path, tmp_path: Path) -> Path:
    count = len(AutoTokenizer.from_pretrained(model_folder))
    return resaved(model_folder, MAKES[request.param](count), tmp_path / "model")


# Whatever the model


def test_the_prepared_model_is_the_old_one_and_a_row(model: Path, tmp_path: Path) -> None:
    """No logit of the old vocabulary moves by a bit; the new row is the mean of the used ones."""
    made = prepared(model, tmp_path / "out")
    old, new = load(model), load(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    count = len(AutoTokenizer.from_pretrained(model))
    assert made.id == tokenizer.convert_tokens_to_ids("[PAUSE]") == count
    assert (made.was, made.init, made.rows_before) == (
        "new",
        "mean",
        len(old.get_input_embeddings().weight),
    )
    assert made.rows == max(made.rows_before, count + 1) == new.config.vocab_size
    for before, after in zip(_matrices(old), _matrices(new), strict=True):
        assert torch.equal(after[:count], before[:count])
        assert torch.equal(after[count + 1 :], before[count + 1 :])  # other padding
        mean = before[:count].double().mean(0)
        assert torch.allclose(after[count].double(), mean, atol=1e-7)
    assert (new.get_output_embeddings().weight is new.get_input_embeddings().weight) == made.tied
    ids = torch.tensor([tokenizer(TEXTS[0])["input_ids"]])
    with torch.no_grad():
        assert torch.equal(new(ids).logits[..., :count], old(ids).logits[..., :count])


def _matrices(model: Any) -> list[torch.Tensor]:
    """Embedding and head, and the head's bias where there is one."""
    head = model.get_output_embeddings()
    found = [model.get_input_embeddings().weight, head.weight]
    bias = getattr(head, "bias", None)
    return [m.detach() for m in found + ([] if bias is None else [bias])]


def test_the_mean_is_that_of_transformers(model_folder: Path, tmp_path: Path) -> None:
    """An independent reference: `resize_token_embeddings(mean_resizing=True)`."""
    prepared(model_folder, tmp_path / "out")
    theirs = load(model_folder)
    count = len(AutoTokenizer.from_pretrained(model_folder))
    theirs.resize_token_embeddings(count + 1, mean_resizing=True)
    ours = load(tmp_path / "out").get_input_embeddings().weight[count]
    # Theirs is drawn from a distribution around the mean, with a covariance of 1e-9 of the rows'.
    assert torch.allclose(ours, theirs.get_input_embeddings().weight[count], atol=1e-3)


def test_texts_keep_their_ids_and_the_pause_is_one_token_anywhere(
    model_folder: Path, tmp_path: Path
) -> None:
    prepared(model_folder, tmp_path / "out")
    old, new = (AutoTokenizer.from_pretrained(f) for f in (model_folder, tmp_path / "out"))
    assert Tokenizer(old).hash() == Tokenizer(new).hash()
    for text in TEXTS:
        assert new(text)["input_ids"] == old(text)["input_ids"]
    pause = new.convert_tokens_to_ids("[PAUSE]")
    for text in ("ro[PAUSE]ast", " [PAUSE] x", "\n[PAUSE][PAUSE]"):
        ids = new(text, add_special_tokens=False)["input_ids"]
        assert ids.count(pause) == text.count("[PAUSE]")
        parts = [old(part, add_special_tokens=False)["input_ids"] for part in text.split("[PAUSE]")]
        assert [i for i in ids if i != pause] == [i for part in parts for i in part]
    assert "[PAUSE]" not in new.decode([pause], skip_special_tokens=True)


def test_exports_made_before_and_after_agree(recipe: Recipe, tmp_path: Path) -> None:
    """Ids are those of the export, whichever of the two the dataset is built with."""
    before = recipe.build().version
    prepared(Path(recipe.data["model"]["id"]), tmp_path / "prepared")
    recipe.data["model"]["id"] = str(tmp_path / "prepared")
    recipe.out = tmp_path / "again"
    after = recipe.build().version
    rows = [(v.folder / "exports/dit-tokenized/train.jsonl").read_bytes() for v in (before, after)]
    assert rows[0] == rows[1]
    assert before.manifest.pause.id == after.manifest.pause.id
    assert (before.manifest.pause.id_is_new, after.manifest.pause.id_is_new) == (True, False)


# How the row is set


def test_normal_is_drawn_by_a_seed(model_folder: Path, tmp_path: Path) -> None:
    rows = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        made = prepared(model_folder, tmp_path / name, init="normal", seed=seed)
        rows.append(load_file(tmp_path / name / "model.safetensors")["model.embed_tokens.weight"])
    assert torch.equal(rows[0], rows[1]) and not torch.equal(rows[0], rows[2])
    used = rows[0][: made.id].double()
    distance = (rows[0][made.id].double() - used.mean(0)) / used.std(0)
    assert 0.4 < distance.square().mean().sqrt() < 1.6  # 32 draws of a standard normal


def test_copy_takes_a_tokens_row(model_folder: Path, tmp_path: Path) -> None:
    made = prepared(model_folder, tmp_path / "out", init="copy:<|im_end|>")
    weight = load_file(tmp_path / "out" / "model.safetensors")["model.embed_tokens.weight"]
    source = AutoTokenizer.from_pretrained(model_folder).convert_tokens_to_ids("<|im_end|>")
    assert torch.equal(weight[made.id], weight[source])


@pytest.mark.parametrize("init", ["copy:two words here", "copy:", "median"])
def test_an_init_that_is_none_is_refused(model_folder: Path, tmp_path: Path, init: str) -> None:
    with pytest.raises(UsageError, match="--init"):
        prepared(model_folder, tmp_path / "out", init=init)
    assert list(tmp_path.iterdir()) == []


def test_rows_are_rounded_up(model_folder: Path, tmp_path: Path) -> None:
    made = prepared(model_folder, tmp_path / "out", multiple_of=64)
    assert (made.rows_before, made.rows) == (400, 448)
    model = load(tmp_path / "out")
    assert model.config.vocab_size == len(model.get_input_embeddings().weight) == 448


# A token that is there


def test_a_special_token_is_left_as_it_is(model_folder: Path, tmp_path: Path) -> None:
    """Prepared twice is prepared once: every file is the same."""
    prepared(model_folder, tmp_path / "once")
    made = prepared(tmp_path / "once", tmp_path / "twice")
    assert (made.was, made.init, made.files_rewritten) == ("special", None, 0)
    for path in (tmp_path / "once").iterdir():
        assert (tmp_path / "twice" / path.name).read_bytes() == path.read_bytes(), path.name


def test_ordinary_text_becomes_special_and_keeps_its_id_and_row(
    model_folder: Path, tmp_path: Path
) -> None:
    heard: list[str] = []
    made = prepared(model_folder, tmp_path / "out", token="es", say=heard.append)
    old, new = (AutoTokenizer.from_pretrained(f) for f in (model_folder, tmp_path / "out"))
    assert made.was == "text" and made.id == old.convert_tokens_to_ids("es")
    assert "ordinary token" in heard[0]
    assert new.convert_tokens_to_ids("es") == made.id
    assert new.added_tokens_decoder[made.id].special
    assert (tmp_path / "out/model.safetensors").read_bytes() == (
        model_folder / "model.safetensors"
    ).read_bytes()


def test_a_token_without_a_row_gets_one(model_folder: Path, tmp_path: Path) -> None:
    """Someone added it to the tokenizer and did not resize the model."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.add_tokens(["[PAUSE]"], special_tokens=True)
    AutoModelForCausalLM.from_pretrained(model_folder).save_pretrained(tmp_path / "half")
    tokenizer.save_pretrained(tmp_path / "half")
    made = prepared(tmp_path / "half", tmp_path / "out")
    assert (made.was, made.rows_before, made.rows) == ("special", 400, 401)
    weight = load_file(tmp_path / "out" / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.allclose(weight[400], weight[:400].mean(0), atol=1e-6)


# Files


def test_shards_without_such_rows_are_copied(model_folder: Path, tmp_path: Path) -> None:
    model = llama(400, tied=False)
    folder = resaved(model_folder, model, tmp_path / "model", max_shard_size="30KB")
    made = prepared(folder, tmp_path / "out")
    assert made.files_rewritten == 2 and made.files_copied >= 1
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    total = 0
    for name in set(index["weight_map"].values()):
        same = (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()
        with safe_open(str(tmp_path / "out" / name), "pt") as stored:
            holds = {"model.embed_tokens.weight", "lm_head.weight"} & set(stored.keys())
            total += sum(stored.get_tensor(k).nbytes for k in stored.keys())  # noqa: SIM118
        assert same != bool(holds)
    assert index["metadata"]["total_size"] == total
    load(tmp_path / "out")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_dtype_stays(model_folder: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    resaved(model_folder, llama(400, tied=False).to(dtype), tmp_path / "model")
    prepared(tmp_path / "model", tmp_path / "out")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {dtype}
    mean = weights["lm_head.weight"][:400].double().mean(0).to(dtype)
    assert torch.equal(weights["lm_head.weight"][400], mean)


def test_bin_weights_become_safetensors(model_folder: Path, tmp_path: Path) -> None:
    folder = resaved(model_folder, llama(400, tied=False), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    prepared(folder, tmp_path / "out")
    assert not (tmp_path / "out/pytorch_model.bin").exists()
    new = load_file(tmp_path / "out/model.safetensors")
    assert all(torch.equal(new[key][: len(old)], old) for key, old in weights.items())


def test_the_rest_of_the_folder_comes_along(model_folder: Path, tmp_path: Path) -> None:
    folder = resaved(model_folder, llama(400, tied=True), tmp_path / "model")
    for name in ("LICENSE", "README.md", "optimizer.pt", "model.gguf"):
        (folder / name).write_text(name)
    (folder / ".git").mkdir()
    prepared(folder, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"LICENSE", "README.md", "generation_config.json", "chat_template.jinja"}
    assert not names & {"optimizer.pt", "model.gguf", ".git"}


@pytest.mark.processes
def test_no_more_than_a_shard_is_in_memory(model_folder: Path, tmp_path: Path) -> None:
    """Ten shards of 60 MB take little more memory than two do."""
    peaks = []
    for shards in (2, 10):
        folder = tmp_path / f"m{shards}"
        config = LlamaConfig(vocab_size=400, tie_word_embeddings=True, **SMALL)
        config.num_hidden_layers = 0
        with torch.device("meta"):
            keys = LlamaForCausalLM(config).state_dict()
        AutoTokenizer.from_pretrained(model_folder).save_pretrained(folder)
        config.save_pretrained(folder)
        weight_map = {}
        for k in range(shards):
            tensors = {f"model.spare.{k}.weight": torch.zeros(15_000_000)}
            if k == 0:
                own = {
                    name: torch.randn(t.shape) for name, t in keys.items() if "lm_head" not in name
                }
                tensors |= own
            save_file(tensors, folder / f"model-{k}.safetensors", {"format": "pt"})
            weight_map |= dict.fromkeys(tensors, f"model-{k}.safetensors")
        index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        code = (
            "import resource, sys; from pathlib import Path\n"
            "from pausedata.models.ref import ModelRef\n"
            "from pausedata.models.prepare import prepare_model\n"
            "m = ModelRef.parse(sys.argv[1], None, Path())\n"
            "prepare_model(m, Path(sys.argv[2]))\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(folder), str(tmp_path / f"out{shards}")],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    assert peaks[1] < peaks[0] + 120, peaks  # eight more shards are 480 MB


# What cannot be done, and says so


def test_what_is_there_is_not_touched(
    run: Callable[..., Run], model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    done = run("prepare-model", model_folder, tmp_path / "out")
    assert done.status == 2 and "is there already" in done.err
    assert (tmp_path / "out" / "mine").read_text() == "x"
    done = run("prepare-model", tmp_path / "none", tmp_path / "new")
    assert done.status == 2 and "none" in done.err


def test_quantised_weights_are_refused(model_folder: Path, tmp_path: Path) -> None:
    folder = resaved(model_folder, llama(400, tied=True), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    key = "model.layers.0.mlp.up_proj.weight"
    weights[key] = weights[key].to(torch.float8_e4m3fn)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match="quantised"):
        prepared(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_weights_are_an_error(model_folder: Path, tmp_path: Path) -> None:
    folder = resaved(model_folder, llama(400, tied=True), tmp_path / "model")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(DataError, match=r"model\.safetensors cannot be read"):
        prepared(folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.processes
def test_a_kill_leaves_no_half_model(model_folder: Path, tmp_path: Path) -> None:
    first = (
        "import os, signal\n"
        "import pausedata.models.prepare as p\n"
        "def killed(*args): os.kill(os.getpid(), signal.SIGKILL)\n"
        "p._write_config = killed\n"
    )
    words = ("prepare-model", model_folder, tmp_path / "out")
    process = start(*words, first=first)
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    process = start(*words)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    load(tmp_path / "out")


def test_an_adapter_is_merged_into_its_base(model_folder: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(model_folder),
        LoraConfig(target_modules=["q_proj"], init_lora_weights=False),
    )
    adapted.save_pretrained(str(tmp_path / "adapter"))
    made = prepared(tmp_path / "adapter", tmp_path / "out")
    assert made.id == 400
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        expected = adapted.eval()(ids).logits
        found = load(tmp_path / "out")(ids).logits[..., :400]
    assert torch.allclose(expected, found, atol=1e-4)


# The command


def test_it_says_what_it_did(run: Callable[..., Run], model_folder: Path, tmp_path: Path) -> None:
    done = run("prepare-model", model_folder, tmp_path / "out", "--multiple-of", "64")
    assert done.status == 0, done.err
    assert "[PAUSE] is id 400: new to the tokenizer" in done.out
    assert "448 rows (400 before), tied to the head" in done.out
    done = run("prepare-model", model_folder, tmp_path / "json", "--json")
    told = json.loads(done.out)
    assert told["id"] == 400 and told["was"] == "new" and told["rows"] == 401


@pytest.mark.model
def test_the_real_model_is_trained_on_an_export(tmp_path: Path, recipe: Recipe) -> None:
    """SmolLM2 from GGUF: the ids are those of an export made with the GGUF, and it trains."""
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    if not SMOLLM2.exists():
        pytest.skip("make model fetches it")
    recipe.data |= {"model": {"id": str(SMOLLM2)}, "scoring": None, "exports": {}}
    recipe.data["placements"] = {"dit": {"strategy": "random", "positions": 3}}
    recipe.data["exports"] = {"dit-tokenized": {"placement": "dit", "format": "tokenized"}}
    version = recipe.build().version
    made = prepared(SMOLLM2, tmp_path / "paused", multiple_of=64)
    assert made.id == open_version(version.root).manifest.pause.id == 49_152
    model = load(tmp_path / "paused")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "paused")
    lines = (version.folder / "exports/dit-tokenized/train.jsonl").read_text().splitlines()
    trainer = Trainer(
        model=model,
        args=TrainingArguments(str(tmp_path / "t"), max_steps=1, use_cpu=True, report_to=[]),
        train_dataset=[json.loads(line) for line in lines],
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )
    assert trainer.train().training_loss < 5
