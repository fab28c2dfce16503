"""A small dataset, written straight through the store: scores and pauses chosen by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from pausedata.store import commit
from pausedata.store.dataset import Table, Version, open_version
from pausedata.store.files import sha256_of
from pausedata.store.manifest import PauseEntry, SplitRows
from pausedata.store.opening import POINTER
from pausedata.store.shards import shard_name
from pausedata.store.staging import Stage
from pausedata.store.tables import schema_of

# An emoji is four bytes: two tokens of two bytes each here, that share one character.
VOCAB = ["<eos>", " The", " sum", " is", " 4", "\n", ' "ok"', " 🙂", "🙂(2)", ".", " [bold]x"]
PAUSE_ID = len(VOCAB)
EOS, THE, SUM, IS, FOUR, LINE, QUOTED, EMOJI_1, EMOJI_2, DOT, MARKUP = range(len(VOCAB))

# (id, prompt, response, [(token, char_start, char_end, logprob, rank)]); entropy is 2 × -logprob.
E1 = (
    "e1", "Q: 2+2?\nA:", " The sum\n 4",
    [(THE, 0, 4, -0.5, 1), (SUM, 4, 8, -3.0, 9), (LINE, 8, 9, -0.25, 1), (FOUR, 9, 11, -1.5, 2),
     (EOS, 11, 11, -0.125, 1)],
)  # fmt: skip
E2 = (
    "e2", "Smile:", " 🙂.",
    [(EMOJI_1, 0, 2, -9.0, 500), (EMOJI_2, 1, 2, -0.0625, 1), (DOT, 2, 3, -2.5, 4),
     (EOS, 3, 3, -1.0, 1)],
)  # fmt: skip
E3 = ("e3", "It's", ' "ok"', [(QUOTED, 0, 5, -4.5, 12), (EOS, 5, 5, -0.75, 1)])
E4 = ("e4", "x", " The [bold]x", [(THE, 0, 4, -1.0, 2), (MARKUP, 4, 12, -7.0, 80)])
E5 = ("e5", "y", " is", [(IS, 0, 3, -0.375, 1), (EOS, 3, 3, -6.5, 33)])
SHARDS: list[tuple[str, int, int, list[Any]]] = [  # split, number, of, examples
    ("train", 0, 3, [E1, E2]),
    ("train", 1, 3, [E3]),
    ("train", 2, 3, [E4]),
    ("test", 0, 1, [E5]),
]
# id → positions and counts. `three` was made from base; `fixed` from no run, and e1's last pause
# stands after the last token.
THREE = {"e1": [(1, 2), (3, 1)], "e2": [(0, 1)], "e3": [(0, 1)], "e4": [(1, 1)], "e5": [(1, 1)]}
FIXED = {"e1": [(0, 3), (5, 1)], "e2": [], "e3": [(2, 4)], "e4": [], "e5": [(0, 3)]}


def make_dataset(
    root: Path,
    *,
    runs: bool = True,
    placements: bool = True,
    shards: list[tuple[str, int, int, list[Any]]] | None = None,
    score_shards: list[tuple[str, int, int, list[Any]]] | None = None,
    three: dict[str, list[tuple[int, int]]] = THREE,
    base: Version | None = None,
) -> Version:
    """Version 1 at ``root``, or the one after ``base``: splits train (three shards), test (one).

    Runs: ``base``, as the examples say, and ``other``, whose log-probabilities are one less and
    which has neither ranks nor entropies. ``score_shards`` shards both otherwise than the rest.
    """
    shards = SHARDS if shards is None else shards
    stage = Stage(root / "staging" / "made-by-hand")
    tables = {
        "examples": _table(stage, "examples", shards, _example),
        "tokens": _table(stage, "tokens", shards, _tokens),
        "vocab": _vocab(stage),
    }
    if runs:
        for name in ("base", "other"):
            provenance = {"inputs": {"run": name}, "model": "by-hand"}
            rows = _base if name == "base" else _other
            table = _table(stage, f"scores/{name}", score_shards or shards, rows, provenance)
            tables[table.name] = table
    if placements:
        inputs: dict[str, Any] = {"strategy": "lowest_logprob", "run": "base" if runs else None}
        tables["placements/three"] = _placed(stage, "three", shards, three, inputs)
        tables["placements/fixed"] = _placed(stage, "fixed", shards, FIXED, {"strategy": "by-hand"})
    splits = list(dict.fromkeys(split for split, *_ in shards))
    count = {s: sum(len(e) for split, _, _, e in shards if split == s) for s in splits}
    change = commit.Change(
        command="by hand",
        tables=tables,
        name="small",
        recipe={"name": "small"},
        pins={},
        pause=PauseEntry(token="[PAUSE]", id=PAUSE_ID, id_is_new=True),
        rows={s: SplitRows.model_validate({"in": n, "out": n}) for s, n in count.items()},
    )
    return commit.commit(root, base, change, card=lambda m: "# card\n").version


def _table(stage: Stage, name: str, shards: Any, row: Any, provenance: Any = None) -> Table:
    paths = []
    schema = schema_of(name)
    for split, number, of, examples in shards:
        path = f"{name}/{shard_name(split, number, of)}"
        rows = [row(split, k, example) for k, example in enumerate(examples)]
        stage.write(path, pa.Table.from_pylist(rows, schema=schema))
        paths.append((split, path))
    return stage.table(name, schema, paths, provenance or {"inputs": {}})


def _placed(stage: Stage, name: str, shards: Any, chosen: Any, inputs: dict[str, Any]) -> Table:
    def row(split: str, k: int, example: Any) -> dict[str, Any]:
        pauses = chosen.get(example[0], [])
        return {
            "id": example[0],
            "position": [position for position, _ in pauses],
            "count": [count for _, count in pauses],
        }

    return _table(stage, f"placements/{name}", shards, row, {"inputs": inputs})


def _example(split: str, k: int, example: Any) -> dict[str, Any]:
    id, prompt, response, _ = example
    meta = '{"level": 1}'
    return {
        "id": id,
        "split": split,
        "row": k,
        "prompt": prompt,
        "response": response,
        "meta": meta,
    }


def _tokens(split: str, k: int, example: Any) -> dict[str, Any]:
    id, _, _, tokens = example
    ids, starts, ends = ([t[i] for t in tokens] for i in range(3))
    return {
        "id": id, "prompt_ids": [THE, FOUR, DOT], "response_ids": ids, "char_start": starts,
        "char_end": ends, "truncated": False,
    }  # fmt: skip


def _base(split: str, k: int, example: Any) -> dict[str, Any]:
    id, _, _, tokens = example
    logprob = [t[3] for t in tokens]
    return {
        "id": id, "n_tokens": len(tokens), "mean_logprob": sum(logprob) / max(1, len(logprob)),
        "min_logprob": min(logprob, default=0.0), "logprob": logprob,
        "rank": [t[4] for t in tokens], "entropy": [-2 * p for p in logprob],
    }  # fmt: skip


def _other(split: str, k: int, example: Any) -> dict[str, Any]:
    row = _base(split, k, example)
    lower = [p - 1 for p in row["logprob"]]
    changed = {
        "logprob": lower,
        "mean_logprob": row["mean_logprob"] - 1,
        "min_logprob": min(lower, default=-1.0),
    }
    return row | changed | {"rank": None, "entropy": None}


def _vocab(stage: Stage) -> Table:
    schema = schema_of("vocab")
    rows = [
        {"token_id": i, "token": text, "bytes": text.encode(), "special": i == EOS}
        for i, text in enumerate(VOCAB)
    ]
    stage.write("vocab.parquet", pa.Table.from_pylist(rows, schema=schema))
    return stage.table("vocab", schema, [(None, "vocab.parquet")], {"inputs": {}})


def resealed(version: Version) -> Version:
    """The version after its sizes and checksums were made to fit the files that are there."""
    manifest = json.loads((version.folder / "manifest.json").read_text(encoding="utf-8"))
    for table in manifest["tables"].values():
        for entry in [*table["shards"], *table["files"]]:
            path = version.folder / entry["path"]
            entry.update(bytes=path.stat().st_size, sha256=sha256_of(path))
    path = version.folder / "manifest.json"
    path.chmod(0o644)
    path.write_text(json.dumps(manifest), encoding="utf-8")
    pointer = json.loads((version.root / POINTER).read_text(encoding="utf-8"))
    pointer["sha256"] = sha256_of(path)
    (version.root / POINTER).write_text(json.dumps(pointer), encoding="utf-8")
    return open_version(version.root)
