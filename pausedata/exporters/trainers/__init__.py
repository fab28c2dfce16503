"""Trainers whose tensors an export can be checked against (``export --check``)."""

from __future__ import annotations

import importlib.metadata

from pausedata.core.errors import UsageError, listing, nearest
from pausedata.exporters import Format
from pausedata.exporters.trainers import (
    axolotl,
    hf_trainer,
    llama_factory,
    mlx_lm,
    ms_swift,
    nemo,
    peft,
    torchtune,
    trl,
)
from pausedata.exporters.trainers.base import Trainer

TRAINERS: dict[str, Trainer] = {
    module.TRAINER.name: module.TRAINER
    for module in (
        trl,
        hf_trainer,
        peft,
        axolotl,
        llama_factory,
        ms_swift,
        mlx_lm,
        nemo,
        torchtune,
    )
}


def get(name: str) -> Trainer:
    """The trainer ``name``; UsageError where there is none."""
    if name not in TRAINERS:
        raise UsageError(
            f"--check {name}: no such trainer. There are {listing(TRAINERS)}."
            f"{nearest(name, TRAINERS)}"
        )
    return TRAINERS[name]


def check_reads(trainer: Trainer, format: Format) -> None:
    """UsageError where the trainer does not read exports of this format."""
    if format.name not in trainer.formats:
        raise UsageError(
            f"--check {trainer.name}: it reads {listing(trainer.formats)}, not '{format.name}'."
        )


def installed(trainer: Trainer) -> dict[str, str]:
    """The releases that are installed; UsageError where a package is missing."""
    found = {}
    for name in trainer.packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            raise UsageError(
                f"--check {trainer.name} runs the trainer itself, and {name} is not installed "
                "here. Install pausedata in the environment that you train in, and check there."
            ) from None
    return found
