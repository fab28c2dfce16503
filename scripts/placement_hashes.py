"""Whether a placement is the same under every Python: its content hash by each strategy.

    python scripts/placement_hashes.py make DATASET      once, under any Python
    python scripts/placement_hashes.py hash DATASET      under each: a line for each placement

The dataset has the word problems and texts that are hard to cut, with made-up scores of two runs.
`hash` places by every strategy with the parameters of its worked examples, presets among them, on
a copy, and prints their content hashes: the lines are to be equal.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from pausedata import strategies
from pausedata.pipeline import commands
from pausedata.pipeline.recipe import Placement
from pausedata.store import commit
from pausedata.store.dataset import Table, open_version
from pausedata.store.manifest import PauseEntry, SplitRows
from pausedata.store.staging import Stage
from pausedata.store.tables import schema_of

PROBLEMS = Path(__file__).parents[1] / "recipes" / "data" / "word_problems.jsonl"
HARD = [
    "He pays $1,148.50 - 3, or -3, 4%. So 7 * (2 + 5) = <<7*(2+5)=49>>49.\n#### 49",
    "x = (5 * 12) / 3 ≥ 2x² + √5, i.e. ½ of 12 ⇒ 6. Dr. No. 3 says “Yes.” Done…",
    "価格は３０円です。２×３＝６！終わり。 Naïve café, नमस्ते, ไทย, 👩🏽‍🚀 and 🙂🙂.",
    "1,2,3; 10-15; 2/3 (18) [$5] Rs. 20/- 5 € · .5 + .25 = .75\n\n \tEnd",
]
# What strategies need beside their worked examples' parameters.
ELIGIBLE = {"without": ["special", "eos", "whitespace", "punctuation", "first"]}
MORE: list[tuple[str, dict[str, Any]]] = [
    ("lowest_logprob", {"positions": 3, "eligible": ELIGIBLE}),
    ("random", {"positions": 3, "eligible": {"inside": r"(?>\d+)|\w+(?=[.!])"}}),
]
TOKEN = re.compile(r"\s?\d|\s?[^\W\d]{1,5}|.", re.DOTALL)


def make(root: Path) -> None:
    """Write the dataset: its scores are drawn once, here, and only read after that."""
    lines = PROBLEMS.read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["answer"] for line in lines] + HARD
    draw = random.Random(0)
    tokens = {f"row-{k:03}": [m.span() for m in TOKEN.finditer(t)] for k, t in enumerate(texts)}
    words = sorted({t[a:b] for t, spans in zip(texts, tokens.values(), strict=True)
                    for a, b in spans} | {""})  # fmt: skip
    stage = Stage(root / "staging" / "made")

    def table(name: str, row: Callable[[str, str, Any], dict[str, Any]]) -> Table:
        path = f"{name}/train-00000-of-00001.parquet"
        rows = [row(id, t, [*s, (len(t), len(t))])
                for (id, s), t in zip(tokens.items(), texts, strict=True)]  # fmt: skip
        stage.write(path, pa.Table.from_pylist(rows, schema=schema_of(name)))
        return stage.table(name, schema_of(name), [("train", path)], {"inputs": {}})

    def scores(id: str, text: str, spans: Any) -> dict[str, Any]:
        # Quarters: so that there are ties.
        logprob = [-draw.randrange(40) / 4 for _ in spans]
        return {"id": id, "n_tokens": len(spans), "mean_logprob": sum(logprob) / len(spans),
                "min_logprob": min(logprob), "logprob": logprob,
                "rank": [draw.randrange(1, 50) for _ in spans],
                "entropy": [draw.randrange(24) / 8 for _ in spans]}  # fmt: skip

    vocab = [{"token_id": k, "token": w, "bytes": w.encode(), "special": not w}
             for k, w in enumerate(words)]  # fmt: skip
    stage.write("vocab.parquet", pa.Table.from_pylist(vocab, schema=schema_of("vocab")))
    tables = [
        table("examples", lambda id, text, _: {"id": id, "split": "train", "row": int(id[4:]),
              "prompt": "Q:", "response": text, "meta": "{}"}),
        table("tokens", lambda id, text, spans: {"id": id, "prompt_ids": [0],
              "response_ids": [words.index(text[a:b]) for a, b in spans],
              "char_start": [a for a, _ in spans], "char_end": [b for _, b in spans],
              "truncated": False}),
        table("scores/base", scores),
        table("scores/reference", scores),
        stage.table("vocab", schema_of("vocab"), [(None, "vocab.parquet")], {"inputs": {}}),
    ]  # fmt: skip
    made = commit.Change(
        "make", {table.name: table for table in tables}, name="hard", recipe={}, pins={},
        pause=PauseEntry(token="[PAUSE]", id=len(words), id_is_new=True),
        rows={"train": SplitRows(into=len(texts), out=len(texts))},
    )  # fmt: skip
    commit.commit(root, None, made, card=lambda manifest: "")


def hashes(root: Path) -> list[str]:
    """``strategy {parameters} sha256:…`` for each placement, made on a copy of ``root``."""
    named: dict[str, tuple[str, dict[str, Any]]] = {
        "a": ("lowest_logprob", {"positions": 4}),
        "b": ("append", {"tokens": 2}),
    }
    worked = [(name, p) for name in strategies.own() for p in strategies.get(name).worked]
    later = {f"p{k}": each for k, each in enumerate([*worked, *MORE])}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "dataset")
        shutil.copytree(root, copy, symlinks=True)
        for asked in (named, later):  # some are made of "a" and "b"
            commands.place(copy, {
                name: Placement.model_validate({"strategy": strategy, "run": "base", **parameters})
                for name, (strategy, parameters) in asked.items()
            })  # fmt: skip
        tables = open_version(copy).manifest.tables
        return [
            f"{strategy} {json.dumps(parameters, sort_keys=True, ensure_ascii=False)} "
            f"{tables[f'placements/{name}'].content}"
            for name, (strategy, parameters) in (named | later).items()
        ]


def main() -> None:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["make", "hash"])
    parser.add_argument("dataset", type=Path)
    given = parser.parse_args()
    if given.what == "make":
        make(given.dataset)
    else:
        print("\n".join(hashes(given.dataset)))


if __name__ == "__main__":
    main()
