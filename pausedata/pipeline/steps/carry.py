"""Scores of examples whose token ids did not change, carried from one version to the next."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from pausedata.scorers import Example, Scores
from pausedata.store.dataset import Table
from pausedata.store.manifest import ShardEntry
from pausedata.store.tables import list_parts


class CarriedScores:
    """The stored scores of one run, found again by the token ids that they belong to."""

    def __init__(self, tokens: Table, scores: Table) -> None:
        """``tokens`` and ``scores`` are of one version: the same rows in the same shards."""
        self.content = scores.entry.content
        self.provenance = scores.entry.provenance
        self._scores = scores
        self._places: dict[bytes, tuple[int, int]] = {}  # ids' digest → shard, row
        for number, shard in enumerate(tokens.shards):
            rows = tokens.read(shard, ["prompt_ids", "response_ids"])
            prompts, prompt_ids = list_parts(rows, "prompt_ids")
            responses, response_ids = list_parts(rows, "response_ids")
            for i in range(rows.num_rows):
                key = _key(
                    prompt_ids[prompts[i] : prompts[i + 1]],
                    response_ids[responses[i] : responses[i + 1]],
                )
                self._places.setdefault(key, (number, i))

    def find(self, examples: list[Example]) -> list[Scores | None]:
        """The stored scores of each example, or None where its ids were never scored."""
        wanted: dict[int, list[tuple[int, int]]] = {}
        for i, example in enumerate(examples):
            place = self._places.get(_key(example.prompt_ids, example.response_ids))
            if place is not None:
                wanted.setdefault(place[0], []).append((i, place[1]))
        found: list[Scores | None] = [None] * len(examples)
        for number, rows in wanted.items():
            for i, scores in zip(
                [i for i, _ in rows],
                self._read(self._scores.shards[number], [row for _, row in rows]),
                strict=True,
            ):
                found[i] = scores
        return found

    def forget(self, example: Example) -> None:
        """Let the example be scored anew."""
        self._places.pop(_key(example.prompt_ids, example.response_ids), None)

    def has(self, example: Example) -> bool:
        """Whether the example's ids were scored before."""
        return _key(example.prompt_ids, example.response_ids) in self._places

    def _read(self, shard: ShardEntry, rows: list[int]) -> list[Scores]:
        table = self._scores.read(shard, ["logprob", "rank", "entropy"]).take(rows)
        columns: dict[str, Any] = {name: table.column(name) for name in table.column_names}
        return [
            Scores(
                np.array(columns["logprob"][i].as_py(), np.float32),
                _optional(columns["rank"][i].as_py(), np.int32),
                _optional(columns["entropy"][i].as_py(), np.float32),
            )
            for i in range(table.num_rows)
        ]


def _optional(values: list[Any] | None, dtype: Any) -> np.ndarray[Any, Any] | None:
    return None if values is None else np.array(values, dtype)


def _key(prompt_ids: Any, response_ids: Any) -> bytes:
    prompt, response = np.asarray(prompt_ids, "<i4"), np.asarray(response_ids, "<i4")
    head = len(prompt).to_bytes(8, "little")
    return hashlib.sha256(head + prompt.tobytes() + response.tobytes()).digest()[:16]
