"""Which examples go through the model together: a pure function of their lengths."""

from __future__ import annotations

from collections.abc import Sequence


def plan_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Indices into ``lengths`` in batches of at most ``batch_tokens`` padded tokens.

    Examples of similar length go together, the longest first, so that a batch that does not fit in
    memory fails at the start; equal lengths keep their order. A batch's padded tokens are its rows
    times its longest; one example that is longer than the budget is a batch of its own. Every
    index comes exactly once. ValueError for a budget below 1.
    """
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens must be at least 1, not {batch_tokens}")
    batches: list[list[int]] = []
    rows = 0  # how many the current batch may hold, given its longest, which is its first
    for index in sorted(range(len(lengths)), key=lambda k: -lengths[k]):
        if not batches or len(batches[-1]) >= rows:
            batches.append([])
            rows = max(1, batch_tokens // max(1, lengths[index]))
        batches[-1].append(index)
    return batches
