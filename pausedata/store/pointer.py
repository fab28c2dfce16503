"""``pausedata.json``, which says which version is current, with every field checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from pausedata.core.errors import DataError
from pausedata.store.manifest import Open, Pointer
from pausedata.store.opening import POINTER, existing_pointer_data, pointer_data

Model = TypeVar("Model", bound=Open)


def existing_pointer(root: Path) -> Pointer:
    """What ``pausedata.json`` says; UsageError where there is no dataset."""
    return valid(Pointer, existing_pointer_data(root), root / POINTER)


def read_pointer(root: Path) -> Pointer | None:
    """What ``pausedata.json`` says, or None where there is none."""
    data = pointer_data(root)
    return None if data is None else valid(Pointer, data, root / POINTER)


def valid(model: type[Model], data: dict[str, Any], path: Path) -> Model:
    """``data`` as ``model``; DataError, which names ``path``, where a field is wrong."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise DataError(f"{path}: damaged: {where}: {first['msg']}") from None
