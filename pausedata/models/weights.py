"""The hash of a model's weights: which files decide its scores."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from pausedata.store.files import canonical_json
from pausedata.store.hashes import file_sha256, file_sha256s

# Trainers leave these beside the weights; they change no score.
_NOT_WEIGHTS = re.compile(r"(training_args|optimizer|scheduler|rng_state).*\.bin")


def weights_sha256(path: Path) -> str:
    """The sha256, in hex, of what decides a model's scores.

    Of a file that of its bytes; of a folder that of the canonical JSON of the sorted pairs
    ``[file name, sha256]`` over its weights (*.safetensors, *.bin), their index and the
    configuration. The tokenizer has a hash of its own.
    """
    if path.is_file():
        return file_sha256(path)
    return files_sha256(path, _changes_scores)


def files_sha256(folder: Path, wanted: Callable[[Path], bool]) -> str:
    """The hex sha256 of the canonical JSON of some files' sorted ``[name, sha256]``."""
    files = [p for p in sorted(folder.iterdir()) if wanted(p)]
    pairs = list(zip([p.name for p in files], file_sha256s(files, keep=True), strict=True))
    return hashlib.sha256(canonical_json(pairs)).hexdigest()


def is_weights(path: Path) -> bool:
    """Whether a file of a model's folder holds weights."""
    return (
        path.suffix in (".safetensors", ".bin")
        and path.is_file()
        and not _NOT_WEIGHTS.fullmatch(path.name)
    )


def _changes_scores(path: Path) -> bool:
    name = path.name
    return (
        is_weights(path)
        or name in ("config.json", "adapter_config.json")
        or name.endswith((".safetensors.index.json", ".bin.index.json"))
    )
