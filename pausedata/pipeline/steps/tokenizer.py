"""The tokenizer that a dataset was built with, for what has to read text again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pausedata.core.errors import UsageError
from pausedata.core.progress import Progress
from pausedata.models.ref import ModelRef
from pausedata.models.tokenizer import Tokenizer
from pausedata.pipeline.recipe import Model
from pausedata.pipeline.resolve import Tokenizers, find_model, recorded_pins
from pausedata.pipeline.steps import same_ids
from pausedata.store.dataset import Table, Version
from pausedata.store.staging import Pins


def tokenizer_of(
    root: Path,
    version: Version,
    tables: Mapping[str, Table],
    progress: Progress,
    asked: str | None = None,
) -> Tokenizer:
    """The tokenizer of the model ``asked`` for, else of the one that is recorded.

    UsageError where none is asked for and the dataset knows no more than a base name, or where it
    gives other ids than are stored; UnreachableError where the Hub does not answer.
    """
    recorded = version.manifest.recipe.get("model", {})
    if asked is None and "revision" not in recorded:
        raise UsageError(
            f"the text has to be read back with the model's tokenizer. It is recorded as "
            f"'{recorded.get('id', '?')}', a folder or a file, of which a dataset keeps no path: "
            "give --tokenizer with the model's folder, file or Hub id."
        )
    spec = (
        Model(id=asked)
        if asked is not None
        else Model(id=recorded["id"], revision=recorded["revision"])
    )
    pins = Pins(root, recorded_pins(version), keep=False)
    ref, _ = find_model(spec, Path(), pins, where="--tokenizer")
    tokenizers = Tokenizers(version.manifest.pause.token, pins)
    return checked(ref, tokenizers, tables, progress)


def checked(
    ref: ModelRef, tokenizers: Tokenizers, tables: Mapping[str, Table], progress: Progress
) -> Tokenizer:
    """The model's tokenizer; UsageError where it gives other ids than are stored."""
    tokenizer = tokenizers.load(ref)
    stored = tables["tokens"].entry.provenance["inputs"].get("tokenizer")
    if tokenizers.hash(ref) != stored:
        same_ids.check_every_row(
            f"--tokenizer: {ref.name}",
            "Name the model that the dataset was made with.",
            *(tokenizer, tables, progress),
        )
    return tokenizer
