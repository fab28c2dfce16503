"""Log-probability, rank and entropy from a block of logits, in few passes over memory."""

from __future__ import annotations

import torch

# A slice of logits and the room to work on it should stay in a CPU's cache: about 1.5 MB each.
_CPU_SLICE_BYTES = 3 << 19


class TokenStatistics:
    """Reduces logits (rows, vocabulary) in float32 to three numbers a row.

    The room it works in is kept between calls: allocating it anew for each slice would cost more
    in page faults than the arithmetic.
    """

    def __init__(self, vocabulary: int, device: torch.device, max_rows: int) -> None:
        rows = max_rows
        if device.type == "cpu":
            rows = min(max_rows, max(1, _CPU_SLICE_BYTES // (4 * vocabulary)))
        self._room = torch.empty(rows, vocabulary, dtype=torch.float32, device=device)

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor, out: torch.Tensor) -> None:
        """Write logprob, rank and entropy of ``targets`` (rows) to ``out`` (3, rows).

        ``logits`` (rows, vocabulary) is overwritten.
        """
        step = self._room.shape[0]
        for start in range(0, len(targets), step):
            part = slice(start, start + step)
            _reduce(logits[part], targets[part, None], self._room, out[:, part])


def _reduce(
    logits: torch.Tensor, target: torch.Tensor, room: torch.Tensor, out: torch.Tensor
) -> None:
    """One slice: ``target`` is (rows, 1), ``room`` at least as large as ``logits``."""
    room = room[: len(logits)]
    chosen = logits.gather(1, target)
    highest = logits.amax(1, keepdim=True)
    # Counted in float32, exact up to 2**24 tokens and several times quicker than over booleans.
    higher = torch.gt(logits, chosen, out=room).sum(1)
    shifted = logits.sub_(highest)
    weight = torch.exp(shifted, out=room)
    total = weight.sum(1)
    # Of sum(p * -log p) = log(total) - sum(weight * shifted) / total only this pass is new.
    weighted = weight.mul_(shifted).sum(1)
    if weighted.isnan().any():  # a logit of -inf weighs nothing, but 0 * -inf is NaN
        torch.exp(shifted, out=room)
        weighted = room.mul_(shifted.clamp_min_(-1e4)).sum(1)
    mean = weighted / total
    log_total = total.log()
    # Against the log of the sum as float32 has it, on the same grid as the logits: bits below that
    # are no knowledge of the model's, and would take half a byte of every stored score.
    out[0] = chosen[:, 0] - (highest[:, 0] + log_total)
    out[1] = higher + 1
    out[2] = log_total - mean
