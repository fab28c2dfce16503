"""A manifest from the Hub is a stranger's: it is checked before anything of it is used."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from pausedata.core.errors import (
    DataError,
    NewerFormatError,
    UsageError,
    first_line,
    listing,
    nearest,
)
from pausedata.hub.client import RemoteFile
from pausedata.store.known_damage import MANIFEST
from pausedata.store.manifest import CARD, FileEntry, Manifest, TableEntry
from pausedata.store.opening import check_format

MOST_BYTES = 64 << 20  # of a manifest: a quarter of a million files; it takes 30 times as much
MOST_FILES = 1_000_000
_LONGEST_PATH = 1024
_LONGEST_NAME = 255
_TABLE = re.compile(r"[a-z][a-z0-9_-]{0,31}(/[A-Za-z0-9][A-Za-z0-9._-]{0,63})?")
_MAPPINGS = ("source", "versions", "splits", "tokenizer")  # of provenance, where it has them
# What a version's folder has beside tables; and names that Windows takes for devices.
_RESERVED = {MANIFEST, CARD.lower(), "pausedata.json", ".cache", ".gitattributes"}
_DEVICES = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10))}


def parse_manifest(raw: bytes, where: str) -> Manifest:
    """The manifest in ``raw``; DataError where it is none, or names what it must not."""
    path = Path(where, MANIFEST)
    try:
        data = json.loads(raw)
        check_format(data, path)
        manifest = Manifest.model_validate(data)
    except RecursionError:
        _refuse(where, "it is nested too deeply")
    except NewerFormatError as error:
        raise NewerFormatError(_printable(str(error))) from None
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(str(step) for step in first["loc"])
        _refuse(where, f"{at[:200]}: {first['msg']}")
    except ValueError as error:
        _refuse(where, first_line(error)[:200])
    _check_shapes(manifest, where)
    _check_paths(manifest, where)
    return manifest


def _check_shapes(manifest: Manifest, where: str) -> None:
    """DataError unless values have the types that commands expect: `build` writes them so."""

    def require(right: bool, what: str) -> None:
        if not right:
            _refuse(where, _printable(f"{what} is not what it should be")[:200])

    try:
        manifest.model_dump_json().encode()
    except (UnicodeEncodeError, ValueError, RecursionError):
        _refuse(where, "it holds text that is none")
    texts = [manifest.name, manifest.created, manifest.created_by, manifest.command]
    require(all(text.isprintable() for text in texts), "a text of it")
    require(manifest.version < 10**9 and bool(manifest.rows), "its version, or rows")
    recipe = manifest.recipe
    for key in ("source", "scoring", "model", "runs", "placements", "exports", "pause"):
        require(isinstance(recipe.get(key) or {}, dict), f"recipe.{key}")
    for name, run in (recipe.get("runs") or {}).items():
        require(isinstance(run, dict) and isinstance(run.get("model") or {}, dict), f"run {name}")
    require({"examples", "vocab", "tokens"} <= set(manifest.tables), "its list of tables")
    shards = [(shard.split, shard.rows) for shard in manifest.tables["tokens"].shards]
    for name, table in manifest.tables.items():
        require(bool(_TABLE.fullmatch(name)), f"table {name!r}")
        facts = table.provenance
        made_from = facts.get("made_from", [])
        require(
            isinstance(facts.get("inputs", {}), dict)
            and isinstance(made_from, list)
            and all(isinstance(one, str) for one in made_from)
            and all(isinstance(facts.get(key) or {}, dict) for key in _MAPPINGS)
            and isinstance(facts.get("inputs", {}).get("strategy", ""), str),
            f"{name}: its provenance",
        )
        if name.partition("/")[0] in ("examples", "scores", "placements"):
            require([(s.split, s.rows) for s in table.shards] == shards, f"{name}: its shards")


def _printable(text: str) -> str:
    """``text`` without control characters, which a terminal would obey."""
    return "".join(c if c.isprintable() else "�" for c in text)


def sha256_of(raw: bytes) -> str:
    """The hex sha256 of a manifest's bytes."""
    return hashlib.sha256(raw).hexdigest()


def tables_present(
    manifest: Manifest, files: Mapping[str, RemoteFile], where: str
) -> tuple[list[str], list[str]]:
    """The tables whose files are all in the repository, and those that were not pushed.

    DataError where some of a table's files are missing, or one is not what the manifest says.
    """
    for entry in manifest.loose_files():
        if entry.path not in files:
            _refuse(where, f"{entry.path} is not in the repository")
        _check_file(entry, files[entry.path], where)
    present, missing = [], []
    for name, table in manifest.tables.items():
        entries = table.all_files()
        found = [entry for entry in entries if entry.path in files]
        if entries and not found:
            missing.append(name)
            continue
        if len(found) < len(entries):
            lost = next(entry.path for entry in entries if entry.path not in files)
            _refuse(where, f"{lost} is not in the repository")
        for entry in entries:
            _check_file(entry, files[entry.path], where)
        present.append(name)
    return present, missing


def chosen_tables(only: Collection[str] | None, tables: Collection[str], where: str) -> list[str]:
    """The tables that ``--only`` names, in the manifest's order; UsageError for what is not there.

    A kind (``scores``) stands for all of that kind.
    """
    if only is None:
        return list(tables)
    chosen: set[str] = set()
    for name in only:
        found = [table for table in tables if table == name or table.startswith(f"{name}/")]
        if not found:
            raise UsageError(
                f"--only: {where} has no table '{name}'.{nearest(name, tables)} "
                f"There: {listing(tables)}."
            )
        chosen.update(found)
    return [table for table in tables if table in chosen]


def _check_file(entry: FileEntry, file: RemoteFile, where: str) -> None:
    if file.bytes != entry.bytes:
        _refuse(where, f"{entry.path} has {file.bytes} bytes there, not {entry.bytes}")
    if file.sha256 is not None and file.sha256 != entry.sha256:
        _refuse(where, f"{entry.path} has another sha256 there")


def _check_paths(manifest: Manifest, where: str) -> None:
    """Each table's files are in its own folder, each once, on any system."""
    seen: set[str] = set()
    folders: set[str] = set()
    for name, table in manifest.tables.items():
        for entry in table.all_files():
            path = entry.path
            own = path == "vocab.parquet" if name == "vocab" else path.startswith(f"{name}/")
            if not own:
                _refuse(where, f"{path[:200]!r} is not in the folder of {name!r}")
            parts = path.lower().split("/")
            if (
                len(path) > _LONGEST_PATH
                or any(len(part.encode()) > _LONGEST_NAME for part in parts)
                or any(part.endswith(".") or part.partition(".")[0] in _DEVICES for part in parts)
                or parts[0] in _RESERVED
            ):
                _refuse(where, f"{path[:200]!r} is no path that every system takes")
            folded = path.casefold()
            if folded in seen:
                _refuse(where, f"{path!r} is named twice")
            seen.add(folded)
            folders.update("/".join(folded.split("/")[:k]) for k in range(1, len(parts)))
    for entry in manifest.loose_files():
        if "/" in entry.path or entry.path.lower() in _RESERVED or entry.path.casefold() in seen:
            _refuse(where, f"{entry.path[:200]!r} belongs to no table")
    if len(seen) > MOST_FILES:
        _refuse(where, f"it names {len(seen)} files")
    if both := sorted(seen & folders):
        _refuse(where, f"{both[0]!r} is a file and a folder")


def entries_of(tables: Mapping[str, TableEntry], names: Collection[str]) -> list[FileEntry]:
    """The files of some tables."""
    return [entry for name in names for entry in tables[name].all_files()]


def _refuse(where: str, why: str) -> NoReturn:
    raise DataError(f"{where}: its {MANIFEST} is not to be trusted: {why}. Nothing was written.")
