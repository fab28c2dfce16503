"""The dataset card that every version carries, so that ``datasets`` and the Hub find its tables."""

from __future__ import annotations

from pathlib import PurePosixPath

import yaml

from pausedata.choice import told
from pausedata.store.manifest import Manifest, TableEntry


def card(manifest: Manifest) -> str:
    """README.md of a version: YAML ``configs`` for every table with splits, and the facts."""
    configs = [
        {
            "config_name": _config_name(name),
            "data_files": [
                {"split": split, "path": path} for split, path in _patterns(entry).items()
            ],
        }
        for name, entry in manifest.tables.items()
        if _patterns(entry)  # neither vocab nor what has no rows to load
    ]
    header = yaml.safe_dump(
        {"library_name": "pausedata", "tags": ["pausedata"], "configs": configs}, sort_keys=False
    )
    rows = sum(split.out for split in manifest.rows.values())
    lines = [
        f"# {manifest.name}",
        "",
        f"{rows} examples, version {manifest.version}, format {manifest.format}, "
        f"made by {manifest.created_by}.",
        "",
        "| table | rows | made from |",
        "|---|---|---|",
        *(
            f"| `{name}` | {entry.rows} | {_origin(entry)} |"
            for name, entry in manifest.tables.items()
        ),
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        f'load_dataset("parquet", data_files="{_first_pattern(manifest)}")',
        "```",
        "",
    ]
    return f"---\n{header}---\n" + "\n".join(lines)


def _config_name(table: str) -> str:
    """Runs and placements keep their kind in the name; an export goes by its own."""
    kind, _, own = table.partition("/")
    return own if kind == "exports" else table.replace("/", "-")


def _patterns(entry: TableEntry) -> dict[str, str]:
    patterns = {}
    for shard in entry.shards:
        if shard.split is not None:
            folder = PurePosixPath(shard.path).parent
            patterns[shard.split] = f"{folder}/{shard.split}-*-of-*.parquet"
    return patterns


def _first_pattern(manifest: Manifest) -> str:
    return next(iter(_patterns(manifest.tables["examples"]).values()))


def _origin(entry: TableEntry) -> str:
    inputs = entry.provenance.get("inputs", {})
    if "strategy" in inputs:
        run = f" of {inputs['run']}" if inputs.get("run") else ""
        return f"{inputs['strategy']}{run}"
    if "placement" in inputs:
        return f"placement `{told(inputs['placement'])}`, format `{inputs['format']}`"
    return ", ".join(f"`{name}`" for name in entry.provenance.get("made_from", []))
