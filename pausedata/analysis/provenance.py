"""Where a version comes from, as far as its manifest says: for dataset cards and reports."""

from __future__ import annotations

from statistics import mean
from typing import Any

from pausedata.core.network import is_repo
from pausedata.store.manifest import Manifest, TableEntry


def source(manifest: Manifest) -> dict[str, Any]:
    """Where the examples come from, as recorded with the table ``examples``."""
    facts = manifest.tables["examples"].provenance.get("source") or {}
    hub = facts.get("hub") or (manifest.recipe.get("source") or {}).get("hub")
    return {
        "hub": hub if isinstance(hub, str) and is_repo(hub) else None,
        "name": hub,
        "config": facts.get("config"),
        "revision": facts.get("revision"),
        "files": facts.get("files") or [],
    }


def run(manifest: Manifest, name: str) -> dict[str, Any]:
    """Which model made a run, and how it scored; values that were not recorded are None."""
    facts = manifest.tables[f"scores/{name}"].provenance
    inputs, model = facts.get("inputs", {}), facts.get("model") or {}
    model = model if isinstance(model, dict) else {"id": model}
    versions = facts.get("versions") or {}
    return {
        "name": name,
        "model": model.get("id"),
        "link": is_repo(str(model.get("id"))),
        "revision": model.get("revision"),
        "weights": model.get("weights_sha256"),
        "dtype": inputs.get("dtype"),
        "backend": inputs.get("backend"),
        "warmup": warmup(manifest.tables[f"scores/{name}"]),
        "versions": {key: ", ".join(map(str, value)) for key, value in versions.items()},
    }


def warmup(entry: TableEntry) -> str | None:
    """How the model of a run came to score, in words; None where no warm-up was asked for."""
    asked, found = entry.provenance.get("inputs", {}).get("warmup"), entry.provenance.get("warmup")
    if not asked:
        return None
    if isinstance(found, dict) and found.get("outcome") == "base":
        return f"as it is: {found.get('reason') or 'its warm-up did not help'}"
    return f"warmed up{_training(found)}"


def _training(record: object) -> str:
    """``: 2 x 256 rows, held-out loss 1.32 to 0.78``: of each fold, and the mean over folds."""
    folds = record.get("folds") if isinstance(record, dict) else None
    keys = ("rows", "loss_before", "loss_after")
    known = [tuple(fold.get(key) for key in keys) for fold in folds or []]
    if not known or any(value is None for fold in known for value in fold):
        return ""
    rows, before, after = zip(*known, strict=True)
    each = f"{len(rows)} x {rows[0]:,}" if len(set(rows)) == 1 else " and ".join(map(str, rows))
    return f": {each} rows, held-out loss {mean(before):.2f} to {mean(after):.2f}"


def length_limit(manifest: Manifest) -> dict[str, Any] | None:
    """How many tokens an example may have, and what was done with longer ones."""
    tokens = manifest.tables.get("tokens")
    rules = tokens.provenance.get("inputs", {}).get("scoring") if tokens else None
    if not isinstance(rules, dict) or not isinstance(rules.get("max_length"), int):
        return None
    fates = {"skip": "left out", "truncate": "cut at the end of the response"}
    return {"tokens": rules["max_length"], "fate": fates.get(str(rules.get("overlong")))}


def gate(entry: TableEntry) -> str:
    """What a gate's record says, in a few words."""
    found = entry.provenance.get("result") or {}
    verdict, model = found.get("verdict") or "measured", (found.get("model") or {}).get("id")
    return f"{verdict}: {found.get('placement')} with {model}"
