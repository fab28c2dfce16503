"""A LoRA adapter's folder: what tells it from a model, its base, and what names it.

Nothing here loads weights: `pausedata.models.merge` does.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pausedata.core.errors import UsageError
from pausedata.models.weights import file_sha256, is_weights

CONFIG = "adapter_config.json"
# Where the base lies is the machine's business, and its weights have a hash of their own.
_NAMES_THE_BASE = ("base_model_name_or_path", "revision")


def is_adapter(folder: Path) -> bool:
    """Whether ``folder`` holds an adapter, and no model beside it (a base's config may be)."""
    return (folder / CONFIG).is_file() and not any(
        is_weights(path) and not path.name.startswith("adapter_") for path in folder.iterdir()
    )


def read_config(folder: Path) -> dict[str, Any]:
    """``adapter_config.json``; UsageError unless it is of a LoRA adapter that names its base."""
    name = folder.name
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{name}: {CONFIG} cannot be read: {error}") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise UsageError(
            f"{name}: its {CONFIG} is not of a LoRA adapter (peft_type: {kind}). Merge it into its "
            "base first (peft: merge_and_unload, then save_pretrained) and name that folder."
        )
    if not any(is_weights(path) for path in folder.iterdir()):
        raise UsageError(f"{name}: a LoRA adapter without adapter_model.safetensors.")
    if not config.get("base_model_name_or_path"):
        raise UsageError(
            f"{name}: its {CONFIG} names no base: set base_model_name_or_path there to the "
            "folder or Hub id of the model that it was trained on."
        )
    return config


def find_base(folder: Path, config: dict[str, Any], current: Path) -> str:
    """The base's folder, or its Hub id; UsageError where a path leads nowhere.

    A relative path is looked up from the adapter's folder and from the ``current`` one, which is
    where peft takes it from.
    """
    text = str(config["base_model_name_or_path"])
    for start in (folder, current):
        path = start / Path(text).expanduser()
        if path.exists():
            return str(path.absolute())
    if text[0] in "./~\\" or Path(text).is_absolute() or text.count("/") > 1:
        raise UsageError(
            f"{folder.name}: the base of this LoRA adapter is not here: {text}. Set "
            f"base_model_name_or_path in its {CONFIG} to the base's folder or Hub id."
        )
    return text


def adapter_sha256(folder: Path, base: dict[str, Any]) -> str:
    """The hex sha256 of what decides scores: the adapter's weights and settings, and its base.

    ``base`` is the base's identity; where it has a hash of its weights, its name does not count.
    """
    config = {k: v for k, v in read_config(folder).items() if k not in _NAMES_THE_BASE}
    pairs = [[CONFIG, _sha256(config)]]
    pairs += [[p.name, file_sha256(p)] for p in sorted(folder.iterdir()) if is_weights(p)]
    known = {"weights_sha256": base["weights_sha256"]} if "weights_sha256" in base else base
    return _sha256({"adapter": pairs, "base": known})


def _sha256(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
