"""The card's YAML: where the tables are, and what the Hub wants to know of a dataset."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import PurePosixPath
from typing import Any

import yaml

from pausedata.core.held_out import is_evaluated
from pausedata.core.network import is_repo
from pausedata.hub.card.own import PersonsPart
from pausedata.store.manifest import Manifest, TableEntry

_SIZES = [(10**3, "1K"), (10**4, "10K"), (10**5, "100K"), (10**6, "1M"), (10**7, "10M"),
          (10**8, "100M"), (10**9, "1B")]  # fmt: skip


def header(
    manifest: Manifest,
    own: PersonsPart,
    tables: Collection[str],
    infos: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """The front matter, of ``tables`` alone; ``infos``: what `datasets` knows of each of them.

    A key of ``own`` replaces the generated one; tags are joined.
    """
    named = [name for name in manifest.tables if name in tables and patterns(manifest.tables[name])]
    generated: dict[str, Any] = {
        "pretty_name": manifest.name,
        "tags": ["pausedata", "pause-tokens", "token-log-probabilities"],
        "task_categories": ["text-generation"],
        "size_categories": [size_category(sum(rows.out for rows in manifest.rows.values()))],
        "library_name": "pausedata",
    }
    if (source := (manifest.recipe.get("source") or {}).get("hub")) and is_repo(source):
        generated["source_datasets"] = [source]
    if models := base_models(manifest):
        generated["base_model"] = models
    names, default = config_names(manifest), _default(manifest, named)
    configs = [
        {
            "config_name": names[name],
            "data_files": [
                {"split": split, "path": path}
                for split, path in patterns(manifest.tables[name]).items()
            ],
            **({"default": True} if name == default else {}),
        }
        for name in named
    ]
    generated["configs"] = configs
    if infos:
        generated["dataset_info"] = [
            {"config_name": names[name], **infos[name]} for name in named if name in infos
        ]
    front = {key: value for key, value in own.front.items() if key != "tags"}
    tags = own.front.get("tags", [])
    tags = tags if isinstance(tags, list) else [tags]
    generated["tags"] = list(dict.fromkeys([*generated["tags"], *tags]))
    # The person's keys first; the generated ones end with the long lists.
    merged = {**front, **{key: value for key, value in generated.items() if key not in front}}
    text = yaml.safe_dump(merged, sort_keys=False, allow_unicode=True, width=100)
    return f"---\n{text}---\n"


def config_names(manifest: Manifest) -> dict[str, str]:
    """The config of each table: its name with ``-`` for ``/``; of an export without ``exports/``,
    unless another table has that name.
    """
    own = {n: n.replace("/", "-") for n in manifest.tables if not n.startswith("exports/")}
    exports = {n: n.partition("/")[2] for n in manifest.tables if n.startswith("exports/")}
    taken = set(own.values())
    return own | {n: n.replace("/", "-") if name in taken else name for n, name in exports.items()}


def patterns(entry: TableEntry) -> dict[str, str]:
    """The pattern of each split's files; empty for a table without splits (``vocab``)."""
    found = {}
    for shard in entry.shards:
        if shard.split is not None:
            folder = PurePosixPath(shard.path).parent
            found[shard.split] = f"{folder}/{shard.split}-*-of-*.parquet"
    return found


def base_models(manifest: Manifest) -> list[str]:
    """The models of the Hub that scored, or whose tokenizer made the tokens."""
    recipe = manifest.recipe
    specs = [recipe.get("model"), *((run or {}).get("model") for run in _runs(recipe).values())]
    for name in manifest.names("scores"):
        specs.append(manifest.tables[f"scores/{name}"].provenance.get("model"))
    ids = [spec.get("id") for spec in specs if isinstance(spec, dict)]
    return list(dict.fromkeys(i for i in ids if isinstance(i, str) and is_repo(i)))


def size_category(rows: int) -> str:
    """The Hub's word for how many rows there are."""
    below = "n<1K"
    for (least, name), upper in zip(_SIZES, [*(n for _, n in _SIZES[1:]), None], strict=True):
        if rows >= least:
            below = f"{name}<n<{upper}" if upper else f"n>{name}"
    return below


def _runs(recipe: dict[str, Any]) -> dict[str, Any]:
    return recipe.get("runs") or {}


def first_export(manifest: Manifest, named: list[str]) -> str | None:
    """The first export of ``named`` that is there to train on; not one of what is held out."""

    def is_trained(name: str) -> bool:
        split = manifest.tables[name].provenance.get("inputs", {}).get("split")
        return split is None or not is_evaluated(split)

    exports = (name for name in named if name.startswith("exports/"))
    return next(filter(is_trained, exports), None)


def _default(manifest: Manifest, named: list[str]) -> str | None:
    """The config that loads by default: the first export, else the examples."""
    return first_export(manifest, named) or ("examples" if "examples" in named else None)
