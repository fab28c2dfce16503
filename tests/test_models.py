"""What `model.id` may be, what a manifest says of it, and how its hash is remembered."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from pausedata.core.errors import UnreachableError, UsageError
from pausedata.models.cache import load_tokenizer
from pausedata.models.gguf_header import read_gguf_header
from pausedata.models.ref import ModelRef, resolve_revision
from pausedata.models.shape import context_length, parameter_count
from pausedata.store import hashes

GGUF = Path(__file__).parent.parent / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
NO_CODE = {"trust_remote_code": False}
COMMIT = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
needs_gguf = pytest.mark.skipif(not GGUF.exists(), reason="models/ is empty: run `make model`")


def parse(id: str, base: Path, revision: str | None = None) -> ModelRef:
    return ModelRef.parse(id, revision, base)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with one small file of weights and a configuration."""
    model = tmp_path / "checkpoint"
    model.mkdir()
    config = {"model_type": "llama", "max_position_embeddings": 512, "vocab_size": 10}
    (model / "config.json").write_text(json.dumps(config))
    tensor = {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "w": tensor}).encode()
    blob = struct.pack("<Q", len(header)) + header + bytes(48)
    (model / "model.safetensors").write_bytes(blob)
    return model


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the hashes that the user's cache remembers."""
    monkeypatch.setenv("PAUSEDATA_CACHE", str(tmp_path / "cache"))
    forget(monkeypatch)
    return tmp_path / "cache" / "hashes.json"


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has just begun."""
    monkeypatch.setattr(hashes, "_seen", {})
    hashes._load.cache_clear()


def remembered(cache: Path) -> list[str]:
    """The hashes that the user's cache holds."""
    return [known["sha256"] for known in json.loads(cache.read_text()).values()]


def test_a_hub_id_is_an_organisation_and_a_name(tmp_path: Path) -> None:
    ref = parse("HuggingFaceTB/SmolLM2-135M", tmp_path, revision="main")
    assert (ref.kind, ref.name, ref.path) == ("hub", "HuggingFaceTB/SmolLM2-135M", None)
    assert ref.from_pretrained_args() == (ref.name, NO_CODE | {"revision": "main"})
    assert ref.identity() == {"id": ref.name, "revision": "main"}
    assert parse("gpt2", tmp_path).from_pretrained_args() == ("gpt2", NO_CODE)


def test_a_folder_is_named_by_its_base_name_and_ignores_the_revision(folder: Path) -> None:
    ref = parse("checkpoint", folder.parent, revision="main")
    assert (ref.kind, ref.name, ref.revision) == ("folder", "checkpoint", None)
    assert ref.from_pretrained_args() == (str(folder), NO_CODE)
    for spelling in ("./checkpoint", str(folder), "x/../checkpoint/"):
        assert parse(spelling, folder.parent) == ref
    assert parse(".", folder).name == "checkpoint"


def test_a_gguf_file_is_given_to_transformers_as_folder_and_file(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    ref = parse("tiny.gguf", tmp_path)
    assert (ref.kind, ref.name) == ("gguf", "tiny.gguf")
    assert ref.from_pretrained_args() == (str(tmp_path), NO_CODE | {"gguf_file": "tiny.gguf"})


@pytest.mark.parametrize(
    ("id", "message"),
    [
        ("models/x.gguf", "no such file: models/x.gguf.*`make model`"),
        ("chekpoint.gguf", "Did you mean 'checkpoint'"),
        ("./chekpoint", "no such folder: ./chekpoint. Did you mean 'checkpoint'"),
        ("./checkpoint/config.json", "is a file, but no .gguf"),
        ("https://huggingface.co/org/name", "Did you mean 'org/name'"),
        ("org/name@v1", "Did you mean 'org/name' with revision 'v1'"),
        ("org/name/model.safetensors", "Did you mean 'org/name'"),
        ("my model", "neither a Hub id"),
        (" ", "model.id is empty"),
    ],
)
def test_what_is_no_model_gets_a_hint(folder: Path, id: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse(id, folder.parent)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_without_configuration_says_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "notes.txt").touch()
    with pytest.raises(UsageError, match=r"no config.json, there are: 'notes.txt'"):
        parse("m", tmp_path)


def adapter_in(folder: Path, base: str, peft_type: str = "LORA", **more: str) -> Path:
    """An adapter's folder, as peft writes it but for the weights."""
    folder.mkdir()
    config = {"peft_type": peft_type, "base_model_name_or_path": base, "revision": None, "r": 2}
    (folder / "adapter_config.json").write_text(json.dumps(config | more))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


def test_an_adapter_is_a_model_on_the_base_that_it_names(folder: Path) -> None:
    here = folder.parent
    adapter = adapter_in(here / "lora", "checkpoint")  # relative to the current folder
    ref = parse("lora", here)
    assert (ref.kind, ref.name, ref.path) == ("adapter", "lora", adapter)
    assert ref.base == parse("checkpoint", here)
    adapter_in(here / "beside", "../checkpoint")  # relative to the adapter's
    adapter_in(here / "absolute", str(folder))
    for name in ("beside", "absolute"):
        assert parse(name, here / "elsewhere" / "..").base == ref.base
    assert ref.from_pretrained_args() == (str(folder), NO_CODE)
    assert context_length(ref) == 512
    assert parameter_count(ref) == 12
    on_hub = parse(str(adapter_in(here / "hub", "org/model", revision="v1")), here)
    assert on_hub.base == ModelRef("hub", "org/model", None, "v1")


def test_adapter_and_base_both_decide_the_hash_and_no_path_does(folder: Path) -> None:
    here = folder.parent
    adapter = adapter_in(here / "lora", "checkpoint")
    first = parse("lora", here).identity()
    assert set(first) == {"id", "weights_sha256", "base"}
    assert first["base"] == parse("checkpoint", here).identity()
    folder.rename(here / "moved")
    adapter_in(here / "other", str(here / "moved"))
    moved = parse("other", here).identity()
    assert moved["weights_sha256"] == first["weights_sha256"]
    assert str(here) not in json.dumps(moved)
    (adapter / "adapter_model.safetensors").write_bytes(b"other weights")
    (adapter / "adapter_config.json").write_text(
        (here / "other" / "adapter_config.json").read_text()
    )
    second = parse("lora", here).identity()
    (here / "moved" / "model.safetensors").write_bytes(b"other weights")
    third = parse("lora", here).identity()
    hashes = {identity["weights_sha256"] for identity in (first, second, third)}
    assert len(hashes) == 3


def test_an_adapter_without_a_tokenizer_has_its_bases(folder: Path) -> None:
    here = folder.parent
    (folder / "tokenizer.json").write_text("{}")
    adapter = adapter_in(here / "lora", "checkpoint")
    ref = parse("lora", here)
    assert ref.tokenizer_holder() == ref.base
    (adapter / "tokenizer.json").write_text("{}")
    assert ref.tokenizer_holder() == ModelRef("folder", "lora", adapter)


@pytest.mark.parametrize(
    ("base", "peft_type", "message"),
    [
        ("./gone/model", "LORA", "the base of this LoRA adapter is not here: ./gone/model. Set"),
        ("/gone/model", "LORA", "the base of this LoRA adapter is not here"),
        ("a/b/c", "LORA", "the base of this LoRA adapter is not here"),
        ("", "LORA", "names no base: set base_model_name_or_path"),
        ("checkpoint", "PROMPT_TUNING", "is not of a LoRA adapter .*PROMPT_TUNING.* Merge it"),
        ("inner", "LORA", "inner, is an adapter too"),
    ],
)
def test_an_adapter_that_cannot_be_used_says_why(
    folder: Path, base: str, peft_type: str, message: str
) -> None:
    adapter_in(folder.parent / "inner", "checkpoint")
    adapter_in(folder.parent / "lora", base, peft_type)
    with pytest.raises(UsageError, match=message):
        parse("lora", folder.parent)


def test_a_base_that_the_trainer_put_beside_the_adapter_makes_it_a_model(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    assert parse("checkpoint", folder.parent).kind == "folder"


def test_the_hash_of_a_folder_is_over_what_changes_scores(folder: Path) -> None:
    ref = parse("checkpoint", folder.parent)
    first = ref.identity()
    assert set(first) == {"id", "weights_sha256"} and len(first["weights_sha256"]) == 64
    (folder / "README.md").write_text("a card")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "training_args.bin").write_bytes(b"x")
    assert ref.identity() == first
    (folder / "model.safetensors").write_bytes(b"other weights")
    assert ref.identity() != first


def test_a_large_file_is_hashed_once(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "big.gguf"
    file.write_bytes(bytes(1 << 20))
    os.utime(file, (1_700_000_000, 1_700_000_000))
    digest = hashes.file_sha256(file)
    assert remembered(own_cache) == [digest]

    def never(path: Path) -> str:
        raise AssertionError(f"{path} was read again")

    with monkeypatch.context() as patch:
        patch.setattr(hashes, "_digest", never)
        assert hashes.file_sha256(file) == digest  # from this process
        forget(patch)
        assert hashes.file_sha256(file) == digest  # from the user's cache
    link = tmp_path / "the same.gguf"
    link.hardlink_to(file)
    with monkeypatch.context() as patch:
        patch.setattr(hashes, "_digest", never)
        assert hashes.file_sha256s([file, link], keep=True) == [digest, digest]
    file.write_bytes(b"1" * (1 << 20))
    assert hashes.file_sha256(file) != digest
    # Changed a moment ago: a further change might leave size and time as they are.
    assert remembered(own_cache) == [digest]


def test_a_broken_or_unwritable_memory_costs_only_time(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "big.gguf"
    file.write_bytes(bytes(1 << 20))
    os.utime(file, (1_700_000_000, 1_700_000_000))
    own_cache.parent.mkdir(parents=True)
    own_cache.write_text("not json")
    digest = hashes.file_sha256(file)
    assert remembered(own_cache) == [digest]
    forget(monkeypatch)
    monkeypatch.setenv("PAUSEDATA_CACHE", str(file))  # a file is where the folder should be
    assert hashes.file_sha256(file) == digest


def test_a_commit_or_a_path_needs_no_network(folder: Path) -> None:
    pinned = parse("org/name", folder.parent, revision=COMMIT)
    assert resolve_revision(pinned) is pinned
    local = parse("checkpoint", folder.parent)
    assert resolve_revision(local) is local


def test_a_branch_is_resolved_to_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub")

    class Info:
        sha = COMMIT

    monkeypatch.setattr(hub.HfApi, "model_info", lambda self, id, **_: Info())
    assert resolve_revision(parse("org/name", tmp_path)).revision == COMMIT


def test_without_a_network_the_error_says_to_pin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def fail(self: object, id: str, **_: object) -> None:
        raise ConnectionError("no route\nmore")

    monkeypatch.setattr(hub.HfApi, "model_info", fail)
    with pytest.raises(
        UnreachableError, match=r"no route\). Offline, set `model.revision` to a commit"
    ):
        resolve_revision(parse("org/name", tmp_path))


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        ("RepositoryNotFoundError", 404, "no such model on the Hub"),
        ("GatedRepoError", 403, "is gated: accept its terms"),
        ("RevisionNotFoundError", 404, "has no such revision"),
    ],
)
def test_what_the_hub_refuses_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str, status: int, message: str
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    kind = getattr(hub.errors, error)

    def fail(self: object, id: str, **_: object) -> None:
        raise kind.__new__(kind)  # its constructor wants a response of the HTTP library

    monkeypatch.setattr(hub.HfApi, "model_info", fail)
    with pytest.raises((UsageError, UnreachableError), match=message) as caught:
        resolve_revision(parse("org/name", tmp_path, revision="v1"))
    # A wrong name is the recipe's fault; a login that is missing is not.
    assert (caught.type is UnreachableError) == (error == "GatedRepoError")


def test_sizes_come_from_headers(folder: Path) -> None:
    ref = parse("checkpoint", folder.parent)
    assert parameter_count(ref) == 12
    assert context_length(ref) == 512


def test_a_context_length_that_is_a_default_comes_from_transformers(folder: Path) -> None:
    pytest.importorskip("transformers")
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    assert context_length(parse("checkpoint", folder.parent)) == 1024
    (folder / "config.json").write_text('{"model_type": "none-such"}')
    with pytest.raises(UsageError, match=r"checkpoint: its config\.json"):
        context_length(parse("checkpoint", folder.parent))


def test_a_folder_without_a_tokenizer_is_an_error(folder: Path) -> None:
    # transformers 5 would give an empty tokenizer for a qwen2 or gpt2 folder.
    with pytest.raises(UsageError, match="no tokenizer in the folder"):
        load_tokenizer(parse("checkpoint", folder.parent))


def test_a_file_that_is_no_gguf_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "page.gguf"
    file.write_bytes(b"<html>")
    with pytest.raises(UsageError, match="not a GGUF file"):
        read_gguf_header(file)
    file.write_bytes(b"GGUF\x03\x00\x00\x00\x01")
    with pytest.raises(UsageError, match="not a whole GGUF file"):
        read_gguf_header(file)


@needs_gguf
@pytest.mark.model
def test_the_header_of_the_real_model() -> None:
    ref = parse("models/SmolLM2-135M-Instruct.Q4_1.gguf", GGUF.parent.parent)
    assert context_length(ref) == 8192
    assert parameter_count(ref) == 134_515_008


def test_importing_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, pausedata.models.ref, pausedata.models.tokenizer, pausedata.models.tokens\n"
        "print([m for m in ('torch', 'transformers', 'tokenizers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
