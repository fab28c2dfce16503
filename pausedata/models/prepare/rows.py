"""The values of new rows of an embedding or an output head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pausedata.core.errors import UsageError

if TYPE_CHECKING:
    import torch

_CHUNK = 8_192  # rows that are held in float64 at once


@dataclass(frozen=True)
class Init:
    """How the pause's row is set."""

    kind: str  # mean, normal, copy
    source: str = ""  # of copy: the token
    source_id: int = -1

    @classmethod
    def parse(cls, text: str) -> Init:
        """``mean``, ``normal`` or ``copy:TOKEN``; UsageError for anything else."""
        if text in ("mean", "normal"):
            return cls(text)
        kind, _, source = text.partition(":")
        if kind == "copy" and source:
            return cls(kind, source)
        raise UsageError(f"--init {text}: give mean, normal or copy:TOKEN.")


def grown(matrix: torch.Tensor, rows: int, used: torch.Tensor) -> torch.Tensor:
    """``matrix`` ([old rows, …]) with ``rows`` rows; those added are the mean of the ``used``.

    Rows behind the vocabulary are padding, which no token reads: a mean does no harm there.
    """
    import torch

    added = rows - len(matrix)
    if added <= 0:
        return matrix.clone()
    mean, _ = moments(matrix, used)
    return torch.cat([matrix, mean.to(matrix.dtype).expand(added, *matrix.shape[1:])])


def row_of(matrix: torch.Tensor, used: torch.Tensor, init: Init, seed: int) -> torch.Tensor:
    """The pause's row. ``used`` are the ids that have a token: padding is not averaged.

    ``normal``: each number is drawn by itself, with the mean and the standard deviation that its
    column has over the rows used. Computed in float64.
    """
    import torch

    if init.kind == "copy":
        return matrix[init.source_id].clone()
    mean, deviation = moments(matrix, used)
    if init.kind == "mean":
        return mean.to(matrix.dtype)
    source = torch.Generator().manual_seed(seed)
    drawn = torch.randn(mean.shape, generator=source, dtype=torch.float64)
    return (mean + deviation * drawn).to(matrix.dtype)


def moments(matrix: torch.Tensor, used: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each column over the rows ``used``, in float64."""
    import torch

    total = torch.zeros(matrix.shape[1:], dtype=torch.float64)
    for ids in used.split(_CHUNK):
        total += matrix[ids].double().sum(0)
    mean = total / len(used)
    squares = torch.zeros_like(total)
    for ids in used.split(_CHUNK):
        squares += (matrix[ids].double() - mean).square().sum(0)
    return mean, (squares / len(used)).sqrt()
