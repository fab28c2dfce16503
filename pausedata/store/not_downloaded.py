"""Tables that the manifest names but whose files were not pulled: they are on the Hub alone."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from pausedata.core.errors import UsageError
from pausedata.store.manifest import Manifest, Pointer, TableEntry
from pausedata.store.pointer import read_pointer

# Fetches a table's files into the dataset. The store knows nothing of the Hub: who opens a dataset
# whose tables are to be fetched when they are needed leaves the function that does it here.
Fetcher = Callable[[str, TableEntry], None]

_suppliers: dict[str, Fetcher] = {}
_supplying = threading.Lock()


def names(pointer: Pointer, manifest: Manifest) -> frozenset[str]:
    """The tables of a version whose files were not pulled."""
    return frozenset(
        name
        for name, contents in pointer.absent.items()
        if name in manifest.tables and manifest.tables[name].content in contents
    )


def without(pointer: Pointer, name: str, content: str) -> Pointer:
    """The pointer once a table's files are here, as ``pausedata.json`` will have it."""
    left = {
        table: [c for c in contents if (table, c) != (name, content)]
        for table, contents in pointer.absent.items()
    }
    absent = {table: contents for table, contents in left.items() if contents}
    return pointer.model_copy(update={"absent": absent})


def with_(pointer: Pointer, name: str, content: str) -> Pointer:
    """The pointer with a table added to those that were not pulled."""
    contents = [c for c in pointer.absent.get(name, []) if c != content]
    return pointer.model_copy(update={"absent": pointer.absent | {name: [*contents, content]}})


def fetch_with(root: Path, supplier: Fetcher) -> None:
    """From now on ``supplier`` fetches what was not pulled of the dataset at ``root``."""
    _suppliers[os.path.realpath(root)] = supplier


def fetch(root: Path, name: str, entry: TableEntry) -> None:
    """Fetch a table's files; UsageError, which says how, where `fetch_with` was not called."""
    with _supplying:  # threads that read shards side by side ask for the same
        pointer = read_pointer(root)
        if pointer is None or entry.content not in pointer.absent.get(name, []):
            return  # fetched meanwhile
        supplier = _suppliers.get(os.path.realpath(root))
        if supplier is not None:
            supplier(name, entry)
            return
    where = pointer.origin
    at = f"{where.repo} {root} --revision {where.commit}" if where else f"ORG/NAME {root}"
    raise UsageError(
        f"{root}: '{name}' was not pulled. Fetch it: pausedata pull {at} --only {name}"
    )
