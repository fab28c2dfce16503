"""A run's warm-up: what it trains on, what pins it as the corpus grows, which model scores what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pausedata import warmup
from pausedata.models.ref import ModelRef
from pausedata.pipeline.planner import but_tokens
from pausedata.pipeline.steps.reuse import examples_of
from pausedata.pipeline.steps.scoring import Mask
from pausedata.scorers import Example
from pausedata.store.dataset import Table
from pausedata.store.manifest import ShardEntry
from pausedata.warmup import Warmed, Warmup


def settings_of(given: bool | Warmup | None) -> Warmup | None:
    """What a recipe, or a command, says of a warm-up; None where there is to be none."""
    return given if isinstance(given, Warmup) else Warmup() if given else None


def recorded_settings(inputs: Mapping[str, Any]) -> Warmup | None:
    """The warm-up of a run that is there, by what it was made from; None where it had none."""
    known = inputs.get("warmup")
    if known is None:
        return None
    return Warmup(**{key: known[key] for key in Warmup.model_fields if key in known})


def pinned(
    settings: Warmup,
    wanted: Mapping[str, Any],
    before: Mapping[str, Any],
    *,
    damaged: bool,
    is_there: Callable[[], bool],
    goes_on: Callable[[], bool],
) -> dict[str, Any]:
    """What decides a warm-up: its settings, and ``of``, the tokens that its rows are drawn from.

    ``wanted`` is what else the run is to be made from, ``before`` what the run that is there was
    made from. A corpus that grew keeps its warm-up as long as the warmed models can go on, which
    ``goes_on`` says: else old scores and new ones would be of different models. Where nothing is to
    be scored these need not even be there (``is_there``).
    """
    identity, tokens = settings.identity(), wanted["tokens"]
    of = before.get("warmup", {}).get("of")
    same = but_tokens(dict(before)) == but_tokens({**wanted, "warmup": identity | {"of": of}})
    if of is None or not same:
        return identity | {"of": tokens}
    if before.get("tokens") == tokens:
        stays = of == tokens or not damaged or is_there()
    else:
        stays = goes_on()
    return identity | {"of": of if stays else tokens}


def can_go_on(warmed: Warmed | None, tokens: Table | None) -> bool:
    """Whether models that were warmed up on an earlier corpus may score ``tokens``.

    Only where all rows that they trained on are still there, as they were: a row whose prompt
    changed may be in another fold now, and would be scored by the model that trained on it. Where
    the model scored as it is, more rows may change that. ``tokens`` None: not known yet.
    """
    if warmed is None or warmed.outcome == "base":
        return False
    if tokens is None:
        return True
    left = set(warmed.rows)
    for shard in _first_split(tokens):
        for example in examples_of(tokens.read(shard, ["prompt_ids", "response_ids"])):
            left.discard(example.digest().hex())
    return not left


@dataclass(frozen=True)
class FirstSplit:
    """The rows that a warm-up may train on: those of the first split."""

    tokens: Table
    texts: Table  # the examples

    @property
    def content(self) -> str:
        """The content hash of the tokens."""
        return self.tokens.entry.content

    def prompts(self) -> Iterator[tuple[str, str]]:
        """Id and prompt of each row."""
        for shard in _first_split(self.texts):
            rows = self.texts.read(shard, ["id", "prompt"])
            yield from zip(rows["id"].to_pylist(), rows["prompt"].to_pylist(), strict=True)

    def examples(self, ids: Sequence[str]) -> list[Example]:
        """The token ids of some rows, in the order of ``ids``."""
        left, found = set(ids), dict[str, Example]()
        for shard in _first_split(self.tokens):
            own = self.tokens.read(shard, ["id"])["id"].to_pylist()
            chosen = [row for row, id in enumerate(own) if id in left]
            if chosen:
                rows = self.tokens.read(shard, ["id", "prompt_ids", "response_ids"]).take(chosen)
                found |= zip(
                    rows["id"].to_pylist(), examples_of(rows.combine_chunks()), strict=True
                )
        return [found[id] for id in ids]


def _first_split(table: Table) -> list[ShardEntry]:
    first = next(iter(table.splits()), None)
    return [shard for shard in table.shards if shard.split == first]


@dataclass(frozen=True)
class Share:
    """The rows that one model scores."""

    model: ModelRef
    mask: Mask | None  # None: all


@dataclass
class Folds:
    """Which fold each row of the tokens is in, shard by shard; read when it is asked for."""

    warmed: Warmed
    tokens: Table
    texts: Table
    _known: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    def shares(self) -> list[Share]:
        """What each model scores."""
        models = self.warmed.models
        if self.warmed.outcome == "base":
            return [Share(models[0], None)]
        return [Share(model, partial(self._mask, fold)) for fold, model in enumerate(models)]

    def _mask(self, fold: int, shard: ShardEntry) -> NDArray[np.bool_]:
        if shard.path not in self._known:
            own = self.texts.shards[self.tokens.shards.index(shard)]
            prompts = self.texts.read(own, ["prompt"])["prompt"].to_pylist()
            self._known[shard.path] = np.array(
                [self.warmed.fold_of(prompt) for prompt in prompts], np.int64
            )
        return self._known[shard.path] == fold


def hashes(record: Mapping[str, Any] | None) -> list[str]:
    """The hashes of the warmed models' weights, by what a run records of its warm-up."""
    return [fold["weights_sha256"] for fold in (record or {}).get("folds", [])]


def kept_at(settings: Warmup) -> Path | None:
    """Where the warmed models are kept beside the cache."""
    return Path(settings.keep).expanduser() if settings.keep else None


def find(model: ModelRef, settings: Warmup, dtype: str, of: str) -> Warmed | None:
    """The warmed models for tokens of the content hash ``of``, where they were made before."""
    return warmup.found(model, settings, of, dtype=dtype, kept=kept_at(settings))


def keep(warmed: Warmed) -> list[Path]:
    """Copy the warmed models to the folder to keep them in, where there is one; where they are.

    Nowhere where the model scores as it is.
    """
    if (folder := kept_at(warmed.settings)) is not None:
        return warmup.keep(warmed, folder)
    if warmed.outcome == "base":
        return []
    return [model.path for model in warmed.models if model.path is not None]
