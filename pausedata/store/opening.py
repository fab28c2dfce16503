"""What ``pausedata.json`` and a manifest say, as they are read: JSON, each once, checked by hash.

``store.dataset`` makes a ``Version`` of it, whose every field is checked. Importing what checks
them (pydantic) takes as long as DuckDB does: a command that asks for little looks here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pausedata.core.errors import DataError, NewerFormatError, PausedataError, UsageError
from pausedata.core.version import __version__
from pausedata.store.integrity import is_inside
from pausedata.store.read_locks import ReadLock, take

FORMAT = "pausedata/1"
READER = 1  # what this release can read; a manifest's min_reader above it is refused
POINTER = "pausedata.json"
_RELEASE = re.compile(r"\d+(\.\d+)*")  # what may stand in a command that we tell people to run
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TRIES = 5  # a reader that loses the version it was going to open to `gc`, this often in a row


@dataclass(frozen=True)
class Opened:
    """A version that is held, and whose manifest is the one that was committed."""

    root: Path
    folder: Path
    manifest: dict[str, Any]
    sha256: str  # of manifest.json
    hold: ReadLock | None = field(repr=False)
    pointer: dict[str, Any] | None = None  # where the version was opened by it

    @property
    def runs(self) -> list[str]:
        """The names of the scoring runs."""
        return self.names("scores")

    @property
    def placements(self) -> list[str]:
        """The names of the placements."""
        return self.names("placements")

    @property
    def splits(self) -> list[str]:
        """The names of the splits."""
        return list(self.manifest["rows"])

    def names(self, kind: str) -> list[str]:
        """The names under ``scores``, ``placements`` …, in the manifest's order."""
        names = (table.partition("/") for table in self.manifest["tables"])
        return [own for before, slash, own in names if slash and before == kind]


def read_opened(path: str | Path, version: int | None = None) -> Opened:
    """Open the dataset at ``path``: the current version, or the one numbered ``version``.

    Raises UsageError where there is no dataset or no such version, and DataError where the
    manifest is not the one that was committed, or of a format that this release does not read.
    """
    root = Path(path)
    if version is not None and (not isinstance(version, int) or isinstance(version, bool)):
        raise UsageError(f"version is {version!r}: give a number.")
    for left in reversed(range(_TRIES)):
        pointer = existing_pointer_data(root)
        try:
            return _read_current(root, pointer, version)
        except PausedataError:
            # Where `gc` deleted the version between the two readings, the pointer had moved before.
            if not left or version is not None or pointer_data(root) == pointer:
                raise
    raise AssertionError("the last try returns or raises")


def _read_current(root: Path, pointer: dict[str, Any], version: int | None) -> Opened:
    current = pointer["current"]
    number = current if version is None else version
    folder = version_folder(root, number)
    if not folder.is_dir():
        there = ", ".join(str(n) for n in version_numbers(root))
        raise UsageError(f"{root}: no version {number}. There: {there or 'none'}.")
    expected = pointer["sha256"] if number == current else recorded_sha256(root, number)
    return read_manifest(root, folder, expected, pointer)


def recorded_sha256(root: Path, number: int) -> str | None:
    """What a later version says that the manifest of ``number`` hashes to; None where none does."""
    for later in version_numbers(root):
        if later > number:
            try:
                raw = (version_folder(root, later) / "manifest.json").read_bytes()
                parent = json.loads(raw)["parent"]
                if parent is not None and parent["version"] == number:
                    return parent["sha256"]
            except (OSError, ValueError, KeyError, TypeError):
                continue
    return None


def existing_pointer_data(root: Path) -> dict[str, Any]:
    """What ``pausedata.json`` says; UsageError where there is no dataset."""
    pointer = pointer_data(root)
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


def pointer_data(root: Path) -> dict[str, Any] | None:
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
    data = _decoded(text, path)
    number, sha256 = data.get("current"), data.get("sha256")
    if type(number) is not int or number < 1:
        raise DataError(f"{path}: damaged: current: {number!r} is no version's number")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise DataError(f"{path}: damaged: sha256: {sha256!r} is no hash")
    return data


def read_manifest(
    root: Path, folder: Path, expected: str | None, pointer: dict[str, Any] | None = None
) -> Opened:
    """The version in ``folder``, held; DataError where ``expected`` is not its manifest's hash."""
    path = folder / "manifest.json"
    if not is_inside(os.path.realpath(root), path):
        raise DataError(f"{path}: a link leads out of the dataset: it is not followed.")
    hold = take(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from None
    sha256 = hashlib.sha256(raw).hexdigest()
    if expected is not None and sha256 != expected:
        raise DataError(
            f"{path}: its sha256 is not the one that was recorded: it was changed "
            "or damaged after it was committed."
        )
    data = _decoded(raw, path)
    for key in ("tables", "rows"):
        if not isinstance(data.get(key), dict):
            raise DataError(f"{path}: damaged: {key}: is no JSON object")
    return Opened(root, folder, data, sha256, hold, pointer)


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


def version_folder(root: Path, number: int) -> Path:
    """``versions/0003``."""
    return root / "versions" / f"{number:04d}"


def version_numbers(root: Path) -> list[int]:
    """The numbers of the versions that are there, ascending."""
    folder = root / "versions"
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit() and p.is_dir())


def _decoded(text: str | bytes, path: Path) -> dict[str, Any]:
    try:
        data = json.loads(text)
        check_format(data, path)
    except ValueError as error:
        raise DataError(f"{path}: damaged: {error}") from None
    return data


def _upgrade(data: dict[Any, Any]) -> str:
    """Which release reads what a later one wrote, as far as it says."""
    release = data.get("min_release")
    if isinstance(release, str) and _RELEASE.fullmatch(release):
        return f"It needs pausedata {release} or newer: pip install -U 'pausedata>={release}'"
    made = data.get("created_by")
    by = f" (it was made by {made})" if isinstance(made, str) else ""
    return f"Upgrade: pip install -U pausedata{by}"
