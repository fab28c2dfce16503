"""Models that are converted once into a cache: GGUF files and adapters, and their tokenizers."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CHAT_TEMPLATE, PROBLEMS, SHARED, SMOLLM2, Recipe
from filelock import FileLock
from safetensors import safe_open
from test_adapter import TRAINED, train_adapter

from pausedata.core.cache import cache_folder
from pausedata.core.errors import UsageError
from pausedata.models import cache as model_cache
from pausedata.models import kept as kept_folders
from pausedata.models.cache import (
    cached_tokenizer,
    converted,
    folder_for_engine,
    load_tokenizer,
)
from pausedata.models.kept import NOTE
from pausedata.models.ref import ModelRef, read_tokenizer
from pausedata.models.tokenizer import Tokenizer
from pausedata.scorers import Example, load_scorer
from pausedata.store.dataset import open_version

gguf = pytest.importorskip("gguf")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

RELEASE = metadata.version("transformers")
EXAMPLES = [
    Example([5, 6, 7], np.array([8, 300, 399, 0], np.int32)),
    Example([9], np.array([10, 11, 12], np.int32)),
]
TEXTS = ["Tom has 3 apples.", " é 日本 🙂\n\n<|im_end|>", "", "<|im_start|>user\nHello"]


def write_gguf(model: Path, file: Path) -> Path:
    """The tiny Llama of `make_model` in a GGUF file, as llama.cpp's converter writes one."""
    from transformers import AutoModelForCausalLM

    config = json.loads((model / "config.json").read_text())
    backend = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    tokens = sorted(backend["vocab"], key=backend["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    control, normal = 3, 1
    writer.add_token_types([control if token.startswith("<|") else normal for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in backend["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_chat_template(CHAT_TEMPLATE)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    names = {
        "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
        "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    for key, tensor in loaded.state_dict().items():
        parts, values = key.split("."), tensor.numpy()
        if key == "lm_head.weight":  # tied
            continue
        if parts[1] == "layers":
            layer, name = parts[2], parts[-2]
            if name in heads:  # GGUF keeps the two halves that RoPE turns interleaved
                rows = values.reshape(heads[name], 2, -1, values.shape[1])
                values = rows.swapaxes(1, 2).reshape(values.shape)
            target = f"blk.{layer}.{names[name]}.weight"
        else:
            target = {"embed_tokens": "token_embd", "norm": "output_norm"}[parts[1]] + ".weight"
        writer.add_tensor(target, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture(scope="module")
def tiny_gguf(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    """The tiny model as a GGUF file."""
    file = write_gguf(model_folder, tmp_path_factory.mktemp("gguf") / "tiny.gguf")
    return ModelRef.parse(str(file), None, file.parent)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("PAUSEDATA_CACHE", str(folder))
    return folder


class Heard(list[str]):
    """A ``say`` that keeps what it was told."""

    def __call__(self, message: str) -> None:
        self.append(message)


def weights(where: str | Path, dtype: Any = None, **keywords: Any) -> dict[str, Any]:
    """A model's weights as transformers loads them."""
    from transformers import AutoModelForCausalLM

    dtype = dtype or torch.float32
    loaded: Any = AutoModelForCausalLM.from_pretrained(where, dtype=dtype, **keywords)
    return loaded.state_dict()


def same_weights(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether both have the same names, and bits."""
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def scores(scorer: Any, examples: list[Example] = EXAMPLES) -> list[Any]:
    """Log-probabilities, ranks and entropies as lists of numbers, to the last bit."""
    return [
        [s.logprob.tolist(), s.rank.tolist(), s.entropy.tolist()] for s in scorer.score(examples)
    ]


def load(ref: ModelRef, **settings: Any) -> Any:
    """The model's scorer as a command loads it."""
    return load_scorer("transformers", ref, device="cpu", **settings)


def load_past_the_cache(ref: ModelRef) -> Any:
    """The model's scorer, its weights from where ``ref`` is."""
    from pausedata.models.load import load_model
    from pausedata.scorers.transformers import TransformersScorer

    return TransformersScorer(load_model(ref, torch.float32, torch.device("cpu")), 512)


def kept(cache: Path, kind: str) -> list[str]:
    """The names of all that the cache holds, half-made ones too, but for locks."""
    return sorted(p.name for p in (cache / kind).glob("*") if p.suffix != ".lock")


def never(*args: Any, **keywords: Any) -> Any:
    raise AssertionError("made again")


# --- where it is ---


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"PAUSEDATA_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"PAUSEDATA_CACHE": "~/mine", "HOME": "/c"}, "/c/mine"),
        ({"PAUSEDATA_CACHE": "", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/pausedata"),
        ({"XDG_CACHE_HOME": "", "HOME": "/c"}, "/c/.cache/pausedata"),
    ],
)
def test_the_cache_is_where_the_environment_says(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PAUSEDATA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)


def test_no_test_uses_the_cache_of_the_person_who_runs_it() -> None:
    assert cache_folder().name.startswith("pausedata-tests-")


# --- a GGUF file ---


def test_a_gguf_model_becomes_a_folder_of_plain_float32_weights(
    tiny_gguf: ModelRef, model_folder: Path, cache: Path
) -> None:
    assert tiny_gguf.path is not None
    folder = converted(tiny_gguf)
    sha256 = hashlib.sha256(tiny_gguf.path.read_bytes()).hexdigest()
    assert folder == cache / "models" / f"{sha256}-transformers-{RELEASE}"
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert config["dtype"] == "float32"
    assert "quantization_config" not in config
    assert same_weights(weights(folder), weights(model_folder))
    note = json.loads((folder / NOTE).read_text())
    assert note["made_from"] == {
        "id": "tiny.gguf", "weights_sha256": sha256, "transformers": RELEASE,
    }  # fmt: skip
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(note["files"])
    text = "".join(p.read_text(encoding="utf-8") for p in folder.glob("*.json"))
    assert str(cache) not in text
    assert str(tiny_gguf.path.parent) not in text


def test_what_was_converted_is_not_converted_again(
    tiny_gguf: ModelRef, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    heard = Heard()
    folder = converted(tiny_gguf, heard)
    [message] = heard
    assert "converting tiny.gguf once into the cache" in message
    assert str(cache) in message
    monkeypatch.setattr(kept_folders, "_make", never)
    assert converted(tiny_gguf, heard) == folder
    assert len(heard) == 1
    assert tiny_gguf.path is not None
    copy = shutil.copy(tiny_gguf.path, tmp_path / "renamed.gguf")  # the bytes decide
    assert converted(ModelRef.parse(str(copy), None, tmp_path)) == folder


def test_a_later_transformers_converts_anew(
    tiny_gguf: ModelRef, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted(tiny_gguf)
    monkeypatch.setattr(model_cache.metadata, "version", lambda name: "99.0")
    assert converted(tiny_gguf).name.endswith("-transformers-99.0")
    assert len(kept(cache, "models")) == 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_and_scores_through_the_cache_are_those_of_the_file_itself(
    dtype: str, tiny_gguf: ModelRef, cache: Path
) -> None:
    where, keywords = tiny_gguf.from_pretrained_args()
    kind = getattr(torch, dtype)
    own = weights(where, kind, **keywords)
    assert same_weights(weights(converted(tiny_gguf), kind), own)
    if dtype == "float32":
        assert scores(load(tiny_gguf)) == scores(load_past_the_cache(tiny_gguf))


def test_a_build_names_the_original_and_scores_alike_with_and_without_a_cache(
    tiny_gguf: ModelRef, cache: Path, recipe: Recipe, tmp_path: Path, monkeypatch: Any
) -> None:
    assert tiny_gguf.path is not None
    recipe.data["model"]["id"] = str(tiny_gguf.path)
    found = []
    (tmp_path / "file").touch()
    for name, folder in [("cold", cache), ("warm", cache), ("without", tmp_path / "file")]:
        monkeypatch.setenv("PAUSEDATA_CACHE", str(folder))
        recipe.out = tmp_path / name
        recipe.build()
        entry = open_version(recipe.out).manifest.tables["scores/base"]
        assert entry.provenance["model"] == tiny_gguf.identity()
        found.append(entry.content)
    assert found[0] == found[1] == found[2]
    assert len(kept(cache, "models")) == len(kept(cache, "tokenizers")) == 1


# --- its tokenizer ---


def assert_alike(one: Tokenizer, other: Tokenizer) -> None:
    assert one.hash() == other.hash()
    assert one.hf.chat_template == other.hf.chat_template
    assert one.hf.special_tokens_map == other.hf.special_tokens_map
    assert (one.eos_id, one.prefix_ids, one.suffix_ids) == (
        other.eos_id, other.prefix_ids, other.suffix_ids,
    )  # fmt: skip
    assert one.turn_end_ids() == other.turn_end_ids()
    assert one.vocab() == other.vocab()
    for text in TEXTS:
        assert one.hf(text)["input_ids"] == other.hf(text)["input_ids"]


def test_a_tokenizer_from_the_cache_is_that_of_the_file(tiny_gguf: ModelRef, cache: Path) -> None:
    own = Tokenizer(read_tokenizer(tiny_gguf))
    assert own.eos_id == 0
    for _ in range(2):  # made, then found
        assert_alike(Tokenizer(load_tokenizer(tiny_gguf)), own)
    assert len(kept(cache, "tokenizers")) == 1


def test_the_file_s_tokenizer_is_read_once(
    tiny_gguf: ModelRef, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    plain = read_tokenizer

    def watched(ref: ModelRef) -> Any:
        read.append(ref.kind)
        return plain(ref)

    monkeypatch.setattr(model_cache, "read_tokenizer", watched)
    for _ in range(3):
        load_tokenizer(tiny_gguf)
    converted(tiny_gguf)
    assert read.count("gguf") == 1


def test_a_tokenizer_that_would_not_come_back_the_same_is_not_kept(
    tiny_gguf: ModelRef, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Tokenizer(read_tokenizer(tiny_gguf))
    save = type(own.hf).save_pretrained

    def lossy(self: Any, folder: Any, **keywords: Any) -> Any:
        saved = save(self, folder, **keywords)
        (Path(folder) / "chat_template.jinja").write_text("another")
        return saved

    monkeypatch.setattr(type(own.hf), "save_pretrained", lossy)
    assert load_tokenizer(tiny_gguf).chat_template == CHAT_TEMPLATE
    assert kept(cache, "tokenizers") == []
    assert not (converted(tiny_gguf) / "tokenizer.json").exists()


# --- an adapter, and what needs no conversion ---


@pytest.mark.parametrize("trained", ["no_new_token", "resized", "head", "embedding_and_head"])
def test_an_adapter_is_merged_into_its_base(
    trained: str, model_folder: Path, cache: Path, tmp_path: Path
) -> None:
    train_adapter(model_folder, tmp_path / "adapter", **TRAINED[trained])
    ref = ModelRef.parse("adapter", None, tmp_path)
    folder = converted(ref)
    assert folder.name == f"{ref.identity()['weights_sha256']}-transformers-{RELEASE}"
    note = json.loads((folder / NOTE).read_text())
    assert note["made_from"] == ref.identity() | {"transformers": RELEASE}
    plain = ModelRef.parse(str(folder), None, tmp_path)
    assert scores(load(plain)) == scores(load(ref))
    assert len(load_tokenizer(plain)) == len(load_tokenizer(ref))
    # vLLM takes the embedding for the head where the configuration says so, whatever is stored.
    with safe_open(folder / "model.safetensors", "pt") as file:
        has_head = "lm_head.weight" in file.keys()  # noqa: SIM118 (it is no dictionary)
    tied = json.loads((folder / "config.json").read_text())["tie_word_embeddings"]
    assert tied is not has_head
    assert has_head or trained != "head"


def test_a_head_of_its_own_is_kept_where_the_configuration_still_says_that_it_is_tied(
    tiny_gguf: ModelRef, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pausedata.models import load as backend

    plain = backend.load_model

    def untied(*args: Any) -> Any:
        model = plain(*args)
        other = model.get_input_embeddings().weight.detach() + 1
        model.get_output_embeddings().weight = torch.nn.Parameter(other)
        assert model.config.tie_word_embeddings
        return model

    monkeypatch.setattr(backend, "load_model", untied)
    folder = converted(tiny_gguf)
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False
    found = weights(folder)
    assert torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"] + 1)


def test_an_adapter_on_a_gguf_file_is_merged_into_its_conversion(
    tiny_gguf: ModelRef, model_folder: Path, cache: Path, tmp_path: Path
) -> None:
    train_adapter(model_folder, tmp_path / "adapter")
    on_folder = ModelRef.parse("adapter", None, tmp_path)
    expected = scores(load(on_folder))
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(tiny_gguf.path)
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    ref = ModelRef.parse("adapter", None, tmp_path)
    assert ref.base is not None
    assert ref.base.kind == "gguf"
    plain = ModelRef.parse(str(converted(ref)), None, tmp_path)
    assert scores(load(plain)) == scores(load(ref))
    # The file keeps rms_norm_eps as a float32: the last bits differ from the folder's.
    for one, other in zip(scores(load(ref)), expected, strict=True):
        np.testing.assert_allclose(one[0], other[0], atol=1e-4)
    assert len(kept(cache, "models")) == 2


def test_an_adapter_s_base_on_the_hub_is_pinned_before_anything_is_named_after_it(
    model_folder: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_adapter(model_folder, tmp_path / "adapter")
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = "org/base"
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    ref = ModelRef.parse("adapter", None, tmp_path)
    commits = []

    def pinned(base: ModelRef) -> ModelRef:
        assert (base.name, base.revision) == ("org/base", None)
        return replace(base, revision=commits[-1])

    def from_the_hub(where: str, **keywords: Any) -> Any:
        if where != "org/base":
            return load_pretrained(where, **keywords)
        assert keywords.pop("revision") == commits[-1]
        return load_pretrained(str(model_folder), **keywords)

    auto = transformers.AutoModelForCausalLM
    load_pretrained = auto.from_pretrained
    monkeypatch.setattr(model_cache, "resolve_revision", pinned)
    monkeypatch.setattr(auto, "from_pretrained", from_the_hub)
    for commit in ("a" * 40, "b" * 40):
        commits.append(commit)
        note = json.loads((converted(ref) / NOTE).read_text())
        assert note["made_from"]["base"] == {"id": "org/base", "revision": commit}
    assert len(kept(cache, "models")) == 2


def test_an_engine_is_given_a_hub_id_or_a_folder_that_it_can_read(
    tiny_gguf: ModelRef, model_folder: Path, cache: Path
) -> None:
    hub = ModelRef("hub", "org/name", None, "f" * 40)
    assert folder_for_engine(hub) == ("org/name", "f" * 40)
    folder = ModelRef.parse(str(model_folder), None, model_folder)
    assert folder_for_engine(folder) == (str(model_folder), None)
    assert not cache.exists()
    assert folder_for_engine(tiny_gguf) == (str(converted(tiny_gguf)), None)
    with pytest.raises(ValueError, match="org/name"):
        converted(hub)


# --- where the cache cannot take it ---

# Embedding, two layers of attention (2 heads, 1 of keys and values), MLP and norms, a last norm.
PARAMETERS = 400 * 32 + 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32 + 2 * 32) + 32


@pytest.mark.parametrize("missing", [0, 1])
def test_there_must_be_room_for_every_weight_in_four_bytes(
    missing: int, tiny_gguf: ModelRef, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_tokenizer(tiny_gguf)
    free = 4 * PARAMETERS + (64 << 20) - missing
    usage = shutil.disk_usage(cache)._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    if not missing:
        assert converted(tiny_gguf).is_dir()
        return
    with pytest.raises(UsageError, match=r"takes 0\.1 GB, .* free in .*set PAUSEDATA_CACHE"):
        converted(tiny_gguf)
    assert kept(cache, "models") == []


def in_the_way(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.write_text("a file where the folder should be")


def no_room(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir()
    usage = shutil.disk_usage(cache)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)


def disk_full(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    def full(self: Any, folder: Any, **keywords: Any) -> None:
        (Path(folder) / "part").write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", full)


def no_locks(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pausedata.store import read_locks

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(read_locks.fcntl, "flock", refuse)


@pytest.mark.parametrize("why", [in_the_way, no_room, disk_full, no_locks])
def test_without_a_cache_transformers_goes_on_and_an_engine_cannot(
    why: Callable[..., None], tiny_gguf: ModelRef, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Tokenizer(read_tokenizer(tiny_gguf))
    expected = scores(load_past_the_cache(tiny_gguf))
    why(cache, monkeypatch)
    assert_alike(Tokenizer(load_tokenizer(tiny_gguf)), own)
    heard = Heard()
    assert scores(load(tiny_gguf, say=heard)) == expected
    assert "tiny.gguf is converted at every start" in heard[-1]
    with pytest.raises(UsageError, match="PAUSEDATA_CACHE") as error:
        folder_for_engine(tiny_gguf)
    assert str(cache) in str(error.value)
    assert "\n" not in str(error.value)
    if cache.is_dir():
        assert kept(cache, "models") == kept(cache, "tokenizers") == []


def test_a_file_that_is_no_model_is_no_fault_of_the_cache(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "page.gguf").write_text("<html>")
    ref = ModelRef.parse("page.gguf", None, tmp_path)
    with pytest.raises(UsageError, match=r"page\.gguf: not a GGUF file"):
        converted(ref)


# --- damage, kills, two at once ---


def lose_a_file(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def cut_a_file(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 1000)


def lose_the_note(folder: Path) -> None:
    (folder / NOTE).unlink()


def spoil_the_note(folder: Path) -> None:
    (folder / NOTE).write_text("[]")


def write_as_another_release(folder: Path) -> None:
    note = json.loads((folder / NOTE).read_text())
    (folder / NOTE).write_text(json.dumps(note | {"format": "pausedata-cache/0"}))


@pytest.mark.parametrize(
    "damage",
    [lose_a_file, cut_a_file, lose_the_note, spoil_the_note, write_as_another_release],
)
def test_what_is_damaged_is_made_again(
    damage: Callable[[Path], None], tiny_gguf: ModelRef, model_folder: Path, cache: Path
) -> None:
    folder = converted(tiny_gguf)
    damage(folder)
    heard = Heard()
    assert converted(tiny_gguf, heard) == folder
    assert "converting" in heard[0]
    assert same_weights(weights(folder), weights(model_folder))
    assert kept(cache, "models") == [folder.name]


def start(ref: ModelRef, code: str) -> subprocess.Popen[str]:
    """A process that runs ``code`` and then converts the model, saying what it hears."""
    program = (
        "import sys, time\nfrom pathlib import Path\n"
        "from pausedata.models import cache as model_cache, kept\n"
        "from pausedata.models.ref import ModelRef\n"
        "def say(text): print(text, flush=True)\n"
        f"{code}\n"
        "ref = ModelRef.parse(sys.argv[1], None, Path.cwd())\n"
        "say(model_cache.converted(ref, say))"
    )
    command = [sys.executable, "-c", program, str(ref.path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def read_until(process: subprocess.Popen[str], words: str) -> None:
    """Read what ``process`` prints up to a line with ``words``."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if words in line:
            return
    raise AssertionError(f"'{words}' never came: {seen}")


@pytest.mark.processes
@pytest.mark.parametrize(
    ("stage", "whole"),
    [("model_cache.save_tokenizer", False), ("kept.sync_tree", False), ("kept.sync", True)],
)
def test_a_kill_leaves_nothing_that_is_taken_for_whole(
    stage: str, whole: bool, tiny_gguf: ModelRef, model_folder: Path, cache: Path
) -> None:
    load_tokenizer(tiny_gguf)
    held = (
        f"plain = {stage}\n"
        "def held(*args):\n"
        "    done = plain(*args)\n"
        "    say('here')\n"
        "    time.sleep(600)\n"
        f"{stage} = held"
    )
    process = start(tiny_gguf, held)
    try:
        read_until(process, "here")
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    [left] = kept(cache, "models")
    assert left.startswith(".") is not whole
    heard = Heard()
    folder = converted(tiny_gguf, heard)
    assert len(heard) == (0 if whole else 1)  # nor is a dead process's lock waited for
    assert kept(cache, "models") == [folder.name]
    assert same_weights(weights(folder), weights(model_folder))


def test_what_a_killed_conversion_of_another_model_left_is_deleted_and_a_live_one_is_not(
    tiny_gguf: ModelRef, cache: Path
) -> None:
    for name in ("dead", "live"):
        left = cache / "models" / f".{name}-transformers-1.0.tmp"
        left.mkdir(parents=True)
        (left / "model.safetensors").write_bytes(b"half of it")
    with FileLock(cache / "models" / ".live-transformers-1.0.lock"):
        folder = converted(tiny_gguf)
    assert kept(cache, "models") == [".live-transformers-1.0.tmp", folder.name]


@pytest.mark.processes
def test_a_second_process_waits_and_takes_what_the_first_made(
    tiny_gguf: ModelRef, model_folder: Path, cache: Path, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    held = (
        "plain = model_cache.save_tokenizer\n"
        "def held(*args):\n"
        "    say('here')\n"
        f"    while not Path({str(go)!r}).exists(): time.sleep(0.01)\n"
        "    return plain(*args)\n"
        "model_cache.save_tokenizer = held"
    )
    load_tokenizer(tiny_gguf)
    first = start(tiny_gguf, held)
    second = None
    try:
        read_until(first, "here")
        second = start(tiny_gguf, "model_cache._save_model = None  # it makes nothing itself")
        read_until(second, "another process is converting tiny.gguf")
        [made] = kept(cache, "models")
        assert made.startswith(".")
        go.touch()
        printed = [process.communicate()[0].splitlines()[-1] for process in (first, second)]
    finally:
        for process in (first, second):
            if process is not None:
                process.kill()
                process.wait()
    folder = converted(tiny_gguf)
    assert printed == [str(folder), str(folder)]
    assert kept(cache, "models") == [folder.name]
    assert same_weights(weights(folder), weights(model_folder))


# --- the real model, in the session's cache ---


@pytest.fixture(scope="module")
def smollm2() -> ModelRef:
    if not SMOLLM2.exists():
        pytest.skip("models/ is empty: run `make model`")
    return ModelRef.parse(str(SMOLLM2), None, SMOLLM2.parent)


@pytest.mark.model
def test_the_real_tokenizer_from_the_cache_is_that_of_the_file(smollm2: ModelRef) -> None:
    own = Tokenizer(read_tokenizer(smollm2))
    for _ in range(2):
        again = Tokenizer(cached_tokenizer(smollm2))
        assert_alike(again, own)
        messages = [{"role": "user", "content": "How many?"}]
        assert again.chat(messages) == own.chat(messages)
    rows = real_rows()
    assert rows
    for row in rows:
        text = f"Question: {row['question']}\nAnswer: {row['answer']}"
        assert again.hf(text)["input_ids"] == own.hf(text)["input_ids"]


def real_rows() -> list[dict[str, Any]]:
    """Rows of GSM8K where they are at hand, else of the word problems."""
    shared = SHARED / "gsm8k_train.jsonl"
    file = shared if shared.is_file() else PROBLEMS
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[:8]]


@pytest.mark.model
def test_the_real_model_through_the_cache_is_that_of_the_file_to_the_last_bit(
    smollm2: ModelRef,
) -> None:
    tokenizer = Tokenizer(cached_tokenizer(smollm2))
    examples = []
    for row in real_rows():
        prompt = tokenizer.hf(f"Question: {row['question']}\nAnswer:")["input_ids"]
        response = tokenizer.hf(f" {row['answer']}")["input_ids"]
        examples.append(Example(prompt, np.asarray(response, np.int32)))
    own, cached = load_past_the_cache(smollm2), load(smollm2)
    assert same_weights(cached.model.state_dict(), own.model.state_dict())
    assert (cached.head, cached.context_length) == (own.head, own.context_length) == (
        "linear", 8192,
    )  # fmt: skip
    assert scores(cached, examples) == scores(own, examples)
