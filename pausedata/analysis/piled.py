"""The token texts before which the pauses of a placement pile up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pausedata.store.aligned import AlignedShard, AlignedTables, Places
from pausedata.store.dataset import Table

# Pauses pile up before a text that takes more than a tenth of them, …
SHARE_OF_PAUSES = 0.1
# … that has them at most of its occurrences: "the" has many because there are many of it, …
SHARE_OF_OCCURRENCES = 0.5
# … and twice as often as tokens at large: where most have pauses, so have most texts.
TIMES_AS_OFTEN = 2
# Fewer say nothing: of 12 pauses two before one word are a sixth.
FEWEST_PLACES = 20
FEWEST_EXAMPLES = 8

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Pile:
    """A token text, how often it stands in the responses, and what of that has pauses before it."""

    text: str
    occurrences: int
    places: int  # of the occurrences those with pauses before them
    pauses: int


@dataclass(frozen=True)
class PausedTexts:
    """How often each token text occurs in responses, and how often a placement pauses before it.

    Texts of several token ids are counted as one. ``examples`` (those with pauses) and ``pauses``
    are of all the placement; a place after the last token has no text.
    """

    texts: list[str]
    occurrences: Counts  # [texts]
    places_before: Counts  # [texts]
    pauses_before: Counts  # [texts]
    examples: int
    pauses: int

    def piled(self) -> list[Pile]:
        """The texts that pauses pile up before, the most paused first."""
        places, occurrences = int(self.places_before.sum()), int(self.occurrences.sum())
        if places < FEWEST_PLACES or self.examples < FEWEST_EXAMPLES:
            return []
        found = np.flatnonzero(
            (self.pauses_before > SHARE_OF_PAUSES * self.pauses)
            & (self.places_before > SHARE_OF_OCCURRENCES * self.occurrences)
            & (self.places_before >= TIMES_AS_OFTEN * places / occurrences * self.occurrences)
        )
        order = found[np.argsort(-self.pauses_before[found], kind="stable")]
        return [
            Pile(
                self.texts[k],
                int(self.occurrences[k]),
                int(self.places_before[k]),
                int(self.pauses_before[k]),
            )
            for k in order
        ]


def paused_texts(
    tokens: Table, placements: Sequence[Table], vocab: Table
) -> dict[str, PausedTexts]:
    """Count occurrences and pauses for each of ``placements``, by its name, in one pass."""
    texts, text_of = _texts(vocab)
    occurrences = np.zeros(len(texts) + 1, np.int64)
    totals = {table.name: _Totals(len(occurrences)) for table in placements}
    for shard in AlignedTables(tokens, placements).shards():
        text = text_of[np.minimum(shard.token_ids, len(text_of) - 1)]
        occurrences += np.bincount(text, minlength=len(occurrences))
        for name, total in totals.items():
            total.add(shard, shard.places(name.removeprefix("placements/")), text)
    return {
        name: PausedTexts(
            texts,
            occurrences[:-1],
            *(total.places[:-1], total.pauses[:-1], total.examples, total.all_pauses),
        )
        for name, total in totals.items()
    }


class _Totals:
    """What adds up over the shards of one placement; by text, the last for tokens without one."""

    def __init__(self, texts: int) -> None:
        self.places, self.pauses = (np.zeros(texts, np.int64) for _ in range(2))
        self.examples = self.all_pauses = 0

    def add(self, shard: AlignedShard, placed: Places, text: Counts) -> None:
        """Count a shard, whose tokens have these texts: [tokens]."""
        within, token = shard.before(placed)
        self.places += np.bincount(text[token], minlength=len(self.places))
        pauses = np.bincount(text[token], placed.count[within], minlength=len(self.pauses))
        self.pauses += pauses.astype(np.int64)
        self.examples += int((placed.each > 0).sum())
        self.all_pauses += int(placed.count.sum(dtype=np.int64))


def _texts(vocab: Table) -> tuple[list[str], Counts]:
    """The different texts of the vocabulary; and for each token id which of them it has.

    An id that the vocabulary lacks, and the one behind its largest, has none: ``len(texts)``.
    """
    rows = pa.concat_tables([vocab.read(s, ["token_id", "token"]) for s in vocab.shards])
    encoded = rows.column("token").combine_chunks().dictionary_encode()
    ids = rows.column("token_id").to_numpy()
    text_of = np.full(int(ids.max(initial=-1)) + 2, len(encoded.dictionary), np.int64)
    text_of[ids] = encoded.indices.to_numpy()
    return encoded.dictionary.to_pylist(), text_of
