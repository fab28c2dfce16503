"""The header of a GGUF file: its metadata and how many weights it has, in a fraction of a second.

The ``gguf`` package needs seven seconds for the vocabulary of a small model, for answers (the
context length, the number of weights) that `pausedata plan` is to give at once.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pausedata.core.errors import UsageError

# GGUF value types by number; 8 is a string and 9 an array.
_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?",
    10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class GgufHeader:
    """``metadata`` without its arrays (vocabulary, merges); ``parameters``, how many weights.

    ``tensors``: how many of them each tensor has.
    """

    metadata: dict[str, Any]
    parameters: int
    tensors: dict[str, int]

    def context_length(self) -> int | None:
        """The tokens that the model was trained to read, or None where the file does not say."""
        return self.size("context_length")

    def size(self, key: str) -> int | None:
        """The size that the architecture calls ``key``; None where the file does not say."""
        value = self.metadata.get(f"{self.metadata.get('general.architecture')}.{key}")
        return int(value) if value else None


def read_gguf_header(path: Path) -> GgufHeader:
    """Read the header of ``path``; UsageError where it is no GGUF file (version 2 or 3)."""
    try:
        with path.open("rb") as file:
            return _read(file, path)
    except (struct.error, UnicodeDecodeError, KeyError, MemoryError, OverflowError) as error:
        raise UsageError(f"{path.name}: not a whole GGUF file ({error}); fetch it again") from error


def _read(file: BinaryIO, path: Path) -> GgufHeader:
    if file.read(4) != b"GGUF":
        raise UsageError(f"{path.name}: not a GGUF file, although its name ends in .gguf")
    version = _scalar(file, "<I")
    if version not in (2, 3):
        raise UsageError(f"{path.name}: GGUF version {version}; versions 2 and 3 can be read")
    n_tensors, n_fields = _scalar(file, "<Q"), _scalar(file, "<Q")
    metadata: dict[str, Any] = {}
    for _ in range(n_fields):
        key = _string(file)
        value = _value(file, _scalar(file, "<I"))
        if value is not None:
            metadata[key] = value
    tensors: dict[str, int] = {}
    for _ in range(n_tensors):
        name = _string(file)
        shape = [_scalar(file, "<Q") for _ in range(_scalar(file, "<I"))]
        file.seek(12, 1)  # the tensor's type and where its data begin
        tensors[name] = math.prod(shape)
    return GgufHeader(metadata, sum(tensors.values()), tensors)


def _scalar(file: BinaryIO, form: str) -> Any:
    return struct.unpack(form, file.read(struct.calcsize(form)))[0]


def _string(file: BinaryIO) -> str:
    return file.read(_scalar(file, "<Q")).decode("utf-8")


def _value(file: BinaryIO, kind: int) -> Any:
    """The next value; None for an array, which is passed over."""
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        return _scalar(file, _SCALARS[kind])
    inner, length = _scalar(file, "<I"), _scalar(file, "<Q")
    if inner in _SCALARS:
        file.seek(struct.calcsize(_SCALARS[inner]) * length, 1)
        return None
    for _ in range(length):
        if inner == _STRING:
            file.seek(_scalar(file, "<Q"), 1)
        else:
            _value(file, inner)
    return None
