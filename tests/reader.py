"""A reader written from docs/format.md alone: the `tokenized` export of a placement, as bytes."""

import hashlib
import json
from pathlib import Path

import pyarrow.parquet as parquet


def read(root: Path, placement: str, split: str) -> bytes:
    pointer = json.loads((root / "pausedata.json").read_bytes())
    assert pointer["format"] == "pausedata/1"
    folder = root / "versions" / f"{pointer['current']:04d}"
    raw = (folder / "manifest.json").read_bytes()
    assert hashlib.sha256(raw).hexdigest() == pointer["sha256"]
    manifest = json.loads(raw)
    assert manifest["format"] == "pausedata/1" and manifest["min_reader"] <= 1

    def rows(table: str) -> list[dict]:
        shards = manifest["tables"][table]["shards"]
        paths = [folder / shard["path"] for shard in shards if shard["split"] == split]
        return [row for path in paths for row in parquet.ParquetFile(path).read().to_pylist()]

    lines = []
    for tokens, pauses in zip(rows("tokens"), rows(f"placements/{placement}"), strict=True):
        assert tokens["id"] == pauses["id"]
        counts = dict(zip(pauses["position"], pauses["count"], strict=True))
        ids, labels = list(tokens["prompt_ids"]), [-100] * len(tokens["prompt_ids"])
        for position, token in enumerate([*tokens["response_ids"], None]):
            count = counts.get(position, 0)
            ids += [manifest["pause"]["id"]] * count
            labels += [-100] * count
            if token is not None:
                ids.append(token)
                labels.append(token)
        row = {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}
        lines.append(json.dumps(row, separators=(",", ":")) + "\n")
    return "".join(lines).encode()
