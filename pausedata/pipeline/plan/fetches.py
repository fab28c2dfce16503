"""What a build would fetch from the Hub, and what the model cache would take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pausedata.core.network import COMMIT
from pausedata.models import cache as model_cache
from pausedata.models.ref import FETCHED, ModelRef
from pausedata.sources.hub import HubSource


@dataclass(frozen=True)
class Fetch:
    """A repository of the Hub, and what of it is not in the cache yet.

    ``bytes`` and ``files`` are None where neither the Hub nor the cache says.
    """

    what: str  # source, model
    name: str
    revision: str | None
    cached: bool  # whether all of it is here
    files: int | None = None
    bytes: int | None = None


def fetches(source: Any, models: Iterable[ModelRef]) -> list[Fetch]:
    """Of the source and the models of a recipe, those that are of the Hub."""
    found = []
    if isinstance(source, HubSource) and source.local is None:
        found.append(_of_source(source))
    named = {
        (each.name, each.revision): each
        for model in models
        if (each := model.base or model).path is None
    }
    return found + [_of_model(model) for model in named.values()]


def conversions(models: Iterable[ModelRef]) -> dict[str, int]:
    """Bytes that the model cache would take for each GGUF file or adapter not converted yet."""
    taken = {model.name: model_cache.missing_bytes(model) for model in models}
    return {name: size for name, size in taken.items() if size}


def _of_source(source: HubSource) -> Fetch:
    left = source.left_to_fetch()
    if left is None:
        return Fetch("source", source.hub, source.revision, True)
    return Fetch("source", source.hub, source.revision, False, *left)


def _of_model(model: ModelRef) -> Fetch:
    """By the listing of the repository, of which nothing is fetched."""
    from huggingface_hub import snapshot_download

    if not COMMIT.fullmatch(model.revision or ""):  # the Hub was asked which it is, and is silent
        return Fetch("model", model.name, model.revision, model.is_cached())
    try:
        listed: Any = snapshot_download(
            model.name,
            revision=model.revision,
            allow_patterns=FETCHED,
            ignore_patterns=["*/*"],
            dry_run=True,
        )
    except Exception:  # a plan tells what it can: that the Hub does not answer, it says elsewhere
        return Fetch("model", model.name, model.revision, model.is_cached())
    wanted = [file for file in listed if file.will_download]
    size = sum(file.file_size for file in wanted)
    return Fetch("model", model.name, model.revision, not wanted, len(wanted), size)
