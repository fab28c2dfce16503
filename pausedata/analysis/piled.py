"""The token texts before which the pauses of a placement pile up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pausedata.store.dataset import Table
from pausedata.store.tables import list_parts

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


def paused_texts(tokens: Table, placement: Table, vocab: Table) -> PausedTexts:
    """Count both in one pass over the shards, which hold the same examples."""
    texts, text_of = _texts(vocab)
    occurrences, places, pauses = (np.zeros(len(texts) + 1, np.int64) for _ in range(3))
    examples = all_pauses = 0
    for shard, placed in zip(tokens.shards, placement.shards, strict=True):
        starts, ids = list_parts(tokens.read(shard, ["response_ids"]), "response_ids")
        text = text_of[np.minimum(ids, len(text_of) - 1)]
        rows = placement.read(placed, ["position", "count"])
        offsets, position = list_parts(rows, "position")
        _, count = list_parts(rows, "count")
        example = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        within = position < np.diff(starts)[example]
        before = text[(starts[example] + position)[within]]
        occurrences += np.bincount(text, minlength=len(occurrences))
        places += np.bincount(before, minlength=len(places))
        pauses += np.bincount(before, count[within], minlength=len(pauses)).astype(np.int64)
        examples += int((np.diff(offsets) > 0).sum())
        all_pauses += int(count.sum(dtype=np.int64))
    return PausedTexts(texts, occurrences[:-1], places[:-1], pauses[:-1], examples, all_pauses)


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
