"""Memory that scoring takes, told and checked before anything is loaded."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SMOLLM2, Recipe, Run

from pausedata.core.errors import UsageError
from pausedata.core.system_memory import available
from pausedata.models.ref import ModelRef
from pausedata.models.shape import Shape, model_shape
from pausedata.pipeline.recipe import Scoring
from pausedata.pipeline.runs import RunSpec
from pausedata.scorers import devices, installed, memory
from pausedata.scorers.devices import Gpu

Command = Callable[..., Run]
GIB, MIB = 2**30, 2**20

# A Llama of 8 billion weights, without a weight of it.
LLAMA_8B = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
WEIGHTS_8B = 8_030_261_248


def model(folder: Path, config: dict[str, Any], parameters: int = WEIGHTS_8B) -> ModelRef:
    """A folder that holds a configuration and the header of the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    header = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            "a": {"dtype": "BF16", "shape": [parameters - 10], "data_offsets": [0, 0]},
            "b": {"dtype": "BF16", "shape": [5, 2], "data_offsets": [0, 0]},
        }
    ).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return ModelRef.parse(str(folder), None, folder)


def run_of(ref: ModelRef, backend: str, dtype: str = "bfloat16", **scoring: Any) -> RunSpec:
    return RunSpec("base", ref, dtype, backend, Scoring(**scoring))


def layout(spec: RunSpec) -> memory.DeviceLayout:
    return memory.layout(spec.backend, spec.job(2048))


def expected_or_none(spec: RunSpec, longest: int = 2048) -> memory.Memory | None:
    return memory.expected(spec.backend, spec.job(longest), layout(spec))


def expected(spec: RunSpec, longest: int = 2048) -> memory.Memory:
    found = expected_or_none(spec, longest)
    assert found is not None
    return found


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 24 GiB, no GPU and no vLLM, whatever this one has."""
    monkeypatch.setattr(installed, "find_vllm", lambda: None)
    monkeypatch.setattr(devices, "visible_gpus", list)
    monkeypatch.setattr(memory, "available", lambda: 24 * GIB)


def with_gpus(patch: pytest.MonkeyPatch, *sizes: int | None) -> None:
    gpus = [Gpu(k, str(k), "GPU", size) for k, size in enumerate(sizes)]
    patch.setattr(devices, "visible_gpus", lambda: gpus)
    patch.setattr(memory, "_torch_is_for_cpus", lambda: False)


def test_sizes_are_read_from_headers_and_configuration(tmp_path: Path) -> None:
    ref = model(tmp_path / "llama", LLAMA_8B)
    # Keys and values: 8 heads of 4096 / 32 numbers each, in 32 layers.
    kv = 2 * 8 * 128 * 32
    assert model_shape(ref) == Shape(WEIGHTS_8B, 128256, 4096, 14336, kv, 32, certain=True)
    gpt2 = {"vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12}
    assert model_shape(model(tmp_path / "gpt2", gpt2, 124_439_808)) == Shape(
        124_439_808, 50257, 768, 4 * 768, 2 * 768 * 12, 12, certain=True
    )


def test_what_a_model_holds_otherwise_than_it_is_counted_is_not_certain(tmp_path: Path) -> None:
    quantised = LLAMA_8B | {"quantization_config": {"quant_method": "fp8"}}
    # A model of text and images, of which the text alone may be loaded.
    pictures = {"model_type": "both", "text_config": LLAMA_8B, "vision_config": {}}
    for config in (quantised, pictures):
        found = model_shape(model(tmp_path / "other", config))
        assert found is not None and found.vocabulary == 128256 and not found.certain


def test_a_configuration_that_says_too_little_gives_nothing(tmp_path: Path) -> None:
    ref = model(tmp_path / "mamba", {"vocab_size": 50277, "d_inner": 1536})
    assert model_shape(ref) is None
    spec = run_of(ref, "transformers")
    assert expected_or_none(spec) is None
    spec.check_memory(2048)
    assert model_shape(ModelRef("hub", "org/not-in-the-cache")) is None


@pytest.mark.skipif(not SMOLLM2.exists(), reason="make model fetches it")
def test_sizes_of_a_gguf_file_are_those_of_the_model_in_it() -> None:
    # From SmolLM2-135M's config.json: 30 layers, 3 key-value heads of 64, hidden 576.
    assert model_shape(ModelRef.parse(str(SMOLLM2), None, Path())) == Shape(
        134_515_008, 49152, 576, 1536, 2 * 30 * 3 * 64, 30, certain=True
    )


def test_on_a_cpu_transformers_holds_weights_a_head_and_a_block_of_logits(tmp_path: Path) -> None:
    ref = model(tmp_path / "llama", LLAMA_8B)
    half = expected(run_of(ref, "transformers"))
    assert half.parts["weights"] == 2 * WEIGHTS_8B
    assert half.parts["output head"] == 4 * 128256 * 4096  # a copy in float32
    rows = 16 * MIB // (4 * 128256)
    assert half.parts["logits"] == 2 * rows * 4 * 128256
    whole = expected(run_of(ref, "transformers", "float32"))
    assert whole.parts["weights"] == 4 * WEIGHTS_8B
    assert whole.parts["output head"] == 0  # 2 GiB: too large to be packed, and float32 as it is
    assert whole.total == sum(whole.parts.values())


def test_a_batch_or_an_example_that_is_longer_takes_its_activations(tmp_path: Path) -> None:
    ref = model(tmp_path / "llama", LLAMA_8B)
    row = 2 * (8 * 4096 + 3 * 14336)
    of = [
        expected(run_of(ref, "transformers", batch_tokens=tokens), longest).parts["activations"]
        for tokens, longest in ((None, 100), (4096, 100), (4096, 8192))
    ]
    assert of == [512 * row, 4096 * row, 8192 * row]


def test_the_head_is_the_one_that_the_scorer_makes(model_folder: Path) -> None:
    """The scorer itself is asked: the part of the estimate that rests on how it works inside."""
    import torch

    from pausedata.scorers import load_scorer

    ref = ModelRef.parse(str(model_folder), None, Path())
    for dtype in ("float32", "bfloat16"):
        scorer: Any = load_scorer("transformers", ref, dtype=dtype, device="cpu")
        head = scorer._head
        packed = getattr(head._packed, "_weight", None)
        own = scorer.model.get_output_embeddings().weight
        copied = 0
        if packed is not None:
            copied = 4 * np.prod(packed.shape)
        elif head._weight.data_ptr() != own.data_ptr():
            copied = head._weight.nbytes
        if dtype == "float32" and packed is None:
            continue  # a torch that cannot pack
        spec = run_of(ref, "transformers", dtype, device="cpu")
        assert expected(spec).parts["output head"] == copied
        weights = sum(p.nbytes for p in scorer.model.parameters())
        assert expected(spec).parts["weights"] == weights
        assert own.dtype == getattr(torch, dtype)


def test_vllm_cuts_weights_over_the_gpus_of_an_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = model(tmp_path / "llama", LLAMA_8B)
    with_gpus(monkeypatch, *[80 * GIB] * 4)
    alone = expected(run_of(ref, "vllm"))
    engine = {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}
    cut = expected(run_of(ref, "vllm", engine=engine | {"max_num_batched_tokens": 2048}))
    assert alone.parts["weights"] == 2 * WEIGHTS_8B
    assert cut.parts["weights"] == 2 * WEIGHTS_8B // 4
    assert cut.parts["logits"] == 3 * 2048 * 128256 * 4
    # Of a batch, and of one prompt more: keys and values of 2 bytes.
    assert cut.parts["KV cache in use"] == 2 * (2 * 8 * 128 * 32) * (2048 + 2048) // 4
    assert alone.there == cut.there == round(0.92 * 80 * GIB)
    less = run_of(ref, "vllm", engine={"gpu_memory_utilization": 0.5})
    assert expected(less).there == 40 * GIB


def test_engines_on_a_cpu_share_its_memory(tmp_path: Path) -> None:
    ref = model(tmp_path / "llama", LLAMA_8B)
    one, two = expected(run_of(ref, "vllm")), expected(run_of(ref, "vllm", engines=2))
    assert two.total == 2 * one.total
    assert one.there == two.there == 24 * GIB
    run_of(ref, "vllm").check_memory(2048)
    with pytest.raises(UsageError, match=r"29\.9 GiB .* 24\.0 GiB are free .* for 2 engines"):
        run_of(ref, "vllm", engines=2).check_memory(2048)


def test_a_model_that_cannot_fit_is_an_error_with_both_sizes(tmp_path: Path) -> None:
    ref = model(tmp_path / "llama", LLAMA_8B)
    run_of(ref, "transformers").check_memory(2048)  # 15 GiB
    with pytest.raises(UsageError) as error:
        run_of(ref, "transformers", "float32").check_memory(2048)
    assert str(error.value) == (
        "llama does not fit: its weights alone take 29.9 GiB in float32, and 24.0 GiB are free on "
        "this machine. Try `model.dtype: bfloat16`, a smaller model or another `scoring.device`."
    )


def test_on_gpus_the_largest_of_them_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = model(tmp_path / "llama", LLAMA_8B)
    with_gpus(monkeypatch, 12 * GIB, 15 * GIB)
    with pytest.raises(UsageError, match=r"take 15\.0 GiB in bfloat16, and 13\.8 GiB are on a GPU"):
        run_of(ref, "vllm").check_memory(2048)
    with pytest.raises(UsageError, match=r"`engine\.tensor_parallel_size`, to cut it over"):
        run_of(ref, "vllm").check_memory(2048)
    run_of(ref, "vllm", engine={"tensor_parallel_size": 2}).check_memory(2048)
    # It might be the other one that CUDA calls by this number.
    with_gpus(monkeypatch, 12 * GIB, 24 * GIB)
    run_of(ref, "vllm", device="cuda:0").check_memory(2048)


def test_what_is_not_certain_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = model(tmp_path / "llama", LLAMA_8B)
    fp8 = model(tmp_path / "fp8", LLAMA_8B | {"quantization_config": {"quant_method": "fp8"}})
    with_gpus(monkeypatch, 12 * GIB)
    run_of(fp8, "vllm").check_memory(2048)
    run_of(ref, "vllm", engine={"quantization": "fp8"}).check_memory(2048)
    run_of(ref, "vllm", engine={"cpu_offload_gb": 20}).check_memory(2048)
    with_gpus(monkeypatch, None)  # it shares the machine's memory
    run_of(ref, "vllm").check_memory(2048)
    monkeypatch.setattr(devices, "visible_gpus", list)
    monkeypatch.setattr(memory, "available", lambda: None)
    run_of(ref, "transformers", "float32").check_memory(2048)


def test_a_servers_memory_is_its_own(tmp_path: Path) -> None:
    spec = run_of(model(tmp_path / "llama", LLAMA_8B), "server", "float32")
    place = layout(spec)
    assert (place.kind, place.names) == ("server", ["the server's"])
    assert expected_or_none(spec) is None
    spec.check_memory(2048)


def test_transformers_takes_one_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = model(tmp_path / "llama", LLAMA_8B)
    with_gpus(monkeypatch, 40 * GIB, 20 * GIB)
    for device, label, there in (
        ("auto", "cuda:0 (GPU, 40.0 GiB)", 40 * GIB),
        ("cuda:1", "cuda:1 (GPU, 20.0 GiB)", 20 * GIB),
        ("cpu", "cpu", 24 * GIB),
        ("mps", "mps", None),
    ):
        place = layout(run_of(ref, "transformers", device=device))
        assert (place.names, place.there, place.engines) == ([label], there, 1)
    assert expected(run_of(ref, "transformers")).parts["output head"] == 0


def test_memory_that_can_be_had_is_what_the_machine_has_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    psutil = pytest.importorskip("psutil")
    found = available()
    assert found is not None
    assert 0 < found <= psutil.virtual_memory().total + psutil.swap_memory().total
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "")  # no /proc: another system
    assert 0 < (available() or 0) <= psutil.virtual_memory().total * 2


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 1 KiB."""
    monkeypatch.setattr(memory, "available", lambda: 1024)


def test_scoring_stops_before_the_model_is_loaded(
    built: Recipe, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch)
    again = [built.out, "--run", "again", "--model", built.data["model"]["id"]]
    for words in (["score", *again], ["score", *again, "--dry-run"]):
        ended = run(*words)
        assert ended.status == 2 and "tiny does not fit: its weights alone take" in ended.err
        assert "loading" not in ended.err and len(ended.err.strip().splitlines()) <= 3
    # Where all is scored, or every score is carried over, no room for the model is needed.
    for words in ([], ["--limit", "8", "--replace"]):
        for command in ("plan", "build"):
            assert run(command, built.path, "--output", built.out, *words).status == 0
    fresh = built.folder / "fresh"
    assert run("plan", built.path, "--output", fresh).status == 2
    ended = run("build", built.path, "--output", fresh)
    assert ended.status == 2 and "does not fit" in ended.err and "loading" not in ended.err


def test_a_dry_run_tells_units_batches_devices_and_memory(
    recipe: Recipe, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = recipe.build().version.table("tokens")
    words = ["score", recipe.out, "--run", "again", "--model", recipe.data["model"]["id"]]
    words += ["--batch-tokens", 100, "--device", "cpu", "--dry-run"]
    told = json.loads(run(*words, "--json").out)
    rows = [row for shard in made.shards for row in made.read(shard).to_pylist()]
    total = sum(len(row["prompt_ids"]) + len(row["response_ids"]) for row in rows)
    (forecast,) = told["runs"]
    parts = forecast.pop("memory")
    assert forecast == {
        "run": "again",
        "backend": "transformers",
        "tokens": total,
        "units": 3,  # each of the three shards is small
        "batches": -(-total // 100),
        "engines": 1,
        "devices": ["cpu"],
        "memory_there": 24 * GIB,
        "cross_check": 0,
        "warmup": None,
    }
    config = json.loads((Path(recipe.data["model"]["id"]) / "config.json").read_text())
    assert parts["output head"] == 4 * config["vocab_size"] * config["hidden_size"]
    assert (told["backend"], told["backend_why"]) == ("transformers", None)
    shown = run(*words).out
    assert f"run again      3 units, about {-(-total // 100)} batches, on cpu" in shown
    assert "of 24.0 GiB: weights" in " ".join(shown.split())


def test_a_plan_tells_of_the_runs_that_are_to_be_scored(recipe: Recipe, run: Command) -> None:
    words = ["plan", recipe.write(), "--output", recipe.out, "--json"]
    told = json.loads(run(*words).out)
    (forecast,) = told["runs"]
    assert (forecast["run"], forecast["units"]) == ("base", None)
    assert forecast["tokens"] == told["tokens_to_score"]
    assert told["backend"] == "transformers" and told["backend_why"]
    recipe.build()
    assert json.loads(run(*words).out)["runs"] == []


def test_the_reference_run_of_other_backends_is_told(tmp_path: Path) -> None:
    from pausedata.pipeline.plan.forecast import forecast

    ref = model(tmp_path / "llama", LLAMA_8B)
    for backend, count in (("vllm", 5), ("server", 5), ("transformers", 0)):
        told = forecast(run_of(ref, backend, cross_check=5), 20_000, 3, 900)
        assert told.cross_check == count
        assert ("check base" in told.figures()) == bool(count)
    server = forecast(run_of(ref, "server"), 20_000, 3, 900)
    assert (server.batches, server.memory) == (None, None)
    assert server.figures()["run base"] == "3 units, on the server's (server)"
