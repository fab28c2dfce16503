"""How much memory scoring takes, from headers and configuration, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata

from pausedata.core.errors import UsageError
from pausedata.core.system_memory import available, readable
from pausedata.models.shape import Shape, model_shape
from pausedata.scorers import Job, devices
from pausedata.scorers.engine_settings import check_settings, installed_settings
from pausedata.scorers.sizes import DEFAULT_BATCH_TOKENS, LOGITS_BYTES, PACK_BYTES, VLLM_STEP_TOKENS

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Python, torch and transformers with what they make at first use, measured with SmolLM2 on a CPU.
_LIBRARIES = 460 << 20
# vLLM: the same, its graphs and its workers' room.
_VLLM = 1 << 30
# vLLM's own, of a GPU's memory.
_UTILIZATION = 0.92
# Logits, their softmax and the room to compute it: vLLM makes them in float32, all at once.
_LOGITS_COPIES = 3
# Settings with which fewer bytes a weight are on the device than the dtype has.
_LIGHTER = ("quantization", "cpu_offload_gb", "hf_overrides", "load_format")


@dataclass(frozen=True)
class Memory:
    """What scoring is expected to hold: ``parts``, in bytes by what they are, on each device.

    ``kind`` is cpu, where all engines share ``there``, or cuda. ``there``: the bytes that can be
    had, on the smallest of the devices used; ``most``: on the largest device; None where nothing
    says. ``certain``: the weights take no less than stated.
    """

    kind: str
    parts: Mapping[str, int]
    there: int | None
    most: int | None
    certain: bool

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class DeviceLayout:
    """Where a run is scored.

    ``names`` are the devices, ``engines`` how many work side by side, ``kind`` as of torch, and
    ``there`` and ``most`` as in `Memory`.
    """

    kind: str
    names: list[str]
    engines: int
    there: int | None
    most: int | None


def layout(backend: str, job: Job) -> DeviceLayout:
    """The devices that ``backend`` does ``job`` on, here and now.

    UsageError where the settings ask for devices that are not there.
    """
    if backend == "server":
        return DeviceLayout("server", ["the server's"], 1, None, None)
    if backend == "vllm":
        check_settings(job.engine, installed_settings())
        shared = devices.share_out(job.device, job.engine, job.engines)
        share = float(job.engine.get("gpu_memory_utilization", _UTILIZATION))
    else:
        shared, share = _one_device(job.device), 1.0
    used = [gpu for group in shared for gpu in group]
    if used:
        known = [gpu.memory_bytes for gpu in used if gpu.memory_bytes]
        # Numbers may count GPUs in another order than the driver lists them in.
        every = [gpu.memory_bytes for gpu in devices.visible_gpus()]
        there = round(min(known) * share) if len(known) == len(used) else None
        most = round(max(n for n in every if n) * share) if all(every) else None
        return DeviceLayout("cuda", [gpu.label for gpu in used], len(shared), there, most)
    if job.device in ("auto", "cpu") or backend == "vllm":
        there = available()
        return DeviceLayout("cpu", ["cpu"], len(shared), there, there)
    return DeviceLayout(job.device.partition(":")[0], [job.device], 1, None, None)


def _one_device(device: str) -> list[list[devices.Gpu]]:
    """The GPU that transformers takes for ``device``, in a list of one; no GPU: not CUDA."""
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cuda") or _torch_is_for_cpus():
        return [[]]
    gpus, index = devices.visible_gpus(), int(number) if number.isdecimal() else 0
    return [gpus[index : index + 1]]


def _torch_is_for_cpus() -> bool:
    try:
        return metadata.version("torch").endswith("+cpu")
    except metadata.PackageNotFoundError:
        return False


def expected(backend: str, job: Job, place: DeviceLayout) -> Memory | None:
    """The memory that ``backend`` takes for ``job`` at ``place``.

    None where nothing says how large the model is, and for a server, whose memory is its own.
    """
    if place.kind == "server":
        return None
    shape = model_shape(job.model)
    if shape is None:
        return None
    if backend == "vllm":
        parts, certain = _of_vllm(job, place, shape)
    else:
        parts, certain = _of_transformers(job, place, shape), shape.certain
    return Memory(place.kind, parts, place.there, place.most, certain)


def batch_tokens(backend: str, job: Job, kind: str) -> int | None:
    """About how many tokens go through the model at once on a device of ``kind``.

    None where the server decides.
    """
    if backend == "server":
        return None
    if backend == "vllm":
        asked = job.engine.get("max_num_batched_tokens") or job.batch_tokens
        return asked or VLLM_STEP_TOKENS["cpu" if kind == "cpu" else "v2"]
    return job.batch_tokens or DEFAULT_BATCH_TOKENS.get(kind, DEFAULT_BATCH_TOKENS["cpu"])


def _of_transformers(job: Job, place: DeviceLayout, shape: Shape) -> dict[str, int]:
    size, budget = _BYTES[job.dtype], batch_tokens("transformers", job, place.kind) or 0
    tokens = max(budget, job.longest or 0)  # a longer example is a batch of its own
    head = 4 * shape.vocabulary * shape.hidden
    # As in scorers.heads: a CPU's head is packed, or a float32 copy; a GPU's is the model's own.
    copied = place.kind == "cpu" and (size < 4 or head <= PACK_BYTES)
    row = 4 * shape.vocabulary
    block = max(1, min(budget, LOGITS_BYTES.get(place.kind, LOGITS_BYTES["cpu"]) // row)) * row
    return {
        "weights": size * shape.parameters,
        "output head": head if copied else 0,
        "logits": (3 if place.kind == "cuda" else 2) * block,
        "activations": size * tokens * _row_of_activations(shape),
        "libraries": _LIBRARIES,
    }


def _of_vllm(job: Job, place: DeviceLayout, shape: Shape) -> tuple[dict[str, int], bool]:
    size, engine = _BYTES[job.dtype], job.engine
    budget = batch_tokens("vllm", job, place.kind) or 0
    # On the CPU the parts of a model, and all engines, share the machine's memory.
    cut = devices.per_engine(engine) if place.kind == "cuda" else 1
    each = {
        "weights": size * shape.parameters // cut,
        "logits": _LOGITS_COPIES * 4 * shape.vocabulary * budget,
        "activations": size * budget * _row_of_activations(shape) // cut,
        # A prompt that is not whole in a batch waits for the next with what it has so far.
        "KV cache in use": size * shape.kv * (budget + (job.longest or 0)) // cut,
        "engine": _VLLM,
    }
    count = place.engines if place.kind == "cpu" else 1
    certain = shape.certain and not any(engine.get(key) for key in _LIGHTER)
    return {part: count * number for part, number in each.items()}, certain


def _row_of_activations(shape: Shape) -> int:
    """About how many numbers a layer holds at once for a token."""
    return 8 * shape.hidden + 3 * shape.intermediate


def check(backend: str, job: Job) -> None:
    """UsageError where the weights alone take more than the memory there is.

    What only probably does not fit is tried: an estimate must not stop anybody.
    """
    place = layout(backend, job)
    refuse(backend, job, place, expected(backend, job, place))


def refuse(backend: str, job: Job, place: DeviceLayout, memory: Memory | None) -> None:
    """As `check`, where ``place`` and ``memory`` are known already."""
    if memory is None or memory.most is None or not memory.certain:
        return
    weights = memory.parts["weights"]
    if weights <= memory.most:
        return
    todo = ["`model.dtype: bfloat16`"] if job.dtype == "float32" else []
    where = "free on this machine"
    if memory.kind == "cuda":
        where = "on a GPU here"
        if backend == "vllm":
            todo.append("`engine.tensor_parallel_size`, to cut it over several GPUs")
    elif place.engines > 1:
        where += f" for {place.engines} engines"
        todo.append("fewer `scoring.engines`")
    todo += ["a smaller model", "another `scoring.device`"]
    raise UsageError(
        f"{job.model.name} does not fit: its weights alone take {readable(weights)} in "
        f"{job.dtype}, and {readable(memory.most)} are {where}. "
        f"Try {', '.join(todo[:-1])} or {todo[-1]}."
    )
