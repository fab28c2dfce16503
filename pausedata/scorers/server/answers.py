"""What a vLLM server answers, and whether it can be true."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pausedata.core.errors import DataError
from pausedata.scorers import Scores

# What the server writes for minus infinity, which JSON cannot hold.
MINUS_INFINITY = -9999.0


@dataclass(frozen=True)
class Served:
    """A model that a server offers; ``root`` is where it was loaded from, there."""

    id: str
    root: str | None
    parent: str | None
    max_model_len: int | None

    @property
    def short(self) -> str:
        """The id without folders: the server's machine is nobody's business."""
        return _last(self.id)

    def is_called(self, name: str) -> bool:
        """Whether ``name``, a Hub id or a base name, may mean this model."""
        return name == self.id or _last(name) in {_last(self.id), _last(self.root or "")} - {""}


def read_models(document: Any) -> list[Served]:
    """The models in an answer of ``/v1/models``; DataError where it is no such answer."""
    data = document.get("data") if isinstance(document, dict) else None
    if not isinstance(data, list) or not all(isinstance(c, dict) and "id" in c for c in data):
        raise DataError("what answers there gives no list of models: is it a vLLM server?")
    return [
        Served(
            id=str(card["id"]),
            root=card.get("root"),
            parent=card.get("parent"),
            max_model_len=card.get("max_model_len"),
        )
        for card in data
    ]


def read_entries(ids: Sequence[int], document: Any, where: str) -> list[dict[str, Any]]:
    """What the server says of each of ``ids`` but the first, for which it has nothing to say.

    ``where`` names the example in the DataError for an answer that lacks something, or is of
    other tokens than those sent.
    """
    try:
        positions = document["choices"][0]["prompt_logprobs"]
    except (LookupError, TypeError):
        positions = None
    if positions is None:
        raise DataError(
            f"{where}: the server's answer has no prompt_logprobs: it is no vLLM server, or an old "
            "one. Run one with: vllm serve MODEL"
        )
    if not isinstance(positions, list) or len(positions) != len(ids):
        count = len(positions) if isinstance(positions, list) else "no"
        raise DataError(
            f"{where}: {count} positions came back for {len(ids)} tokens: {_FAULT_OF_THE_SERVER}"
        )
    entries = []
    for at in range(1, len(ids)):
        position = positions[at]
        entry = position.get(str(ids[at])) if isinstance(position, dict) else None
        if not isinstance(entry, dict):
            came = ", ".join(position) if isinstance(position, dict) else repr(position)
            raise DataError(
                f"{where}: token id {ids[at]} was sent at position {at}, and {came or 'nothing'} "
                f"came back: {_FAULT_OF_THE_SERVER}"
            )
        entries.append(entry)
    return entries


def read_scores(ids: Sequence[int], prompt: int, document: Any, where: str) -> Scores:
    """The scores of ``ids`` from the ``prompt``-th on; DataError as `read_entries`.

    Also for a value that is not finite.
    """
    entries = read_entries(ids, document, where)[prompt - 1 :]
    for at, entry in enumerate(entries):
        logprob, rank = entry.get("logprob"), entry.get("rank")
        # NaN is not greater than anything.
        if not isinstance(logprob, int | float) or not MINUS_INFINITY < logprob < math.inf:
            raise DataError(
                f"{where}: log-probability {logprob} came back for response token {at}. The model "
                "overflows, or never gives this token: serve it in float32 (--dtype float32), or "
                "leave the example out."
            )
        if not isinstance(rank, int):
            raise DataError(
                f"{where}: rank {rank} came back for response token {at}: {_FAULT_OF_THE_SERVER}"
            )
    return Scores(
        logprob=np.array([entry["logprob"] for entry in entries], dtype=np.float32),
        rank=np.array([entry["rank"] for entry in entries], dtype=np.int32),
    )


_FAULT_OF_THE_SERVER = (
    "this is a fault of the server, try another version of vLLM, or `scoring.backend: transformers`"
    ", and report it."
)


def _last(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]
