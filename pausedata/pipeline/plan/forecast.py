"""What scoring a run will take: pieces, devices, memory. Told before anything is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pausedata.core.system_memory import readable
from pausedata.pipeline.runs import RunSpec
from pausedata.scorers import memory
from pausedata.warmup import Warmed
from pausedata.warmup import memory as warmup_memory
from pausedata.warmup.folds import FEWEST_ROWS

# Backends whose scores are checked against those of transformers.
_CHECKED = ("vllm", "server")


@dataclass(frozen=True)
class WarmupForecast:
    """What comes before the scoring of a run: its model is fine-tuned, once a fold.

    ``rows``: that each fold's model trains on, at most; ``reason``: why the model scores as it is,
    where that is known; ``work``: all of it, in tokens that are scored in the same time, None where
    nothing says how long rows are, 0 where the models are in the cache (``cached``). ``memory``:
    bytes by what takes them.
    """

    folds: int
    rows: int
    method: str
    cached: bool
    reason: str | None
    work: int | None
    memory: dict[str, int] | None

    def figure(self) -> str:
        """In a line, for people."""
        if self.reason is not None:
            return f"none, the model scores as it is: {self.reason}"
        if self.cached:
            return f"{self.folds} models, {self.method}, in the cache"
        needs = f", about {readable(sum(self.memory.values()))} of memory" if self.memory else ""
        return f"{self.folds} models, {self.method}, each on {self.rows:,} rows at most{needs}"


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
    warmup: WarmupForecast | None = None

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
        if self.warmup is not None:
            found[f"warm-up {self.run}"] = self.warmup.figure()
        if self.cross_check:
            found[f"check {self.run}"] = (
                f"{self.cross_check} examples by transformers too, in float32 on the CPU, first"
            )
        return found


def forecast_warmup(
    spec: RunSpec,
    warmed: Warmed | None,
    rows: int | None,
    tokens_a_row: float | None,
    longest: int | None,
) -> WarmupForecast | None:
    """What warming a run's model up takes, on ``rows`` of so many tokens; None without a warm-up.

    ``warmed`` is what the cache has of it. UsageError for a model that does not fit.
    """
    if spec.warmup is None:
        return None
    settings, needs, work = spec.warmup, None, 0
    most, reason = settings.rows, warmed.reason if warmed is not None else None
    if warmed is None and rows is not None:
        most = min(most, rows * (settings.folds - 1) // settings.folds)
        if most < FEWEST_ROWS:
            reason = f"a fold has about {most} rows to train on, and {FEWEST_ROWS} are needed"
    if warmed is None and reason is None:
        needs = warmup_memory.check(
            spec.model, spec.warmup, spec.dtype, spec.scoring.device, longest
        )
        work = None
        if rows is not None and tokens_a_row is not None:
            work = warmup_memory.scoring_tokens(spec.warmup, tokens_a_row, rows)
    cached = warmed is not None
    return WarmupForecast(settings.folds, most, settings.method, cached, reason, work, needs)


def forecast(
    spec: RunSpec,
    tokens: int | None,
    units: int | None,
    longest: int,
    *,
    warmup: WarmupForecast | None = None,
    sure: bool = True,
) -> Forecast:
    """What scoring ``tokens`` in ``units``, the longest example of ``longest`` tokens, takes.

    ``warmup`` is what comes before. UsageError for devices that are not there and, where it is
    ``sure`` that there is something to score, for a model that does not fit.
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
        warmup=warmup,
    )
