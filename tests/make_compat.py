"""Makes tests/data/pausedata-1, the dataset that every later release has to read.

It was run once, by release 0.1.0, and what it made is committed: running it again would keep a
later release's dataset in its place. The input is written by hand: no model, no tokenizer.

    python tests/make_compat.py FOLDER
"""

from __future__ import annotations

import shutil
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
from handmade import add_export, add_placement

from pausedata.core.progress import Silent
from pausedata.pipeline.recipe import Export, Placement
from pausedata.pipeline.transaction import Transaction
from pausedata.store.commit import prepare_folder
from pausedata.store.manifest import PauseEntry, SplitRows
from pausedata.store.shards import shard_name
from pausedata.store.staging import Staging
from pausedata.store.tables import schema_of

VOCAB = ["<eos>", " The", " sum", " is", " 4", "\n", " 🙂", "🙂(2)", ".", "Q", ":"]
EOS, THE, SUM, IS, FOUR, LINE, EMOJI_1, EMOJI_2, DOT, Q, COLON = range(len(VOCAB))
PAUSE = PauseEntry(token="[PAUSE]", id=len(VOCAB), id_is_new=True)

# (id, prompt, response, [(token, char_start, char_end, logprob, rank)]), by split and shard. The
# log-probabilities are exact in float32.
SHARDS: dict[str, list[list[Any]]] = {
    "train": [
        [
            (
                "e1", "Q:", " The sum\n 4",
                [(THE, 0, 4, -0.5, 1), (SUM, 4, 8, -3.0, 9), (LINE, 8, 9, -0.25, 1),
                 (FOUR, 9, 11, -1.5, 2), (EOS, 11, 11, -0.125, 1)],
            ),
            (
                "e2", "Q:", " 🙂.",  # the emoji's second token begins inside it
                [(EMOJI_1, 0, 2, -9.0, 500), (EMOJI_2, 1, 2, -12.0, 900), (DOT, 2, 3, -2.5, 4),
                 (EOS, 3, 3, -1.0, 1)],
            ),
        ],
        [("e3", "Q:", " is 4", [(IS, 0, 3, -0.75, 1), (FOUR, 3, 5, -0.75, 1)])],  # truncated
    ],
    "test": [[("e4", "Q:", " 4", [(FOUR, 0, 2, -0.375, 1), (EOS, 2, 2, -6.5, 33)])]],
}  # fmt: skip


def main(root: Path) -> None:
    """Version 1, the corpus with two runs and two placements; then 2, with the exports, alone."""
    prepare_folder(root)
    work = Transaction(root, None, Silent())
    work.name, work.pause = "pausedata-1", PAUSE
    tokens = {
        "source": {"files": ["5f" * 32], "limit": None, "id": "id", "keep": None, "split": "train"},
        "prompt": "{{ question }}", "response": "{{ answer }}",
        "scoring": {"max_length": 8, "overlong": "truncate", "append_eos": True},
        "pause": {"token": "[PAUSE]"}, "tokenizer": "sha256:" + "70" * 32, "chat_template": None,
    }  # fmt: skip
    with closing(Staging(root)) as staging:
        stage = staging.stage("tokens", tokens)

        def make(name: str, row: Any, inputs: dict[str, Any], made_from: list[str]) -> None:
            paths = []
            for split, shards in SHARDS.items():
                for number, examples in enumerate(shards):
                    path = f"{name}/{shard_name(split, number, len(shards))}"
                    rows = [row(split, k, *example) for k, example in enumerate(examples)]
                    stage.write(path, pa.Table.from_pylist(rows, schema=schema_of(name)))
                    paths.append((split, path))
            provenance = {"inputs": inputs, "made_from": made_from}
            work.put(stage.table(name, schema_of(name), paths, provenance))

        vocabulary = [
            {"token_id": k, "token": text, "bytes": text.encode(), "special": k == EOS}
            for k, text in enumerate(VOCAB)
        ]
        stage.write("vocab.parquet", pa.Table.from_pylist(vocabulary, schema=schema_of("vocab")))
        facts = {"inputs": {"tokenizer": tokens["tokenizer"]}, "made_from": []}
        work.put(stage.table("vocab", schema_of("vocab"), [(None, "vocab.parquet")], facts))
        make("examples", _example, tokens, [])
        make("tokens", _tokens, tokens, ["examples"])
        content = work.tables["tokens"].entry.content
        for run, row in (("base", _base), ("epoch-1", _epoch)):
            inputs = {
                "run": run, "model": {"weights_sha256": "77" * 32}, "dtype": "float32",
                "backend": "transformers", "engine": {}, "tokens": content,
            }  # fmt: skip
            make(f"scores/{run}", row, inputs, ["tokens"])
    for name, keys in {
        "dit": {"strategy": "lowest_logprob", "positions": 2, "tokens": 2},
        "dit-epoch-1": {"strategy": "lowest_logprob", "positions": 2, "run": "epoch-1"},
    }.items():
        add_placement(work, name, Placement(**keys))
    base = work.commit(
        "build pausedata-1.yaml",
        name="pausedata-1",
        recipe={"name": "pausedata-1", "scoring": {"run": "base"}},
        pins={"scoring.backend": "transformers"},
        pause=PAUSE,
        rows={
            "train": SplitRows(into=4, out=3, dropped={"null": 1}, noted={"truncated": 1}),
            "test": SplitRows(into=1, out=1),
        },
    ).version
    work = Transaction(root, base, Silent())
    add_export(work, "dit-rows", Export(placement="dit", format="tokenized"))
    add_export(work, "dit-hf", Export(placement="dit", format="hf-disk"))
    work.commit("export pausedata-1 --placement dit --format tokenized --name dit-rows")
    shutil.rmtree(root / "staging")  # no part of the format
    shutil.rmtree(base.folder)  # as `gc` does: it would double what is kept here


def _example(split: str, k: int, id: str, prompt: str, response: str, _: Any) -> dict[str, Any]:
    row = {"id": id, "split": split, "row": k, "prompt": prompt, "response": response}
    return row | {"meta": '{"level":1}'}


def _tokens(split: str, k: int, id: str, prompt: str, response: str, each: Any) -> dict[str, Any]:
    return {
        "id": id, "prompt_ids": [Q, COLON], "response_ids": [t[0] for t in each],
        "char_start": [t[1] for t in each], "char_end": [t[2] for t in each],
        "truncated": each[-1][0] != EOS,
    }  # fmt: skip


def _base(split: str, k: int, id: str, prompt: str, response: str, each: Any) -> dict[str, Any]:
    logprob = [t[3] for t in each]
    return {
        "id": id, "n_tokens": len(each), "mean_logprob": sum(logprob) / len(logprob),
        "min_logprob": min(logprob), "logprob": logprob, "rank": [t[4] for t in each],
        "entropy": [0.5] * len(each),
    }  # fmt: skip


def _epoch(split: str, k: int, id: str, prompt: str, response: str, each: Any) -> dict[str, Any]:
    """The same log-probabilities the other way round, without ranks and entropies."""
    row = _base(split, k, id, prompt, response, each)
    return row | {"logprob": row["logprob"][::-1], "rank": None, "entropy": None}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
