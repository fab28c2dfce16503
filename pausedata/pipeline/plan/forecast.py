"""What scoring a run will take: pieces, devices, memory. Told before anything is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pausedata.core.system_memory import readable
from pausedata.pipeline.runs import RunSpec
from pausedata.scorers import memory

# Backends whose scores are checked against those of transformers.
_CHECKED = ("vllm", "server")


@dataclass(frozen=True)
class Forecast:
    """One run's scoring; None: what nothing says beforehand.

    ``units`` are what is scored in one go and lost by a kill; ``batches`` (about how many) go
    through the model at once. ``memory`` is bytes by what takes them, on each GPU that is used, or
    on the CPU of all engines together, and ``memory_there`` what can be had there.
    ``cross_check``: examples that transformers scores too.
    """

    run: str
    backend: str
    tokens: int | None
    units: int | None
    batches: int | None
    engines: int
    devices: list[str]
    memory: dict[str, int] | None
    memory_there: int | None
    cross_check: int

    def figures(self) -> dict[str, str]:
        """The figures, for people."""
        words = []
        if self.units is not None:
            words.append(f"{self.units:,} unit{'s' if self.units != 1 else ''}")
        if self.batches is not None:
            words.append(f"about {self.batches:,} batch{'es' if self.batches != 1 else ''}")
        engines = f"{self.engines} engines on " if self.engines > 1 else "on "
        found = {
            f"run {self.run}": f"{', '.join([*words, engines + ', '.join(self.devices)])}"
            f" ({self.backend})"
        }
        if self.memory is not None:
            parts = ", ".join(
                f"{name} {readable(size)}" for name, size in self.memory.items() if size
            )
            there = f" of {readable(self.memory_there)}" if self.memory_there else ""
            each = " a GPU" if len(self.devices) > 1 else ""
            total = readable(sum(self.memory.values()))
            found[f"memory {self.run}"] = f"about {total}{there}{each}: {parts}"
        if self.cross_check:
            found[f"check {self.run}"] = (
                f"{self.cross_check} examples by transformers too, in float32 on the CPU, first"
            )
        return found


def forecast(
    spec: RunSpec, tokens: int | None, units: int | None, longest: int, *, sure: bool = True
) -> Forecast:
    """What scoring ``tokens`` in ``units``, the longest example of ``longest`` tokens, takes.

    UsageError for devices that are not there and, where it is ``sure`` that there is something to
    score, for a model that does not fit.
    """
    job = spec.job(longest)
    place = memory.layout(spec.backend, job)
    expected = memory.expected(spec.backend, job, place)
    if sure:
        memory.refuse(spec.backend, job, place, expected)
    budget = memory.batch_tokens(spec.backend, job, place.kind)
    return Forecast(
        run=spec.name,
        backend=spec.backend,
        tokens=tokens,
        units=units,
        batches=math.ceil(tokens / budget) if tokens is not None and budget else None,
        engines=place.engines,
        devices=place.names,
        memory=dict(expected.parts) if expected else None,
        memory_there=place.there,
        cross_check=spec.scoring.cross_check if spec.backend in _CHECKED else 0,
    )
