"""``pausedata.json``, which says which version is current, and where versions are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pausedata.core.errors import (
    DataError,
    NewerFormatError,
    UsageError,
)
from pausedata.core.version import __version__
from pausedata.store.manifest import (
    FORMAT,
    READER,
    Pointer,
)

POINTER = "pausedata.json"


_RELEASE = re.compile(r"\d+(\.\d+)*")  # what may stand in a command that we tell people to run


def existing_pointer(root: Path) -> Pointer:
    """What ``pausedata.json`` says; UsageError where there is no dataset."""
    pointer = read_pointer(root)
    if pointer is None:
        what = "no such folder" if not root.exists() else "not a pausedata dataset"
        numbers = version_numbers(root)
        if numbers not in ([], [1]):
            raise DataError(
                f"{root}: {POINTER} is missing, and there are versions {numbers[0]} to "
                f"{numbers[-1]}. `pausedata build` with the dataset's recipe puts it back."
            )
        started = (root / "staging").is_dir()
        todo = (
            "Its first build is unfinished: run `pausedata build` again."
            if started
            else "`pausedata build` makes one."
        )
        raise UsageError(f"{root}: {what} (no {POINTER}). {todo}")
    return pointer


def read_pointer(root: Path) -> Pointer | None:
    """What ``pausedata.json`` says, or None where there is none."""
    path = root / POINTER
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError:
        raise DataError(
            f"{path}: is a folder. Move it away; `pausedata build` finds the versions."
        ) from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: damaged: not UTF-8.") from None
    try:
        data = json.loads(text)
        check_format(data, path)
        return Pointer.model_validate(data)
    except (ValueError, ValidationError) as error:
        raise DataError(f"{path}: damaged: {brief(error)}") from None


def check_format(data: object, path: Path) -> None:
    """Refuse what another release has to read, saying so."""
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")
    name, reader = data.get("format"), data.get("min_reader", 1)
    if not isinstance(reader, int):
        raise ValueError(f"min_reader is {reader!r}, not a number")
    if name == FORMAT and reader <= READER:
        return
    if isinstance(name, str) and name.startswith("pausedata/"):
        raise NewerFormatError(
            f"{path}: format {name}, reader {reader}; this is pausedata {__version__}, which reads "
            f"{FORMAT}, reader {READER}. {_upgrade(data)}"
        )
    raise ValueError(f"its format is {name!r}, not {FORMAT!r}")


def _upgrade(data: dict[Any, Any]) -> str:
    """Which release reads what a later one wrote, as far as it says."""
    release = data.get("min_release")
    if isinstance(release, str) and _RELEASE.fullmatch(release):
        return f"It needs pausedata {release} or newer: pip install -U 'pausedata>={release}'"
    made = data.get("created_by")
    by = f" (it was made by {made})" if isinstance(made, str) else ""
    return f"Upgrade: pip install -U pausedata{by}"


def version_folder(root: Path, number: int) -> Path:
    """``versions/0003``."""
    return root / "versions" / f"{number:04d}"


def version_numbers(root: Path) -> list[int]:
    """The numbers of the versions that are there, ascending."""
    folder = root / "versions"
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit() and p.is_dir())


def brief(error: Exception) -> str:
    """What is wrong with a file that pydantic or JSON refused: the first problem, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(s) for s in first['loc'])}: {first['msg']}"
    return str(error)
