"""Whether files are what a manifest says; checked before anything is read from them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from stat import S_ISREG
from typing import Protocol

from pausedata.core.errors import DataError
from pausedata.store.hashes import file_sha256s

ADVICE = (
    "`pausedata verify` says what else is damaged; `pausedata build` with the dataset's recipe "
    "makes again what can be made again."
)


class Recorded(Protocol):
    """What a manifest says of a file."""

    @property
    def path(self) -> str:
        """Relative to the version's folder."""
        ...

    @property
    def bytes(self) -> int:
        """Its size."""
        ...

    @property
    def sha256(self) -> str:
        """Of its bytes."""
        ...


def problems_of(folder: Path, entries: Sequence[Recorded], *, anew: bool = False) -> dict[str, str]:
    """What is wrong with each file that is not what ``entries`` say, by its path.

    Large files that did not change since they were last hashed are read again only with ``anew``.
    """
    found = misplaced(folder, entries)
    whole = [entry for entry in entries if entry.path not in found]
    for entry, sha256 in zip(whole, _hashes(folder, whole, found, anew), strict=True):
        if sha256 is not None and sha256 != entry.sha256:
            found[entry.path] = "its sha256 is not the manifest's: the file was changed or damaged"
    return found


def misplaced(folder: Path, entries: Sequence[Recorded]) -> dict[str, str]:
    """The same as far as it shows without opening a file: it may be a link, or a pipe."""
    found: dict[str, str] = {}
    root = dataset_of(folder)
    for entry in entries:
        try:
            inside, stat = is_inside(root, folder / entry.path), (folder / entry.path).stat()
        except (FileNotFoundError, NotADirectoryError):
            found[entry.path] = "missing"
            continue
        except OSError as error:
            found[entry.path] = _unreadable(error)
            continue
        if not inside:
            found[entry.path] = "a link leads out of the dataset: it is not followed"
        elif not S_ISREG(stat.st_mode):
            found[entry.path] = "is no file"
        elif stat.st_size != entry.bytes:
            found[entry.path] = f"{stat.st_size} bytes, the manifest says {entry.bytes}"
    return found


def _unreadable(error: OSError) -> str:
    if isinstance(error, PermissionError):  # no damage: another user made it, for fewer people
        return "is closed to you, and only its owner can change its mode"
    return f"cannot be read ({error.strerror})"


def require_placed(folder: Path, entries: Sequence[Recorded]) -> None:
    """Raise DataError where a file may not even be opened: see ``misplaced``."""
    _require(folder, misplaced(folder, entries))


def require_whole(folder: Path, entries: Sequence[Recorded]) -> None:
    """Raise DataError where a file is not what its entry says."""
    _require(folder, problems_of(folder, entries))


def _require(folder: Path, found: dict[str, str]) -> None:
    if found:
        path, why = next(iter(found.items()))
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise DataError(f"{folder / path}: {why}.{more} {ADVICE}")


def dataset_of(folder: Path) -> str:
    """The real path of the dataset that a version's or a stage's folder belongs to."""
    return os.path.realpath(folder.parent.parent)


def is_inside(root: str, path: Path) -> bool:
    """Whether ``path``, with every link followed, lies under ``root``, a real path.

    Otherwise someone else's dataset could make us read, or pass on, other files of this machine.
    """
    return Path(os.path.realpath(path)).is_relative_to(root)


def _hashes(
    folder: Path, entries: Sequence[Recorded], found: dict[str, str], anew: bool
) -> list[str | None]:
    """The hash of each file; None, and what is wrong in ``found``, where it cannot be read."""
    try:
        return list(
            file_sha256s([folder / e.path for e in entries], anew=anew, keep=len(entries) > 1)
        )
    except OSError:
        hashes: list[str | None] = []
        for entry in entries:  # one by one, to know which
            try:
                hashes += file_sha256s([folder / entry.path], anew=anew)
            except OSError as error:
                found[entry.path] = _unreadable(error)
                hashes.append(None)
        return hashes
