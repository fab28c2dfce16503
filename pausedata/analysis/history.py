"""The versions of a dataset that are there, and what each changed: what ``log`` shows."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pausedata.analysis.provenance import gate, warmup
from pausedata.core.errors import DataError
from pausedata.store.choice import describe_choice
from pausedata.store.dataset import Version, read_version
from pausedata.store.known_damage import marks
from pausedata.store.manifest import Manifest, Pointer
from pausedata.store.opening import version_folder, version_numbers
from pausedata.store.pointer import existing_pointer


@dataclass(frozen=True)
class Changes:
    """How the tables of a version differ from those of the version before it."""

    compared_with: int | None  # None: nothing was there before the first version
    made: list[str]
    remade: list[str]  # other values under the same name
    same_values: list[str]  # made again, or stored otherwise: the content hash is the same
    removed: list[str]
    rows: dict[str, tuple[int | None, int | None]]  # split → examples before, now; if they changed


@dataclass(frozen=True)
class Entry:
    """One version. Where its manifest cannot be read, only the first three fields are set."""

    number: int
    state: str  # current, earlier, uncommitted, abandoned, marked: see ``history``
    problem: str | None = None
    created: str | None = None
    created_by: str | None = None
    command: str | None = None
    parent: int | None = None
    parent_is_there: bool = False
    rows: dict[str, int] = field(default_factory=dict)  # split → examples
    tables: dict[str, str] = field(default_factory=dict)  # name → what made it, in a few words
    models: dict[str, dict[str, Any]] = field(default_factory=dict)  # run → what scored
    changes: Changes | None = None  # None where nothing earlier is there to compare with

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def history(root: Path, most: int | None = None) -> list[Entry]:
    """The versions that are there, newest first, at most ``most`` of them.

    A version is compared with its parent, or where that was deleted with the newest earlier one
    that is there. A damaged version has a ``problem``; the others are listed all the same. Two
    states are left by a writer that was killed, and no reader ever saw such a version:
    ``uncommitted`` is newer than the current one, and the next writer may go on with it;
    ``abandoned`` is older, and later versions were committed without it. A version that a repair
    ``marked`` as damaged for good has no ``problem``, since its damage is known.
    """
    pointer, numbers = _seen_at_once(root)
    marked = marks(root)
    # The next ancestor of the current version, and its manifest's hash where a later version
    # recorded it. A higher number was nobody's parent.
    expected, sha256 = pointer.current, pointer.sha256
    entries: list[Entry] = []
    waiting: list[tuple[int, Manifest]] = []  # entries to be compared with the next ancestor
    for number in numbers:
        listed = most is None or len(entries) < most
        if not listed and not waiting:
            break
        in_line = expected is None or number <= expected
        state = "current" if number == pointer.current else "earlier"
        if not in_line:
            state = "uncommitted" if number > pointer.current else "abandoned"
        if number in marked and number != pointer.current:
            state = "marked"
        version = _read(root, number, sha256 if number == expected else None)
        if number != pointer.current and not version_folder(root, number).is_dir():
            continue  # deleted meanwhile
        if isinstance(version, str):
            if listed:
                problem = None if state == "marked" else version
                entries.append(Entry(number, state, problem=problem))
            if in_line:
                expected, sha256 = None, None
            continue
        if in_line:
            parent = version.manifest.parent
            expected, sha256 = (parent.version, parent.sha256) if parent else (0, None)
            for i, manifest in waiting:
                entries[i] = _compared(entries[i], manifest, version.manifest)
            waiting.clear()
        if listed:
            entry = _entry(version, state)
            entries.append(replace(entry, problem=None) if state == "marked" else entry)
            if version.manifest.parent is not None:
                waiting.append((len(entries) - 1, version.manifest))
    return entries


def _seen_at_once(root: Path) -> tuple[Pointer, list[int]]:
    """The pointer and the numbers of the versions, newest first, as they were at one moment.

    The pointer's own version is listed even if its folder is missing.
    """
    while True:
        pointer = existing_pointer(root)
        numbers = sorted({*version_numbers(root), pointer.current}, reverse=True)
        if existing_pointer(root) == pointer:
            return pointer, numbers


def _read(root: Path, number: int, sha256: str | None) -> Version | str:
    folder = version_folder(root, number)
    try:
        version = read_version(root, folder)  # what is wrong with it says more than its hash
    except DataError as error:
        return str(error)
    if sha256 is not None and version.sha256 != sha256:
        return (
            f"{folder / 'manifest.json'}: its sha256 is not the one that was recorded: it was "
            "changed or damaged after it was committed."
        )
    if version.number != number:
        return f"{folder / 'manifest.json'}: it is the manifest of version {version.number}."
    return version


def _entry(version: Version, state: str) -> Entry:
    """The entry of ``version``; its changes are known here only if it has no parent."""
    manifest = version.manifest
    return Entry(
        number=version.number,
        state=state,
        problem=_missing(version),
        created=manifest.created,
        created_by=manifest.created_by,
        command=manifest.command,
        parent=manifest.parent.version if manifest.parent else None,
        rows={split: rows.out for split, rows in manifest.rows.items()},
        tables={name: _origin(manifest, name) for name in manifest.tables},
        models={run: scored_by(manifest, run) for run in version.runs},
        changes=None if manifest.parent else _changes(manifest, None),
    )


def _compared(entry: Entry, manifest: Manifest, before: Manifest) -> Entry:
    there = before.version == entry.parent
    return replace(entry, parent_is_there=there, changes=_changes(manifest, before))


def _missing(version: Version) -> str | None:
    """The first file that is missing or of another size, in words; no file is read."""
    wrong = []
    for table in version.tables.values():
        for file in table.files():
            try:
                if (version.folder / file.path).stat().st_size == file.bytes:
                    continue
            except OSError:
                pass
            wrong.append(file.path)
    if not wrong:
        return None
    others = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return (
        f"{wrong[0]}{others}: missing, or not of the recorded size. "
        f"`pausedata verify --version {version.number}` says more."
    )


def _changes(now: Manifest, before: Manifest | None) -> Changes:
    old = before.tables if before else {}
    both = [name for name in now.tables if name in old]
    remade = [name for name in both if now.tables[name].content != old[name].content]
    then = before.rows if before else {}
    rows: dict[str, tuple[int | None, int | None]] = {}
    if before is None or "examples" in remade:
        for split in dict.fromkeys([*then, *now.rows]):
            rows[split] = (
                then[split].out if split in then else None,
                now.rows[split].out if split in now.rows else None,
            )
    return Changes(
        compared_with=before.version if before else None,
        made=[name for name in now.tables if name not in old],
        remade=remade,
        same_values=[n for n in both if n not in remade and now.tables[n] != old[n]],
        removed=[name for name in old if name not in now.tables],
        rows=rows,
    )


def scored_by(manifest: Manifest, run: str) -> dict[str, Any]:
    """What made the scores of ``run``, as far as it is recorded.

    ``model``, its ``revision`` or ``weights_sha256``, ``dtype``, ``backend``, and ``warmup``: in
    words, that it was warmed up, or why it scored as it is though a warm-up was asked for.
    """
    entry = manifest.tables[f"scores/{run}"]
    provenance = entry.provenance
    inputs = provenance.get("inputs", {})
    identity: dict[str, Any] = {}
    for said in (inputs.get("model"), provenance.get("model")):
        identity |= said if isinstance(said, dict) else {"id": said} if said else {}
    # A local model's inputs hold the hash of its weights alone; the recipe may know its name.
    named = _recipe_model(manifest, run)
    if "id" not in identity and named.get("weights_sha256") == identity.get("weights_sha256"):
        identity["id"] = named.get("id")
    found = {
        "model": identity.get("id"),
        "revision": identity.get("revision"),
        "weights_sha256": identity.get("weights_sha256"),
        "dtype": inputs.get("dtype"),
        "backend": inputs.get("backend"),
        "warmup": warmup(entry),
    }
    return {key: value for key, value in found.items() if value is not None}


def _recipe_model(manifest: Manifest, run: str) -> dict[str, Any]:
    """What the recorded recipe says of the model of ``run``; nothing where it has no such run."""
    recipe = manifest.recipe
    if run == (recipe.get("scoring") or {}).get("run"):
        return recipe.get("model") or {}
    return recipe.get("runs", {}).get(run, {}).get("model") or {}


def _origin(manifest: Manifest, name: str) -> str:
    """What made a table, in a few words."""
    kind, _, own = name.partition("/")
    inputs = manifest.tables[name].provenance.get("inputs", {})
    if kind == "scores":
        scored = scored_by(manifest, own)
        weights = scored.get("weights_sha256")
        model = scored.get("model") or (f"weights {weights[:12]}" if weights else "")
        how = ", ".join(scored[key] for key in ("dtype", "backend", "warmup") if key in scored)
        return f"{model} ({how})" if model and how else model or how
    if kind == "placements" and "strategy" in inputs:
        run = f" of {inputs['run']}" if inputs.get("run") else ""
        return f"{inputs['strategy']}{run}"
    if kind == "exports" and "format" in inputs:
        return f"{inputs['format']} of {describe_choice(inputs['placement'])}"
    if kind == "kept":
        return f"scores of run '{own}' that are left"
    if kind == "gates":
        return gate(manifest.tables[name])
    return ""
