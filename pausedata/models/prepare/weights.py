"""A model's weights, file by file: those without a row for each token are copied as they are."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pausedata.core.errors import DataError, UsageError, first_line
from pausedata.models.prepare.layers import Layers, find_layers
from pausedata.models.prepare.rows import Init, grown, row_of
from pausedata.models.ref import needs_own_code, own_code, quiet
from pausedata.store.files import write_json

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
_PLAIN = ("BF16", "F16", "F32", "F64", "I32", "I64", "BOOL")  # what models hold unquantised


@dataclass(frozen=True)
class Wanted:
    """What is to become of the matrices."""

    pause_id: int
    init: Init | None  # None: the pause's row is there, and stays as it is
    used: list[int]  # the ids that have a token
    multiple_of: int
    seed: int


@dataclass(frozen=True)
class Changed:
    """What became of them."""

    layers: Layers
    rows_before: int
    rows: int
    copied: int  # files
    rewritten: int

    @property
    def grew(self) -> bool:
        """Whether rows were added."""
        return self.rows != self.rows_before


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up the model."""
    index = folder / INDEX
    if index.exists():
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        return [folder / name for name in names]
    single = folder / "model.safetensors"
    return [single] if single.exists() else []


def rewrite(folder: Path, out: Path, wanted: Wanted, name: str) -> Changed:
    """Write the weights of the model in ``folder`` to ``out``. Only one file is held at a time."""
    files = weight_files(folder)
    if not files:
        _as_safetensors(folder, out / "loaded", name)
        files = weight_files(out / "loaded")
    where: dict[str, Path] = {}
    shapes: dict[str, list[int]] = {}
    for path in files:
        for key, shape, kind in _tensors(path, name):
            where[key], shapes[key] = path, shape
            if len(shape) == 2 and kind not in _PLAIN:
                raise UsageError(
                    f"{name}: {key} is {kind}, of a quantised model. Prepare the model that it "
                    "was quantised from, then quantise that."
                )
    layers = find_layers(folder, where, name)
    before = shapes[layers.embedding][0]
    rows = max(before, wanted.pause_id + 1)
    rows = math.ceil(rows / wanted.multiple_of) * wanted.multiple_of
    names = {key for key in (layers.embedding, layers.head, layers.bias) if key}
    touched = {where[key] for key in names} if rows != before or wanted.init else set()
    for path in files:
        target = out / path.name
        if path in touched:
            _rewrite_file(path, target, names, rows, wanted)
        else:
            shutil.copyfile(path, target)
    if (folder / INDEX).exists() or len(files) > 1:
        source = (folder if (folder / INDEX).exists() else out / "loaded") / INDEX
        _write_index(source, out / INDEX, [out / path.name for path in files])
    shutil.rmtree(out / "loaded", ignore_errors=True)
    return Changed(layers, before, rows, len(files) - len(touched), len(touched))


def _rewrite_file(path: Path, target: Path, names: set[str], rows: int, wanted: Wanted) -> None:
    """One file, with the matrices ``names`` in it grown and the pause's row set."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    tensors: dict[str, Any] = {}
    used = torch.tensor(wanted.used)
    with safe_open(str(path), "pt") as stored:
        metadata = stored.metadata()
        for key in stored.keys():  # noqa: SIM118
            tensor = stored.get_tensor(key)
            tensors[key] = _with_row(tensor, used, rows, wanted) if key in names else tensor
    save_file(tensors, str(target), metadata)


def _with_row(matrix: torch.Tensor, used: torch.Tensor, rows: int, wanted: Wanted) -> torch.Tensor:
    """The matrix, or the head's bias, with its new rows."""
    there = used[used < len(matrix)]
    changed = grown(matrix, rows, there)
    if wanted.init is not None:
        changed[wanted.pause_id] = row_of(matrix, there, wanted.init, wanted.seed)
    return changed


def _write_index(source: Path, target: Path, files: list[Path]) -> None:
    """The index, with the sizes as they are now."""
    index = json.loads(source.read_text("utf-8"))
    total = parameters = 0
    for path in files:
        for _, shape, kind in _tensors(path, path.name):
            parameters += math.prod(shape)
            total += math.prod(shape) * _bytes_of(kind)
    index["metadata"] = index.get("metadata", {}) | {"total_size": total}
    if "total_parameters" in index["metadata"]:
        index["metadata"]["total_parameters"] = parameters
    write_json(target, index)


def _bytes_of(kind: str) -> int:
    digits = "".join(c for c in kind.split("_")[0] if c.isdigit())
    return int(digits) // 8 if digits else 1  # BOOL


def _as_safetensors(folder: Path, target: Path, name: str) -> None:
    """A model with weights in another form (.bin): loaded whole, and saved as safetensors."""
    from transformers import AutoModelForCausalLM

    try:
        with quiet():
            model: Any = AutoModelForCausalLM.from_pretrained(
                str(folder), dtype="auto", trust_remote_code=False
            )
            model.save_pretrained(str(target))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if needs_own_code(error):
            raise own_code(name) from error
        raise UsageError(f"{name}: its weights cannot be loaded: {first_line(error)}") from error


def _tensors(path: Path, name: str) -> list[tuple[str, list[int], str]]:
    """The name, the shape and the type of each tensor of a file; DataError where it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as stored:
            parts = [(key, stored.get_slice(key)) for key in stored.keys()]  # noqa: SIM118
            return [(key, part.get_shape(), part.get_dtype()) for key, part in parts]
    except (OSError, SafetensorError) as error:
        raise DataError(f"{name}: {path.name} cannot be read: {first_line(error)}") from error
