"""The chat template that an export names: the model's own, a file, or Jinja itself."""

from __future__ import annotations

from pathlib import Path

from pausedata.core.errors import UsageError

MODEL_TEMPLATE = "model"


def read_template(given: str, folder: Path, where: str) -> str:
    """``model``, or Jinja: the content of a file, relative to ``folder``, where it names one."""
    if given == MODEL_TEMPLATE or "{{" in given or "{%" in given:
        return given
    try:
        return (folder / Path(given).expanduser()).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{where}: '{given}' is neither `model` (the tokenizer's own), nor Jinja, nor a file "
            f"that can be read ({error})."
        ) from None
