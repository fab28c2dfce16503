"""The models that score a corpus after a warm-up, made now or found in the cache."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pausedata.core.progress import Progress, Silent, ignore_message
from pausedata.models.cache import converted, missing_bytes
from pausedata.models.kept import Say, made_from
from pausedata.models.ref import ModelRef
from pausedata.models.shape import is_quantised, model_shape
from pausedata.scorers import Example
from pausedata.store.files import digest, new_folder
from pausedata.warmup import folds as folding
from pausedata.warmup import memory
from pausedata.warmup.folds import FEWEST_ROWS, Sample
from pausedata.warmup.refused import no_peft, quantised
from pausedata.warmup.settings import Warmup
from pausedata.warmup.store import FoldModel, Trained, WarmedModels, in_the_way, kept_folder

_BESIDE_WEIGHTS = 64 << 20  # bytes: tokenizer, configuration, records


class Corpus(Protocol):
    """The rows that a warm-up may train on: those of the source's first split alone."""

    @property
    def content(self) -> str:
        """The content hash of the table that the rows come from (the one that pins the warm-up)."""
        ...

    def prompts(self) -> Iterable[tuple[str, str]]:
        """Id and prompt, as it was rendered, of each row, in any order; asked for once.

        Rows without a response, which teach nothing, are left out.
        """
        ...

    def examples(self, ids: Sequence[str]) -> list[Example]:
        """The token ids of some rows, in the order of ``ids``; of prompt, response and its end."""
        ...


@dataclass(frozen=True)
class Warmed:
    """Which model scores which row.

    ``models`` has one for each fold: an adapter (kind ``adapter``) on the model, or a whole one
    (``folder``), in the cache or where it was kept; with ``outcome`` 'base' it is the model itself
    for every fold, and ``reason`` says why, in a clause. ``record`` is for the manifest: JSON-able,
    without paths, the same whether models were made now or found.
    """

    outcome: Literal["warmed", "base"]
    models: tuple[ModelRef, ...]
    settings: Warmup
    record: dict[str, Any]
    reason: str | None = None
    rows: frozenset[str] = frozenset()  # the digests of all that was trained on, in hex

    def fold_of(self, prompt: str) -> int:
        """The index in ``models`` of the one that scores the rows with this prompt, of any split.

        A row of a split that is not trained on goes by the same rule, so that one which repeats a
        trained prompt is scored by a model that has not seen it.
        """
        return folding.fold_of(prompt, self.settings.folds, self.settings.seed)


def warm(
    model: ModelRef,
    settings: Warmup,
    corpus: Corpus,
    *,
    dtype: str = "float32",
    device: str = "auto",
    kept: Path | None = None,
    progress: Progress | None = None,
) -> Warmed:
    """Every fold's model, trained now unless it is in the cache or in the folder ``kept``.

    ``model`` is pinned (a Hub model has its commit). Each fold is a progress step of its own,
    in tokens, and is kept as soon as it is done. Too few rows, or a loss on held-out rows that did
    not fall, give the outcome 'base', which ``progress`` hears as a warning. UsageError for a model
    that cannot be trained here (quantised, no PEFT, no linear layers, no memory, no cache);
    DataError for a loss that is not finite.
    """
    progress = progress or Silent()
    _check_model(model, settings)
    base = _trainable(model, progress.say)
    where = WarmedModels(model, base, settings, corpus.content, dtype, kept)
    where.check_kept()
    made = [where.find(fold) for fold in range(settings.folds)]
    warmed = _warmed(where, made)
    if warmed is None:
        work = _Work(where, corpus, device, progress)
        for fold in work.order():
            if made[fold] is not None:
                work.tell_found(fold)
            made[fold] = made[fold] or work.make(fold)
            warmed = _warmed(where, made)
            if warmed is not None:  # where the base scores, the other folds need no model
                break
    assert warmed is not None
    if warmed.reason is not None:
        progress.warn(f"{model.name} scores as it is, without a warm-up: {warmed.reason}.")
    return warmed


def found(
    model: ModelRef,
    settings: Warmup,
    content: str,
    *,
    dtype: str = "float32",
    kept: Path | None = None,
) -> Warmed | None:
    """What `warm` would find without training for a corpus of that content hash, else None.

    Loads no torch. With ``content`` of an earlier version of a corpus that grew since, it gives
    the models that scored that one.
    """
    if model.kind == "adapter" and missing_bytes(model):
        return None  # the copy that its own adapters are on
    base = _trainable(model, ignore_message)
    where = WarmedModels(model, base, settings, content, dtype, kept)
    return _warmed(where, [where.find(fold) for fold in range(settings.folds)])


def keep(warmed: Warmed, folder: Path) -> list[Path]:
    """Copy each fold's model to ``folder``/fold-1, fold-2 …; what is there already stays.

    Nothing to copy where the base scores. UsageError where something else is in the way.
    """
    places: list[Path] = []
    for fold, model in enumerate(warmed.models if warmed.outcome == "warmed" else ()):
        place = kept_folder(folder, fold)
        assert model.path is not None
        places.append(place)
        if place == model.path:
            continue
        if place.exists():
            if made_from(place) == made_from(model.path):
                continue
            raise in_the_way(place)
        folder.mkdir(parents=True, exist_ok=True)
        temporary = new_folder(folder, ".fold-")
        try:
            shutil.copytree(model.path, temporary, dirs_exist_ok=True)
            temporary.rename(place)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return places


class _Work:
    """The training of the folds that are not there yet."""

    def __init__(
        self, where: WarmedModels, corpus: Corpus, device: str, progress: Progress
    ) -> None:
        settings = where.settings
        self._where, self._corpus, self._progress = where, corpus, progress
        self._device = device
        self._samples = folding.samples(
            corpus.prompts(), rows=settings.rows, folds=settings.folds, seed=settings.seed
        )

    def order(self) -> list[int]:
        """The folds, one with too few rows first: then none has to be trained."""
        return sorted(range(len(self._samples)), key=lambda fold: self._lack(fold) is None)

    def tell_found(self, fold: int) -> None:
        """Say that a fold's model was trained before."""
        self._progress.say(f"warm-up, {self._name(fold)}: trained before, and kept")

    def make(self, fold: int) -> FoldModel:
        """Train one fold's model, or record why there is none."""
        lack = self._lack(fold)
        if lack is not None:
            record = self._record(fold) | {"reason": lack}
            return self._where.make(fold, lambda _: (record, []), 0, self._progress.say)
        shape = model_shape(self._where.base)
        half = self._where.dtype != "float32" and self._where.settings.method == "full"
        weights = memory.trained_parameters(shape, self._where.settings) if shape else 0
        need = (2 if half else 4) * weights + _BESIDE_WEIGHTS
        return self._where.make(fold, lambda out: self._train(fold, out), need, self._progress.say)

    def _lack(self, fold: int) -> str | None:
        """Why a fold's model cannot be trained, in a clause; None where it can."""
        sample, name = self._samples[fold], self._name(fold)
        if len(sample.train) < FEWEST_ROWS:
            return (
                f"{name} has {_rows(len(sample.train))} to train on, and {FEWEST_ROWS} are needed"
            )
        if not sample.held_out:
            return f"{name} has no rows of its own, on which to see whether training helps"
        return None

    def _train(self, fold: int, out: Path) -> Trained:
        """Train a fold's model into the folder ``out``; what is recorded of it."""
        from pausedata.warmup.train import train

        where, name = self._where, self._name(fold)
        sample, settings = self._samples[fold], where.settings
        if len(sample.train) < settings.rows:
            self._progress.say(
                f"warm-up, {name}: trains on {_rows(len(sample.train))}, all that the other folds "
                f"have ({settings.rows} were asked for)"
            )
        rows, held_out = (self._corpus.examples(ids) for ids in (sample.train, sample.held_out))
        longest = max(map(len, [*rows, *held_out]))
        memory.check(where.base, settings, where.dtype, self._device, longest)
        outcome = train(
            *(where.base, settings, rows, held_out, out),
            dtype=where.dtype,
            device=self._device,
            title=f"warming {where.model.name}, {name}",
            progress=self._progress,
        )
        self._progress.say(
            f"warm-up, {name}: loss on {_rows(len(held_out))} held out {outcome.loss_before:.3f} "
            f"before, {outcome.loss_after:.3f} after"
        )
        record = self._record(fold) | outcome.facts()
        if not outcome.loss_after < outcome.loss_before:
            record["reason"] = (
                f"the loss of {name} on {_rows(len(held_out))} held out did not fall "
                f"({outcome.loss_before:.3f} before, {outcome.loss_after:.3f} after)"
            )
        return record, [row.digest().hex() for row in rows]

    def _record(self, fold: int) -> dict[str, Any]:
        sample: Sample = self._samples[fold]
        return {
            "fold": fold + 1,
            "rows": len(sample.train),
            "ids_sha256": digest(sample.train),
            "held_out_rows": len(sample.held_out),
            "reason": None,
            "weights_sha256": None,
        }

    def _name(self, fold: int) -> str:
        return f"fold {fold + 1} of {len(self._samples)}"


def _check_model(model: ModelRef, settings: Warmup) -> None:
    """UsageError for what is known of before anything is loaded."""
    if is_quantised(model):
        raise quantised(model.name)
    if settings.method == "lora" and importlib.util.find_spec("peft") is None:
        raise no_peft()


def _trainable(model: ModelRef, say: Say) -> ModelRef:
    """``model``; of an adapter, which takes no second one, its merged copy in the cache."""
    if model.kind != "adapter":
        return model
    return ModelRef("folder", model.name, converted(model, say))


def _reason(made: Sequence[FoldModel | None]) -> str | None:
    """Why the base scores, where one of the folds that were made says so."""
    return next((one.record["reason"] for one in made if one and one.record["reason"]), None)


def _warmed(where: WarmedModels, made: Sequence[FoldModel | None]) -> Warmed | None:
    """What the folds' models come to; None where it takes more of them to say."""
    reason, there = _reason(made), [one for one in made if one is not None]
    if reason is None and len(there) < len(made):
        return None
    models = [where.model] * len(made)
    if reason is None:
        models = [one.model for one in there if one.model is not None]
    record = {
        "outcome": "base" if reason else "warmed",
        "reason": reason,
        "settings": where.settings.identity(),
        "corpus": where.content,
        "folds": [one.record for one in there],
    }
    rows = frozenset[str]().union(*(one.rows for one in there))
    return Warmed(record["outcome"], tuple(models), where.settings, record, reason, rows)


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"
