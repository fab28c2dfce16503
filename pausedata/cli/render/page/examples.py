"""The examples of the page: which ones, and all that is known of their tokens, packed."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pausedata.cli.render.example import pieces_of
from pausedata.cli.render.visible import visible
from pausedata.store.dataset import Version, check_shards

Place = tuple[int, int]  # the number of a shard, over all splits, and of a row in it


def packed(version: Version, places: list[Place]) -> list[dict[str, Any]]:
    """The examples at ``places`` as the page's script reads them.

    Scores are as stored (float32), entropies in thousandths of a nat, ranks as decimals; a token's
    text is a piece of the response, and it is named besides only where that is not its own.
    """
    tables = {
        name: version.table(name)
        for name in [
            "examples",
            "tokens",
            *(f"scores/{run}" for run in version.runs),
            *(f"placements/{placement}" for placement in version.placements),
        ]
    }
    for table in tables.values():
        check_shards(table, tables["tokens"])
    by_shard: dict[int, list[int]] = {}
    for shard, row in places:
        by_shard.setdefault(shard, []).append(row)
    found: dict[str, list[dict[str, Any]]] = {
        name: [
            row
            for number, rows in by_shard.items()
            for row in table.read(table.shards[number]).take(pa.array(rows)).to_pylist()
        ]
        for name, table in tables.items()
    }
    names = version.token_texts({i for row in found["tokens"] for i in row["response_ids"]})
    return [_packed({name: found[name][k] for name in found}, names) for k in range(len(places))]


def _packed(rows: dict[str, dict[str, Any]], names: dict[int, str]) -> dict[str, Any]:
    example, tokens = rows["examples"], rows["tokens"]
    starts, ends = tokens["char_start"], tokens["char_end"]
    pieces, rest = pieces_of(example["response"], ends)
    shown = [_shown(piece) for piece in pieces]
    own = [_shown(names.get(id, "")) for id in tokens["response_ids"]]
    return {
        "id": example["id"],
        "split": example["split"],
        "prompt": _shown(example["prompt"]),
        "response": "".join(shown) + _shown(rest),
        "len": ",".join(str(_utf16(piece)) for piece in shown),
        "names": {str(k): name for k, name in enumerate(own) if name and name != shown[k]},
        # Tokens that begin inside a character, before which no pause may stand.
        "no": [k for k in range(1, len(starts)) if starts[k] < ends[k - 1]],
        "runs": [
            {
                "l": _base64(np.array(row["logprob"], "<f4")),
                "r": None if row["rank"] is None else ",".join(map(str, row["rank"])),
                "e": None if row["entropy"] is None else _base64(_thousandths(row["entropy"])),
            }
            for name, row in rows.items()
            if name.startswith("scores/")
        ],
        "places": [
            [n for place in zip(row["position"], row["count"], strict=True) for n in place]
            for name, row in rows.items()
            if name.startswith("placements/")
        ],
    }


def _shown(text: str) -> str:
    """The text with pictures or escapes for what could disturb the page's own lines."""
    return visible(text, newline="\n")


def _utf16(text: str) -> int:
    """How long JavaScript takes it for."""
    return len(text.encode("utf-16-le")) // 2


def _thousandths(entropy: list[float]) -> NDArray[np.uint16]:
    return np.clip(np.round(np.array(entropy) * 1000), 0, 65535).astype("<u2")


def _base64(values: NDArray[Any]) -> str:
    return base64.b64encode(values.tobytes()).decode()
