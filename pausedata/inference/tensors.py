"""Pauses in a batch's logits: what both engines do on the device where the logits are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from pausedata.inference.decide import PauseDecision
from pausedata.inference.params import PauseParams


def put_pauses(
    logits: torch.Tensor,
    pause: int,
    rows: Sequence[int],
    params: Sequence[PauseParams],
    verdicts: Sequence[PauseDecision],
) -> None:
    """Force the pause where it is due, and forbid it elsewhere, in place.

    ``logits`` [n, vocabulary]: float32 logits or log-probabilities. ``rows``: the rows to look at,
    each with its ``params`` and its verdict; others stay as they are. ``pause``: its id. In a row
    where it is forced it has 0, and all others -inf. It is not forced where its logit is -inf,
    since whatever came before (a grammar, banned words) does not let it stand there.
    """
    if not rows:
        return
    device = logits.device
    whole = list(rows) == list(range(len(logits)))
    index = None if whole else torch.tensor(rows, device=device)
    part = logits if index is None else logits[index]
    free = part[:, pause] > -math.inf
    forced = _tensor([v is PauseDecision.ALWAYS for v in verdicts], device)
    asked = [v is PauseDecision.IF_UNSURE for v in verdicts]
    if any(asked):
        total = torch.logsumexp(part, dim=-1)
        entropies = [p.entropy_threshold for p in params]
        unsure = torch.zeros_like(forced)
        if any(e is not None for e in entropies):
            limits = _tensor([math.inf if e is None else e for e in entropies], device)
            unsure = torch.special.entr((part - total[:, None]).exp()).sum(-1) > limits
        part[:, pause] = -math.inf
        highest = (part.amax(-1) - total).exp()
        unsure |= highest < _tensor([p.threshold for p in params], device)
        forced |= unsure & _tensor(asked, device)
    part[:, pause] = -math.inf
    forced &= free
    part.masked_fill_(forced[:, None], -math.inf)
    part[:, pause].masked_fill_(forced, 0.0)
    if index is not None:
        logits[index] = part


def _tensor(values: list[bool] | list[float], device: torch.device) -> torch.Tensor:
    dtype = torch.bool if isinstance(values[0], bool) else torch.float32
    return torch.tensor(values, dtype=dtype, device=device)
