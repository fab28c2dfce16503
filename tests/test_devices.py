"""GPUs: which a process may use, and how engines are laid out over them."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pausedata.core.errors import UsageError
from pausedata.scorers import devices, installed
from pausedata.scorers.devices import Gpu, groups, share_out, visible_gpus
from pausedata.scorers.installed import Vllm

VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
# What nvidia-smi says on several machines.
TWO_H100 = """\
0, GPU-1a2b3c4d-0000-1111-2222-333344445555, NVIDIA H100 80GB HBM3, 81559
1, GPU-1a9f0e8d-0000-1111-2222-333344445555, NVIDIA H100 80GB HBM3, 81559
"""
UNLIKE = """\
0, GPU-aaaa0000-0000-1111-2222-333344445555, NVIDIA GeForce RTX 4090, 24564
1, GPU-bbbb0000-0000-1111-2222-333344445555, NVIDIA RTX A6000, 49140
2, GPU-cccc0000-0000-1111-2222-333344445555, Tesla T4, 15360
3, GPU-dddd0000-0000-1111-2222-333344445555, Tesla T4, 15360
4, GPU-eeee0000-0000-1111-2222-333344445555, Tesla T4, 15360
"""
SHARED_MEMORY = "0, GPU-12340000-0000-1111-2222-333344445555, NVIDIA GB10, [N/A]\n"
MIB = 2**20

Machine = Callable[..., None]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Makes this machine one whose driver says ``output``, or has no driver, or a broken one."""
    monkeypatch.setattr(devices, "_NODES", (f"{tmp_path}/nodes/*",))
    monkeypatch.setattr(installed, "find_vllm", lambda: None)

    def make(output: str | None, status: int = 0, **variables: str) -> None:
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        number = len(list(tmp_path.glob("bin*")))
        folder = tmp_path / f"bin{number}"
        folder.mkdir()
        monkeypatch.setenv("PATH", str(folder))
        if output is None:
            return
        (folder / "said").write_text(output)
        tool = folder / "nvidia-smi"
        # It answers the one question that it was recorded for.
        tool.write_text(
            f"#!{sys.executable}\n"
            "import pathlib, sys\n"
            "asked = ['--query-gpu=index,uuid,name,memory.total',"
            " '--format=csv,noheader,nounits']\n"
            "print(pathlib.Path(__file__).with_name('said').read_text(), end='')\n"
            f"sys.exit({status} if sys.argv[1:] == asked else 9)\n"
        )
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)

    return make


def ids() -> list[str]:
    return [gpu.id for gpu in visible_gpus()]


def test_gpus_have_number_name_and_memory(machine: Machine) -> None:
    machine(TWO_H100)
    assert visible_gpus() == [
        Gpu(0, "0", "NVIDIA H100 80GB HBM3", 81559 * MIB),
        Gpu(1, "1", "NVIDIA H100 80GB HBM3", 81559 * MIB),
    ]
    assert visible_gpus()[1].label == "cuda:1 (NVIDIA H100 80GB HBM3, 79.6 GiB)"


def test_a_gpu_that_shares_the_machines_memory_has_none_of_its_own(machine: Machine) -> None:
    machine(SHARED_MEMORY)
    assert visible_gpus() == [Gpu(0, "0", "NVIDIA GB10", None)]
    assert visible_gpus()[0].label == "cuda:0 (NVIDIA GB10)"


def test_visible_devices_choose_and_order_and_keep_their_names(machine: Machine) -> None:
    machine(UNLIKE, CUDA_VISIBLE_DEVICES="2, 0")
    assert visible_gpus() == [
        Gpu(0, "2", "Tesla T4", 15360 * MIB),
        Gpu(1, "0", "NVIDIA GeForce RTX 4090", 24564 * MIB),
    ]
    machine(UNLIKE, CUDA_VISIBLE_DEVICES="GPU-bbbb,GPU-aaaa0000-0000-1111-2222-333344445555")
    assert [(gpu.id, gpu.name) for gpu in visible_gpus()] == [
        ("GPU-bbbb", "NVIDIA RTX A6000"),
        ("GPU-aaaa0000-0000-1111-2222-333344445555", "NVIDIA GeForce RTX 4090"),
    ]
    machine(TWO_H100, CUDA_VISIBLE_DEVICES="MIG-c7384736-a75d-5afc-978f-d2f1294409fd")
    assert visible_gpus() == [
        Gpu(0, "MIG-c7384736-a75d-5afc-978f-d2f1294409fd", "a MIG instance", None)
    ]


@pytest.mark.parametrize(
    ("value", "left"),
    [
        ("", []),
        ("-1", []),
        ("none", []),
        ("1,-1,0", ["1"]),  # CUDA sees nothing that stands after a wrong one
        ("0,7,1", ["0"]),
        ("GPU-1a", []),  # the beginning of both
        ("GPU-ffff,0", []),
    ],
)
def test_what_stands_after_a_wrong_name_is_not_seen(
    machine: Machine, value: str, left: list[str]
) -> None:
    machine(TWO_H100, CUDA_VISIBLE_DEVICES=value)
    assert ids() == left


def test_no_driver_or_a_broken_one_and_no_gpu_in_sight_is_no_gpu(machine: Machine) -> None:
    machine(None)
    assert visible_gpus() == []
    machine("NVIDIA-SMI has failed because it couldn't communicate with the driver.\n", status=9)
    assert visible_gpus() == []
    machine("Some new kind of answer\n")
    assert visible_gpus() == []


FAKE_TORCH = """
import os
from types import SimpleNamespace as Some
every = [("AMD Instinct MI300X", 192 << 30), ("AMD Instinct MI210", 64 << 30)]
asked = os.environ.get("HIP_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES", "0,1"))
seen = [every[int(number)] for number in asked.split(",") if number]
version = Some(hip={hip!r})
cuda = Some(
    is_available=lambda: bool(seen),
    device_count=lambda: len(seen),
    get_device_properties=lambda k: Some(name=seen[k][0], total_memory=seen[k][1]),
)
print("torch says something")
"""


def with_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """A GPU's node in /dev, no tool of NVIDIA's, and a torch of which this is all."""
    (tmp_path / "nodes").mkdir(exist_ok=True)
    (tmp_path / "nodes" / "kfd").touch()
    (tmp_path / "site").mkdir(exist_ok=True)
    (tmp_path / "site" / "torch.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    devices._torch_answer.cache_clear()


def test_where_there_is_a_gpu_but_no_tool_torch_is_asked(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(None)
    with_torch(tmp_path, monkeypatch, FAKE_TORCH.format(hip="6.4"))
    one, two = "AMD Instinct MI300X", "AMD Instinct MI210"
    assert visible_gpus() == [Gpu(0, "0", one, 192 << 30), Gpu(1, "1", two, 64 << 30)]
    machine(None, HIP_VISIBLE_DEVICES="1", CUDA_VISIBLE_DEVICES="0,1")
    assert visible_gpus() == [Gpu(0, "1", two, 64 << 30)]
    machine(None, HIP_VISIBLE_DEVICES="")
    assert visible_gpus() == []
    # What ROCR leaves is counted anew by HIP, from 0 on: its own names are none of HIP's.
    machine(None, ROCR_VISIBLE_DEVICES="3,4")
    assert ids() == ["0", "1"]


def test_a_torch_that_is_broken_finds_no_gpu(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(None)
    with_torch(tmp_path, monkeypatch, "raise ImportError('libcudart.so')")
    assert visible_gpus() == []


def test_an_engine_for_each_gpu(machine: Machine) -> None:
    machine(TWO_H100)
    assert groups("auto", {}, None) == groups("cuda", {}, 2) == ["0", "1"]
    assert groups("auto", {}, 1) == ["0"]
    assert groups("cuda:1", {}, None) == ["1"]
    assert groups("auto", {"tensor_parallel_size": 2}, None) == ["0,1"]


def test_names_of_gpus_are_passed_on_as_they_were_given(machine: Machine) -> None:
    machine(TWO_H100, CUDA_VISIBLE_DEVICES="GPU-1a9f,GPU-1a2b")
    assert groups("auto", {}, None) == ["GPU-1a9f", "GPU-1a2b"]
    assert groups("cuda:1", {}, None) == ["GPU-1a2b"]
    assert groups("cuda", {"pipeline_parallel_size": 2}, None) == ["GPU-1a9f,GPU-1a2b"]


def test_without_a_gpu_engines_run_on_the_cpu(machine: Machine) -> None:
    machine(None)
    assert groups("auto", {}, None) == [None]
    assert groups("auto", {"tensor_parallel_size": 2}, 3) == [None, None, None]
    machine(TWO_H100)
    assert groups("cpu", {}, 2) == [None, None]


def test_the_build_for_cpus_leaves_gpus_alone(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(TWO_H100)
    monkeypatch.setattr(installed, "find_vllm", lambda: Vllm("0.32.0", cpu=True))
    assert groups("auto", {}, None) == [None]
    with pytest.raises(UsageError, match=r"scoring\.device: cuda, but the vLLM installed here is"):
        groups("cuda", {}, None)


def test_gpus_that_are_left_over_are_told(machine: Machine) -> None:
    machine(UNLIKE)
    told: list[str] = []
    engine = {"tensor_parallel_size": 2}
    assert groups("auto", engine, None, warn=told.append) == ["0,1", "2,3"]
    assert told == [
        "1 GPU of 5 left over: engines of 2 GPUs each (tensor_parallel_size 2) make no use of it."
    ]
    told.clear()
    # Who says how many engines there are to be knows what is left.
    assert groups("auto", engine, 1, warn=told.append) == ["0,1"]
    assert told == []


@pytest.mark.parametrize(
    ("device", "engine", "engines", "told"),
    [
        (
            *("auto", {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}, None),
            r"on 4 GPUs \(tensor_parallel_size 2, pipeline_parallel_size 2\), 2 GPUs are here",
        ),
        ("cuda:0", {"tensor_parallel_size": 2}, None, r"on 2 GPUs .*, 1 GPU is here"),
        (
            "auto",
            {},
            3,
            r"scoring\.engines: 3 engines of 1 GPU each, but 2 GPUs are here .* most 2",
        ),
        ("cuda:1", {}, 2, r"2 engines of 1 GPU each, but 1 GPU is here .* cuda:1\): at most 1"),
        ("cuda:2", {}, None, r"no 'cuda:2': 2 GPUs are here to be used, numbered from 0"),
        ("cuda:x", {}, None, r"no device 'cuda:x'\. There: auto, cpu, cuda"),
        ("mps", {}, None, r"no device 'mps'"),
        ("auto", {"tensor_parallel_size": 0}, None, r"tensor_parallel_size 0: give whole numbers"),
        ("auto", {"tensor_parallel_size": "2"}, None, r"tensor_parallel_size 2: give whole"),
    ],
)
def test_what_cannot_be_laid_out_is_an_error(
    machine: Machine, device: str, engine: dict[str, Any], engines: int | None, told: str
) -> None:
    machine(TWO_H100)
    with pytest.raises(UsageError, match=told):
        groups(device, engine, engines)


def test_a_gpu_that_is_asked_for_and_not_there_is_an_error(machine: Machine) -> None:
    machine(TWO_H100, CUDA_VISIBLE_DEVICES="")
    with pytest.raises(UsageError, match=r"cuda, but there is no GPU here.*CUDA_VISIBLE_DEVICES"):
        groups("cuda", {}, None)


@given(
    count=st.integers(1, 20),
    tensor=st.integers(1, 4),
    pipeline=st.integers(1, 3),
    engines=st.none() | st.integers(1, 8),
)
def test_no_gpu_serves_two_engines(
    count: int, tensor: int, pipeline: int, engines: int | None
) -> None:
    gpus = [Gpu(k, str(k), "T4", 15360 * MIB) for k in range(count)]
    engine = {"tensor_parallel_size": tensor, "pipeline_parallel_size": pipeline}
    told: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "visible_gpus", lambda: gpus)
        patch.setattr(installed, "find_vllm", lambda: None)
        possible = count // (tensor * pipeline)
        if possible < (engines or 1):
            with pytest.raises(UsageError):
                share_out("auto", engine, engines)
            return
        shared = share_out("auto", engine, engines, warn=told.append)
    assert len(shared) == (engines or possible)
    assert all(len(group) == tensor * pipeline for group in shared)
    used = [gpu.index for group in shared for gpu in group]
    assert used == list(range(len(used)))
    assert bool(told) == (engines is None and len(used) < count)


def test_nothing_is_imported_to_find_gpus() -> None:
    import subprocess

    code = (
        "import sys; from pausedata.scorers.devices import *; visible_gpus(); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert not {"torch", "transformers", "vllm"} & set(done.stdout.split())
