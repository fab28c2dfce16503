"""Tables written by hand, and a whole small dataset made of them: no model, no tokenizer.

The vocabulary: the digits 0 to 9, a space (10), the four bytes of 🙂 (11 to 14), the end (15).
The pause token is new, so that its id is the next one: 16.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from pathlib import Path
from typing import Any

import pyarrow as pa

from pausedata.core.progress import Silent
from pausedata.pipeline import targets
from pausedata.pipeline.planner import Target
from pausedata.pipeline.recipe import Export, Placement
from pausedata.pipeline.transaction import Transaction
from pausedata.store.commit import prepare_folder
from pausedata.store.dataset import Table, Version
from pausedata.store.manifest import PauseEntry, SplitRows
from pausedata.store.staging import Staging
from pausedata.store.tables import schema_of

PAUSE = 16
EXAMPLES = [
    # id, split, prompt, its ids, response, its ids, characters of each token
    ("a", "train", "1 2", [1, 10, 2], "3 4", [3, 10, 4, 15], [(0, 1), (1, 2), (2, 3), (3, 3)]),
    (
        *("b", "train", "5", [5], "🙂6", [11, 12, 13, 14, 6, 15]),
        [(0, 1), (0, 1), (0, 1), (0, 1), (1, 2), (2, 2)],
    ),
    ("c", "train", "7 8", [7, 10, 8], "9", [9, 15], [(0, 1), (1, 1)]),
    ("d", "test", "0", [0], "1", [1, 15], [(0, 1), (1, 1)]),
]
PROBABILITIES = {
    "a": [1 / 2, 1 / 64, 1 / 4, 1 / 8],
    "b": [1 / 4, 1 / 2, 1 / 2, 1 / 1024, 1 / 8, 1 / 2],
    "c": [1 / 2, 1 / 2],
    "d": [1 / 1, 1 / 16],
}
# Shard by shard: train in two, test in one.
SHARDS = [
    ("train", "train-00000-of-00002.parquet", ["a", "b"]),
    ("train", "train-00001-of-00002.parquet", ["c"]),
    ("test", "test-00000-of-00001.parquet", ["d"]),
]


def tokens_table(rows: Sequence[tuple[str, list[int], list[int]]]) -> pa.Table:
    """``(id, prompt_ids, response_ids)`` as the table ``tokens``; a token is a character."""
    return pa.Table.from_pylist(
        [
            {
                "id": id,
                "prompt_ids": prompt,
                "response_ids": response,
                "char_start": list(range(len(response))),
                "char_end": list(range(1, len(response) + 1)),
                "truncated": False,
            }
            for id, prompt, response in rows
        ],
        schema=schema_of("tokens"),
    )


def placement_table(rows: Sequence[tuple[str, dict[int, int]]]) -> pa.Table:
    """``(id, {position: count})`` as a placement."""
    return pa.Table.from_pylist(
        [
            {"id": id, "position": sorted(places), "count": [places[p] for p in sorted(places)]}
            for id, places in rows
        ],
        schema=schema_of("placements"),
    )


def scores_table(rows: Sequence[tuple[str, list[float]]]) -> pa.Table:
    """``(id, probabilities)`` as a run; ranks and entropies are made up."""
    return pa.Table.from_pylist(
        [
            {
                "id": id,
                "n_tokens": len(probabilities),
                "mean_logprob": sum(log(p) for p in probabilities) / len(probabilities),
                "min_logprob": log(min(probabilities)),
                "logprob": [log(p) for p in probabilities],
                "rank": [1 if p >= 1 / 2 else 2 for p in probabilities],
                "entropy": [1.5] * len(probabilities),
            }
            for id, probabilities in rows
        ],
        schema=schema_of("scores/base"),
    )


def commit_handmade(root: Path) -> Version:
    """Version 1 of a dataset: the four examples, run ``base``, two placements and an export.

    The placement ``spare`` is there for those who want to break one that no export rests on.
    """
    prepare_folder(root)
    work = Transaction(root, None, Silent())
    work.name = "handmade"
    work.pause = PauseEntry(token="[PAUSE]", id=PAUSE, id_is_new=True)
    for table in stage_corpus(root, staging=work.staging):
        work.put(table)
    lowest = Placement(strategy="lowest_logprob", positions=1, tokens=2)  # type: ignore[call-arg]
    add_placement(work, "low", lowest)
    add_placement(work, "spare", lowest)
    add_export(work, "low-tokenized", Export(placement="low", format="tokenized"))
    return work.commit(
        "build handmade.yaml",
        name="handmade",
        recipe={"name": "handmade", "scoring": {"run": "base"}},
        pins={},
        pause=work.pause,
        rows={"train": SplitRows(into=3, out=3), "test": SplitRows(into=1, out=1)},
    ).version


def add_placement(tx: Transaction, name: str, spec: Placement) -> None:
    """Make a placement, from the run ``base`` where it names none."""
    _add(tx, targets.of_placement(name, spec, "base"))


def add_export(tx: Transaction, name: str, spec: Export) -> None:
    """Make an export."""
    _add(tx, targets.of_export(name, spec, tx.pause))


def _add(tx: Transaction, target: Target) -> None:
    assert target.make is not None and target.inputs is not None
    tx.put(target.make(tx, target.inputs(tx.contents())))


def stage_corpus(root: Path, said: str = "", staging: Staging | None = None) -> list[Table]:
    """``examples``, ``vocab``, ``tokens`` and ``scores/base``; ``said`` goes into ``meta``."""
    rows = {row[0]: row for row in EXAMPLES}
    stage = (staging or Staging(root)).stage("tokens", {"handmade": said})
    stage.write("vocab.parquet", _vocab())
    for number, (_, file, ids) in enumerate(SHARDS):
        examples = [rows[id] for id in ids]
        stage.write(
            f"examples/{file}",
            pa.Table.from_pylist(
                [
                    {
                        "id": id,
                        "split": split,
                        "row": 2 * number + k,
                        "prompt": prompt,
                        "response": response,
                        "meta": f'{{"said":"{said}"}}',
                    }
                    for k, (id, split, prompt, _, response, _, _) in enumerate(examples)
                ],
                schema=schema_of("examples"),
            ),
        )
        stage.write(
            f"tokens/{file}",
            pa.Table.from_pylist(
                [
                    {
                        "id": id,
                        "prompt_ids": prompt_ids,
                        "response_ids": response_ids,
                        "char_start": [start for start, _ in spans],
                        "char_end": [end for _, end in spans],
                        "truncated": False,
                    }
                    for id, _, _, prompt_ids, _, response_ids, spans in examples
                ],
                schema=schema_of("tokens"),
            ),
        )
        stage.write(f"scores/base/{file}", scores_table([(i, PROBABILITIES[i]) for i in ids]))

    def table(name: str, made_from: list[str]) -> Table:
        provenance: dict[str, Any] = {"inputs": {"handmade": said}, "made_from": made_from}
        paths = [(split, f"{name}/{file}") for split, file, _ in SHARDS]
        if name == "vocab":
            return stage.table(name, schema_of(name), [(None, "vocab.parquet")], provenance)
        return stage.table(name, schema_of(name), paths, provenance)

    return [
        table("examples", []),
        table("vocab", []),
        table("tokens", ["examples"]),
        table("scores/base", ["tokens"]),
    ]


def _vocab() -> pa.Table:
    texts = [*"0123456789", " ", *(f"<0x{byte:02X}>" for byte in "🙂".encode()), "<eos>"]
    raw = [*(t.encode() for t in texts[:11]), *(bytes([b]) for b in "🙂".encode()), b"<eos>"]
    return pa.Table.from_pylist(
        [
            {"token_id": k, "token": text, "bytes": piece, "special": text == "<eos>"}
            for k, (text, piece) in enumerate(zip(texts, raw, strict=True))
        ],
        schema=schema_of("vocab"),
    )
