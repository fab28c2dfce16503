"""Warmed models in the cache: a folder for each fold, named by all that decides its weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pausedata.core.cache import cache_folder
from pausedata.core.errors import UsageError
from pausedata.models.kept import Making, Say, keep_folder, made_from
from pausedata.models.ref import ModelRef
from pausedata.store.files import digest, write_json
from pausedata.warmup.settings import Warmup

RECORD = "warmup.json"  # what the training did, beside what came of it
ROWS = "rows.json"  # the digests of the rows that it trained on
_METHOD = 1  # of how it trains, beyond the settings: another number trains anew


Trained = tuple[dict[str, Any], list[str]]


@dataclass(frozen=True)
class FoldModel:
    """A fold's model as it was made: its record, and the folder that it is in.

    ``model`` is None where the fold had too few rows, and nothing was trained; ``rows`` are the
    digests (`Example.digest`, in hex) of those that it trained on.
    """

    record: dict[str, Any]
    model: ModelRef | None
    rows: frozenset[str] = frozenset()


@dataclass(frozen=True)
class WarmedModels:
    """Where the folds' models of one warm-up are, or will be.

    ``model`` is the one that is warmed; ``base`` is it too, or an adapter's merged copy, which
    loads as a plain model. ``content`` is the hash of the corpus. ``kept``: a folder to look in
    where the cache has nothing.
    """

    model: ModelRef
    base: ModelRef
    settings: Warmup
    content: str
    dtype: str
    kept: Path | None = None

    def find(self, fold: int) -> FoldModel | None:
        """The fold's model, from the cache or the folder ``kept``; None where neither has it."""
        places = [self._place(fold)]
        if self.kept is not None:
            places.append(kept_folder(self.kept, fold))
        return next((m for place in places if (m := self._read(place, fold)) is not None), None)

    def check_kept(self) -> None:
        """UsageError where the folder ``kept`` holds something else than this warm-up's models."""
        if self.kept is None:
            return
        try:
            self.kept.mkdir(parents=True, exist_ok=True)
            writable = os.access(self.kept, os.W_OK)
        except OSError:
            writable = False
        if not writable:
            raise UsageError(
                f"warmup.keep: {self.kept} is no folder that can be written: name another."
            )
        for fold in range(self.settings.folds):
            place = kept_folder(self.kept, fold)
            if place.exists() and made_from(place) != self._origin(fold):
                raise in_the_way(place)

    def make(self, fold: int, train: Callable[[Path], Trained], need: int, say: Say) -> FoldModel:
        """The fold's model, which ``train`` writes to the folder it is given, of ``need`` bytes.

        ``train`` gives the record, without the hash of the weights, and the digests of the rows; no
        rows where nothing was trained. NoCacheError where the cache cannot take it.
        """
        place = self._place(fold)

        def write(folder: Path) -> None:
            record, rows = train(folder)
            if rows:
                record["weights_sha256"] = self._ref(folder, fold).identity()["weights_sha256"]
                write_json(folder / ROWS, rows)
            write_json(folder / RECORD, record)

        origin = self._origin(fold)
        making = Making(self.model.name, origin, need, "warming", "its warm-up")
        if made_from(place) is not None and self._read(place, fold) is None:
            shutil.rmtree(place)  # damaged, of the right size
        keep_folder(place, making, write, say)
        made = self._read(place, fold)
        if made is None:
            raise UsageError(f"{self.model.name}: its warm-up in {place} was changed meanwhile.")
        return made

    def _read(self, folder: Path, fold: int) -> FoldModel | None:
        """What is in ``folder``; None unless it is this fold's, whole and undamaged."""
        if made_from(folder) != self._origin(fold):
            return None
        try:
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            if record.get("weights_sha256") is None:
                return FoldModel(record, None)
            model = self._ref(folder, fold)
            whole = model.identity()["weights_sha256"] == record["weights_sha256"]
            rows = frozenset(json.loads((folder / ROWS).read_text(encoding="utf-8")))
        except (OSError, ValueError, AttributeError, TypeError, UsageError):
            return None
        return FoldModel(record, model, rows) if whole else None

    def _ref(self, folder: Path, fold: int) -> ModelRef:
        name = f"{self.model.name}-warmup-{fold + 1}"
        if self.settings.method == "full":
            return ModelRef("folder", name, folder)
        return ModelRef("adapter", name, folder, base=self.base)

    def _place(self, fold: int) -> Path:
        key = digest(self._origin(fold)).removeprefix("sha256:")
        return cache_folder() / "warmups" / key

    def _origin(self, fold: int) -> dict[str, Any]:
        """All that decides the fold's weights, but for last bits; no name of a local model."""
        identity = self.model.identity()
        known = "weights_sha256" in identity
        return {
            "base": {"weights_sha256": identity["weights_sha256"]} if known else identity,
            "dtype": self.dtype,
            "warmup": self.settings.identity(),
            "method": _METHOD,
            "corpus": self.content,
            "fold": fold + 1,
        }


def in_the_way(place: Path) -> UsageError:
    """The error where a model is to be kept and something else is."""
    return UsageError(
        f"warmup.keep: {place} is there already, and is not of this warm-up: remove it, or name "
        "another folder."
    )


def kept_folder(folder: Path, fold: int) -> Path:
    """Where a fold's model is in a folder that somebody keeps them in."""
    return folder / f"fold-{fold + 1}"
