"""Examples whose texts stand in another split too: measured there, a model has seen them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pausedata.core.progress import Progress, Silent
from pausedata.core.same_text import salted_hash
from pausedata.store.dataset import Table


@dataclass(frozen=True)
class SharedTexts:
    """How many examples of ``split`` have a prompt that stands in ``other`` too."""

    split: str
    other: str
    examples: int
    with_response: int  # of these: the response is the same, too, to the letter
    first: str  # the id of one of them

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)

    def told(self) -> str:
        """In a sentence without its end."""
        have = "has" if self.examples == 1 else "have"
        return (
            f"{self.examples:,} of split '{self.split}' {have} a prompt that is in "
            f"'{self.other}' too ({self.with_response:,} with the same response; {self.first} "
            "for one)"
        )


def shared_texts(examples: Table, progress: Progress | None = None) -> list[SharedTexts]:
    """For each two splits, the examples of the later whose prompt is in the earlier one."""
    splits = examples.splits()
    pairs = [(split, other) for k, split in enumerate(splits) for other in splits[:k]]
    return compare(examples, pairs, progress)


def compare(
    examples: Table, pairs: Sequence[tuple[str, str]], progress: Progress | None = None
) -> list[SharedTexts]:
    """For each two splits of ``pairs``, the examples of the first whose prompt is in the second.

    Prompts are the same where they are alike but for case, punctuation and white space. 16 bytes
    of memory for each example: texts are told apart by 64 bits of a hash.
    """
    named = {split for pair in pairs for split in pair}
    total = sum(shard.rows for shard in examples.shards if shard.split in named)
    if not total:
        return []
    found = []
    with (progress or Silent()).step("comparing splits", total, "examples") as advance:
        known = {split: _hashes(examples, split, advance) for split in sorted(named)}
    for split, other in pairs:
        # By sorting: what numpy 2.0 would choose instead cannot hold numbers so large.
        same = np.isin(known[split][0], known[other][0], kind="sort")
        if same.any():
            whole = int(np.isin(known[split][1], known[other][1], kind="sort").sum())
            first = _id(examples, split, int(np.flatnonzero(same)[0]))
            found.append(SharedTexts(split, other, int(same.sum()), whole, first))
    return found


def _hashes(
    examples: Table, split: str, advance: Any
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Of each prompt, and of each prompt with its response: [examples], twice."""
    prompts, wholes = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
    for shard in examples.shards:
        if shard.split != split:
            continue
        columns = examples.read(shard, ["prompt", "response"])
        texts = zip(columns["prompt"].to_pylist(), columns["response"].to_pylist(), strict=True)
        pairs = b"".join(
            salted_hash("prompt", prompt)[:8]
            + hashlib.sha256(f"{prompt}\0{response}".encode()).digest()[:8]
            for prompt, response in texts
        )
        both = np.frombuffer(pairs, np.uint64).reshape(-1, 2)
        prompts.append(both[:, 0])
        wholes.append(both[:, 1])
        advance(shard.rows)
    return np.concatenate(prompts), np.concatenate(wholes)


def _id(examples: Table, split: str, row: int) -> str:
    for shard in examples.shards:
        if shard.split == split and shard.first_row <= row < shard.first_row + shard.rows:
            return examples.read(shard, ["id"])["id"][row - shard.first_row].as_py()
    raise IndexError(row)
