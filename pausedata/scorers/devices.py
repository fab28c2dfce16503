"""The GPUs of this machine that a process may use, and how engines are laid out over them.

Nothing here imports torch: the driver's own tool is asked, and where that is no help, torch in a
process of its own, so that ours starts no CUDA, which would take a GPU's memory from an engine.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pausedata.core.errors import UsageError
from pausedata.core.progress import ignore_message
from pausedata.scorers import installed

_QUERY = ("nvidia-smi", "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits")
_QUERY_SECONDS = 10.0
_TORCH_SECONDS = 120.0  # the import alone can take half a minute from a cold disk
# Where none of these is, there is no GPU that torch could find, and its import is saved: of
# NVIDIA, of AMD, of WSL, of NVIDIA's boards.
_NODES = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/dxg", "/dev/nvhost-gpu")
_ASK_TORCH = """
import json, torch
cuda = torch.cuda
count = cuda.device_count() if cuda.is_available() else 0
gpus = [cuda.get_device_properties(i) for i in range(count)]
print(json.dumps({"hip": bool(torch.version.hip),
                  "gpus": [[gpu.name, gpu.total_memory] for gpu in gpus]}))
"""


@dataclass(frozen=True)
class Gpu:
    """A GPU that this process may use.

    ``index`` is its number among those, as in ``cuda:1``; ``id`` is what CUDA_VISIBLE_DEVICES
    calls it, a number or a UUID; ``memory_bytes`` is all of its memory, None where nothing says.
    """

    index: int
    id: str
    name: str
    memory_bytes: int | None = None

    @property
    def label(self) -> str:
        """Its number, name and memory, for people."""
        room = f", {self.memory_bytes / 2**30:.1f} GiB" if self.memory_bytes else ""
        return f"cuda:{self.index} ({self.name}{room})"


def visible_gpus() -> list[Gpu]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES (or HIP's) numbers them.

    Empty where there is none, or no driver that works.
    """
    every = _ask_driver(os.environ.get("PATH", ""))
    if every is None:
        return _ask_torch()
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked is None:
        return [Gpu(k, number, name, memory) for k, (number, _, name, memory) in enumerate(every)]
    found: list[Gpu] = []
    for part in asked.split(","):
        id = part.strip()
        known = _named(id, every)
        if known is None:
            break  # as CUDA has it: what stands after a name that is wrong is not seen
        found.append(Gpu(len(found), id, known[2], known[3]))
    return found


# Index, UUID, name, bytes of memory.
_Row = tuple[str, str, str, int | None]


def _named(id: str, every: list[_Row]) -> _Row | None:
    """The GPU that CUDA_VISIBLE_DEVICES calls ``id``: a number, or the beginning of a UUID."""
    if id.startswith("MIG-"):  # a part of a GPU; of its memory the query says nothing
        return (id, id, "a MIG instance", None)
    if id.startswith("GPU-"):
        matching = [row for row in every if row[1].startswith(id)]
        return matching[0] if len(matching) == 1 else None
    return next((row for row in every if id.isdecimal() and int(id) == int(row[0])), None)


@lru_cache(maxsize=8)
def _ask_driver(path: str) -> list[_Row] | None:
    """All GPUs of the machine by ``nvidia-smi``, found on ``path``; None where it does not work."""
    try:
        answer = subprocess.run(
            _QUERY, capture_output=True, text=True, timeout=_QUERY_SECONDS, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    rows: list[_Row] = []
    for line in answer.splitlines():
        match = re.fullmatch(r"(\d+), *([^,]+), *(.+), *([^,]+)", line.strip())
        if match is None:
            return None
        number, uuid, name, mebibytes = match.groups()
        # A GPU that shares the machine's memory has none of its own: [N/A].
        memory = int(mebibytes) << 20 if mebibytes.isdecimal() else None
        rows.append((number, uuid, name, memory))
    return rows


def _ask_torch() -> list[Gpu]:
    """The GPUs that torch finds, which heeds all variables itself; empty without torch."""
    if not any(any(Path("/").glob(pattern.lstrip("/"))) for pattern in _NODES):
        return []
    names = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
    found = _torch_answer(tuple(os.environ.get(name) for name in names))
    # Numbers of HIP count what ROCR leaves, so that ROCR's own say nothing here.
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if found["hip"]:
        asked = os.environ.get("HIP_VISIBLE_DEVICES", asked)
    ids = [part.strip() for part in asked.split(",")] if asked is not None else []
    if len(ids) < len(found["gpus"]):
        ids = [str(number) for number in range(len(found["gpus"]))]
    return [
        Gpu(k, id, name, memory)
        for k, (id, (name, memory)) in enumerate(zip(ids, found["gpus"], strict=False))
    ]


@lru_cache(maxsize=8)
def _torch_answer(variables: tuple[str | None, ...]) -> dict[str, Any]:
    """What torch says in a process of its own, in which ``variables`` are set as here."""
    command = [sys.executable, "-c", _ASK_TORCH]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TORCH_SECONDS, check=True
        )
        return json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return {"hip": False, "gpus": []}


def groups(
    device: str,
    engine: Mapping[str, Any],
    engines: int | None,
    *,
    warn: Callable[[str], None] = ignore_message,
) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES for each vLLM engine, one entry an engine; None: it runs on the CPU.

    ``device``, ``engine`` and ``engines`` are those of `scoring`; see `share_out`.
    """
    shared = share_out(device, engine, engines, warn=warn)
    return [",".join(gpu.id for gpu in group) or None for group in shared]


def share_out(
    device: str,
    engine: Mapping[str, Any],
    engines: int | None,
    *,
    warn: Callable[[str], None] = ignore_message,
) -> list[list[Gpu]]:
    """The GPUs of each vLLM engine, one list an engine; an empty one where it runs on the CPU.

    An engine has a GPU of its own, or as many as its model is cut into (``tensor_parallel_size``
    times ``pipeline_parallel_size``). There are as many engines as GPUs allow, or ``engines``.
    UsageError where there are too few GPUs; ``warn`` is told of those left over.
    """
    each = per_engine(engine)
    gpus = _chosen(device)
    if not gpus:
        return [[] for _ in range(engines or 1)]
    if len(gpus) < each:
        raise UsageError(
            f"scoring.engine: an engine is to run on {each} GPUs ({_factors(engine)}), "
            f"{_number(len(gpus))} here to be used (scoring.device: {device}). Lower it."
        )
    possible = len(gpus) // each
    if engines is not None and engines > possible:
        raise UsageError(
            f"scoring.engines: {engines} engines of {_gpus(each)} each, but "
            f"{_number(len(gpus))} here to be used (scoring.device: {device}): at most {possible}."
        )
    if engines is None and len(gpus) % each:
        warn(
            f"{_gpus(len(gpus) % each)} of {len(gpus)} left over: engines of {each} GPUs each "
            f"({_factors(engine)}) make no use of it."
        )
    count = possible if engines is None else engines
    return [gpus[k * each : (k + 1) * each] for k in range(count)]


def per_engine(engine: Mapping[str, Any]) -> int:
    """How many GPUs an engine with these settings runs on; UsageError where they are no counts."""
    sizes = [engine.get(key, 1) for key in ("tensor_parallel_size", "pipeline_parallel_size")]
    for size in sizes:
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise UsageError(f"scoring.engine: {_factors(engine)}: give whole numbers from 1 on.")
    return sizes[0] * sizes[1]


def _chosen(device: str) -> list[Gpu]:
    """The GPUs that ``scoring.device`` stands for, in vLLM; none for the CPU."""
    if device == "cpu":
        return []
    match = re.fullmatch(r"auto|cuda(?::(\d+))?", device)
    if match is None:
        raise UsageError(
            f"scoring.device: vLLM has no device '{device}'. There: auto, cpu, cuda, cuda:1 …"
        )
    vllm = installed.find_vllm()
    for_cpus = vllm is not None and vllm.cpu
    gpus = [] if for_cpus else visible_gpus()
    if device != "auto" and not gpus:
        why = "the vLLM installed here is the one for CPUs" if for_cpus else "there is no GPU here"
        raise UsageError(
            f"scoring.device: {device}, but {why}. Set `scoring.device: auto`, or look at "
            "CUDA_VISIBLE_DEVICES and `nvidia-smi`."
        )
    if match[1] is None:
        return gpus
    if int(match[1]) >= len(gpus):
        raise UsageError(
            f"scoring.device: no '{device}': {_number(len(gpus))} here to be used, numbered from 0."
        )
    return [gpus[int(match[1])]]


def _factors(engine: Mapping[str, Any]) -> str:
    keys = ("tensor_parallel_size", "pipeline_parallel_size")
    return ", ".join(f"{key} {engine[key]}" for key in keys if key in engine)


def _gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count} GPUs"


def _number(count: int) -> str:
    return f"{_gpus(count)} {'is' if count == 1 else 'are'}"
