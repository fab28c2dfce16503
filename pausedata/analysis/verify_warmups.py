"""What a manifest says of a run's warm-up agrees with itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pausedata.store.manifest import TableEntry


def warmup_problems(name: str, entry: TableEntry) -> Iterator[str]:
    """What is wrong with the warm-up that a table of scores names; nothing where it names none.

    Of outcomes that a later release may add nothing is said.
    """
    asked, found = entry.provenance.get("inputs", {}).get("warmup"), entry.provenance.get("warmup")
    if asked is None and found is None:
        return
    if not isinstance(asked, dict):
        yield f"{name}: a warm-up is recorded that its inputs do not name"
        return
    if not isinstance(found, dict):
        yield f"{name}: its inputs name a warm-up, of which nothing is recorded"
        return
    settings = {key: value for key, value in asked.items() if key != "of"}
    if found.get("settings") != settings:
        yield f"{name}: its warm-up was recorded with other settings than its inputs name"
    if found.get("corpus") != asked.get("of"):
        yield f"{name}: its warm-up was recorded on other tokens than its inputs name"
    yield from (f"{name}: {problem}" for problem in _of_outcome(found, settings))


def _of_outcome(found: dict[str, Any], settings: dict[str, Any]) -> Iterator[str]:
    """Whether the folds are such that they lead to the outcome."""
    folds = found.get("folds")
    if not isinstance(folds, list) or not all(isinstance(fold, dict) for fold in folds):
        yield "of its warm-up no folds are recorded"
    elif found.get("outcome") == "base" and not found.get("reason"):
        yield "its model scored as it is, and no reason is recorded"
    elif found.get("outcome") == "warmed":
        if [fold.get("fold") for fold in folds] != [*range(1, settings.get("folds", 0) + 1)]:
            yield "not all folds of its warm-up are recorded"
        if not all(fold.get("weights_sha256") for fold in folds):
            yield "a fold of its warm-up has no hash of its model's weights"
