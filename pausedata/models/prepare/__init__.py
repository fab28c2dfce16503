"""A model and its tokenizer with the pause token in them: what exports are trained on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pausedata.core.errors import UnreachableError, UsageError, first_line, missing_extra
from pausedata.core.progress import ignore_message
from pausedata.models.cache import converted, load_tokenizer
from pausedata.models.prepare.rows import Init
from pausedata.models.prepare.token import PauseToken, find_token, save_tokenizer, token_id_of
from pausedata.models.prepare.weights import INDEX, Changed, Wanted, rewrite
from pausedata.models.ref import FETCHED, ModelRef, resolve_revision
from pausedata.models.tokenizer import Tokenizer
from pausedata.store.files import sync, sync_tree, usual_modes, write_json

# Of a model's folder what is not part of the model as it is prepared.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".gguf", ".ot")
_LEFT_OUT = {INDEX, "pytorch_model.bin.index.json", "config.json", "pausedata.json"}


@dataclass(frozen=True)
class PreparedModel:
    """What was done."""

    out: str
    token: str
    id: int
    was: str  # new, text, special: what the token was to the tokenizer before
    init: str | None  # None: its row was there, and was left as it is
    rows_before: int
    rows: int
    tied: bool
    files_copied: int
    files_rewritten: int

    def shown(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def prepare_model(
    model: ModelRef,
    out: Path,
    *,
    token: str = "[PAUSE]",
    init: str | None = None,
    multiple_of: int = 1,
    seed: int = 0,
    say: Callable[[str], None] = ignore_message,
) -> PreparedModel:
    """Write ``model`` to ``out``, with ``token`` in its tokenizer, its embedding and its head.

    Weights are rewritten file by file, so that no more than the largest is in memory. Rows are
    only ever added: as many as the token's id needs, then up to a multiple of ``multiple_of``.
    ``init`` is ``mean`` (as None for a new token), ``normal`` (with ``seed``) or ``copy:TOKEN``.
    UsageError where ``out`` is not free, the model cannot be loaded, or is quantised.
    """
    chosen = Init.parse(init) if init is not None else None
    if multiple_of < 1:
        raise UsageError(f"--multiple-of {multiple_of}: give 1 or more.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there already. Give another name, or delete it.")
    ref, folder = _folder_of(model, say)
    tokenizer = Tokenizer(load_tokenizer(ref))
    found = find_token(tokenizer, token)
    if found.was == "text":
        say(
            f"'{token}' is an ordinary token of this vocabulary, id {found.id}: it becomes a "
            "special one and keeps its row, and is one token wherever a text has it"
        )
    if chosen is not None and chosen.kind == "copy":
        chosen = Init("copy", chosen.source, token_id_of(tokenizer, chosen.source))
    if chosen is None and found.was == "new":
        chosen = Init("mean")
    used = sorted(set(tokenizer.hf.get_vocab().values()) - {found.id})
    wanted = Wanted(found.id, chosen, used, multiple_of, seed)
    with _whole(out) as making:
        changed = rewrite(folder, making, wanted, model.name)
        if chosen is None and found.id >= changed.rows_before:
            say(f"the matrices had no row {found.id}: it is the mean of the others")
        _copy_rest(folder, making)
        _write_config(folder, making, changed)
        if found.was != "special":
            save_tokenizer(ref, found, making)
    return PreparedModel(
        str(out), token, found.id, found.was, init or (chosen.kind if chosen else None),
        changed.rows_before, changed.rows, changed.layers.tied, changed.copied, changed.rewritten,
    )  # fmt: skip


def _folder_of(model: ModelRef, say: Callable[[str], None]) -> tuple[ModelRef, Path]:
    """The model as a folder: of the Hub a snapshot, else as the cache converts it."""
    if model.path is not None:
        folder = converted(model, say)
        return ModelRef("folder", model.name, folder), folder
    pinned = resolve_revision(model)
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise missing_extra("huggingface_hub", "transformers", "A model of the Hub") from error
    try:
        found = snapshot_download(pinned.name, revision=pinned.revision, allow_patterns=FETCHED)
        folder = Path(found)
        if not list(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(pinned.name, revision=pinned.revision))
    except Exception as error:  # one network call: whatever else it raises is the network's
        raise UnreachableError(
            f"model '{pinned.name}' cannot be fetched ({first_line(error)}). Try again: what has "
            "arrived is kept; or name a local copy of it."
        ) from error
    return ModelRef("folder", model.name, folder), folder


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that takes its place when the block ends well."""
    out = out.absolute()
    making = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    shutil.rmtree(making, ignore_errors=True)
    try:
        making.mkdir(parents=True)
        yield making
        usual_modes(making)
        sync_tree(making)
        making.rename(out)  # over an empty folder, too
        sync(out.parent)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _copy_rest(folder: Path, out: Path) -> None:
    """Everything of the folder itself but weights: tokenizer, templates, licence, card."""
    for path in sorted(folder.iterdir()):
        if (
            path.is_file()
            and path.suffix not in _WEIGHTS
            and path.name not in _LEFT_OUT
            and not path.name.startswith(".")
        ):
            shutil.copyfile(path, out / path.name)


def _write_config(folder: Path, out: Path, changed: Changed) -> None:
    """config.json, with the number of rows where it says it."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    if changed.grew:
        for part in (config, config.get("text_config")):
            if isinstance(part, dict) and "vocab_size" in part:
                part["vocab_size"] = changed.rows
    write_json(out / "config.json", config)


__all__ = ["PauseToken", "PreparedModel", "prepare_model"]
