"""The steps in order: source → examples → tokens → scores → placements → exports → a version.

Read this file first. Every step takes what is there already, in the dataset or in staging, and
makes only what is missing or was made from other inputs; the commit at the end is the only thing
that readers see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pausedata import runs
from pausedata.errors import UsageError, listing
from pausedata.progress import Progress, Silent
from pausedata.recipe import Export, LoadedRecipe, Placement
from pausedata.resolve import Resolved, resolve
from pausedata.runs import Asked
from pausedata.steps import prepare as prepare_step
from pausedata.steps.prepare import Prepared
from pausedata.store import repair
from pausedata.store.commit import current_version, prepare_folder
from pausedata.store.dataset import KINDS, Version, open_version
from pausedata.store.staging import BusyError
from pausedata.work import Outcome, Work, recorded_placements

FIRST = ("examples", "vocab", "tokens")  # the tables that one step makes


def build(
    loaded: LoadedRecipe,
    root: Path,
    *,
    command: str = "build",
    replace: bool = False,
    update: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Make the dataset at ``root`` what the recipe says, in at most one new version.

    ``replace`` lets the examples themselves change; ``update`` resolves revisions anew. Raises
    UsageError (wrong recipe, or examples that changed without ``replace``) and DataError (rows or
    scores that cannot be used). What finished before an error or a kill is taken up next time.
    """
    progress = progress or Silent()

    def make() -> Outcome:
        prepare_folder(root)
        base = current_version(root)
        damaged = _mend(base, progress) if base else {}
        progress.say(f"{loaded.label}: looking up the source, the model and its tokenizer")
        resolved = resolve(loaded, root, base, update=update)
        with Work(root, base, progress, damaged) as work:
            prepared = _prepare(resolved, work, replace)
            _score(resolved, work)
            placements = recorded_placements(base) | resolved.recipe.placements
            _place(work, placements)
            work.remake_exports(resolved.recipe.exports)
            return work.commit(
                command,
                name=resolved.recipe.name,
                recipe=resolved.recorded_recipe(),
                pins=resolved.pins,
                pause=work.pause,
                rows=prepared.rows if prepared else None,
            )

    return _when_free(make, progress)


def place(
    root: Path,
    name: str,
    spec: Placement,
    *,
    command: str = "place",
    replace: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Add the placement ``name`` in a new version; with ``replace``, remake one that differs."""
    progress = progress or Silent()

    def make() -> Outcome:
        table = f"placements/{name}"
        with _work(root, progress, table) as work:
            inputs, _ = work.placement_inputs(name, spec)
            refuse_overwriting(work, table, inputs, replace)
            work.place(name, spec)
            work.remake_exports({})
            return work.commit(command)

    return _when_free(make, progress)


def score(
    root: Path,
    name: str,
    asked: Asked,
    *,
    command: str = "score",
    replace: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Score the tokens that are there as the run ``name``, in a new version.

    With ``replace``, a run that differs is scored anew, and what was made from it remade.
    """
    progress = progress or Silent()

    def make() -> Outcome:
        with _work(root, progress, f"scores/{name}") as work:
            assert work.base is not None
            spec, tokenizers = runs.of_command(root, work.base, name, asked)
            refuse_overwriting(work, spec.table, spec.inputs(work.tables["tokens"]), replace)
            runs.make(spec, tokenizers, work)
            _place(work, recorded_placements(work.base, made_from=spec.table))
            work.remake_exports({})
            return work.commit(command)

    return _when_free(make, progress)


def export(
    root: Path,
    name: str,
    spec: Export,
    *,
    command: str = "export",
    replace: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Add the export ``name`` in a new version; with ``replace``, remake one that differs."""
    progress = progress or Silent()

    def make() -> Outcome:
        table = f"exports/{name}"
        with _work(root, progress, table) as work:
            refuse_overwriting(work, table, work.export_inputs(name, spec), replace)
            work.export(name, spec)
            return work.commit(command)

    return _when_free(make, progress)


def remove(
    root: Path,
    names: Iterable[str],
    *,
    cascade: bool = False,
    command: str = "rm",
    progress: Progress | None = None,
) -> Outcome:
    """Make a version without the tables ``names`` and, with ``cascade``, what was made from them.

    Raises UsageError where a table is not there or cannot be removed, and without ``cascade``
    where others were made from it. Earlier versions keep what is removed here.
    """
    base = _existing(root)
    asked = list(dict.fromkeys(names))
    for name in asked:
        base.table(name)
        if name.partition("/")[0] not in KINDS:
            raise UsageError(
                f"'{name}' cannot be removed: a version always has examples, vocab and tokens. "
                "`rm` takes runs (scores/RUN), placements/NAME and exports/NAME."
            )
    rests_on = dependents(base, asked)
    if rests_on and not cascade:
        made = "; ".join(f"'{name}' from '{origin}'" for name, origin in rests_on.items())
        raise UsageError(
            f"other tables were made from what would be removed: {made}. "
            "Name them too, or give --cascade to remove them as well."
        )
    work = Work(root, base, progress or Silent())
    named = recipe_tables(base)
    for name in [*asked, *rests_on]:
        why = f"made from {rests_on[name]}" if name in rests_on else "as asked"
        again = "; the recipe names it: its next `build` makes it again" if name in named else ""
        work.drop(name, why + again)
    return work.commit(command)


def dependents(version: Version, names: list[str]) -> dict[str, str]:
    """Every other table made from one of ``names``, directly or not → the table it came from."""
    found: dict[str, str] = {}
    tables = version.manifest.tables
    queue = list(names)
    while queue:
        origin = queue.pop(0)
        for name, entry in tables.items():
            made_from = entry.provenance.get("made_from", [])
            if origin in made_from and name not in found and name not in names:
                found[name] = origin
                queue.append(name)
    return found


def recipe_tables(version: Version) -> set[str]:
    """The runs, placements and exports that the recipe of a version names."""
    recipe = version.manifest.recipe
    scoring = recipe.get("scoring")
    runs = [*([scoring["run"]] if scoring else []), *recipe.get("runs", {})]
    return {
        *(f"scores/{run}" for run in runs),
        *(f"{kind}/{name}" for kind in ("placements", "exports") for name in recipe.get(kind, {})),
    }


def examples_differ(resolved: Resolved, base: Version) -> list[str]:
    """What differs between the inputs of the examples there are and those of the recipe."""
    made_from = base.table("tokens").entry.provenance["inputs"]
    return differences(made_from, prepare_step.inputs(resolved))


def differences(before: Any, now: Any, key: str = "") -> list[str]:
    """``source.limit: 64 → 100`` for every value that differs between two nested mappings."""
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for name in dict.fromkeys([*before, *now]):
            inner = f"{key}.{name}" if key else name
            found += differences(before.get(name), now.get(name), inner)
        return found
    return [] if before == now else [f"{key}: {_short(before)} → {_short(now)}"]


def _when_free(make: Callable[[], Outcome], progress: Progress) -> Outcome:
    """What ``make`` makes; where another process is at one of its steps, after waiting for that.

    It begins anew then: what the other has committed is there, and is not made twice.
    """
    while True:
        try:
            return make()
        except BusyError as busy:
            progress.say(f"{busy} Waiting for it to end …")
            busy.wait()


def _work(root: Path, progress: Progress, table: str) -> Work:
    """A change to the dataset that is there, by a command that makes ``table``."""
    base = _existing(root)
    damaged = _mend(base, progress, [table] if table in base.tables else [])
    return Work(root, base, progress, damaged)


def _mend(
    base: Version, progress: Progress, tables: list[str] | None = None
) -> dict[str, dict[str, str]]:
    """Say what is damaged (of ``tables``) and put right what needs no work; what is left of it."""
    found = repair.damage(base, tables)
    for paths in found.values():
        for path, why in paths.items():
            progress.warn(f"version {base.number}: {path}: {why}")
    if not found:
        return {}
    for path in repair.restore(base, found):
        progress.say(f"{path}: put back, as it was")
    left = repair.damage(base, tables)
    return {name: paths for name, paths in left.items() if name}


def _prepare(resolved: Resolved, work: Work, replace: bool) -> Prepared | None:
    """Examples and tokens: kept where their inputs are the same, else made; None where kept."""
    if work.base is not None:
        different = examples_differ(resolved, work.base)
        if not different and (_first_are_whole(work) or _prepare_again(resolved, work, replace)):
            for name in FIRST:
                if name not in work.damaged and name not in work.repaired:
                    work.keep(name)
            return None
        if not replace:
            raise UsageError(
                f"{work.root}: the recipe would change the examples that are there:\n"
                + "".join(f"  {line}\n" for line in different)
                + "Give --replace to make a version with the new ones (scores of examples whose "
                "tokens are unchanged are carried over), or another --output."
            )
    prepared = prepare_step.prepare(resolved, work.staging, work.progress)
    for table in prepared.tables.values():
        work.put(table)
    work.pause = prepared.pause
    work.name = resolved.recipe.name
    return prepared


def _first_are_whole(work: Work) -> bool:
    return not work.damaged.keys() & set(FIRST)


def _prepare_again(resolved: Resolved, work: Work, replace: bool) -> bool:
    """Make the damaged ones of the first tables as they were; whether they came out like that.

    Raises UsageError where they do not and may not be replaced.
    """
    assert work.base is not None
    cut, now = work.base.manifest.recipe.get("shard_rows"), resolved.recipe.shard_rows
    tables = {}
    if cut == now:
        tables = prepare_step.prepare(resolved, work.staging, work.progress).tables
        if all(tables[n].entry.content == work.base.table(n).entry.content for n in FIRST):
            for name in FIRST:
                if name in work.damaged:
                    work.put(tables[name])
            return True
    if replace:
        return False
    why = "now they come out otherwise, by another release of pausedata or of tokenizers"
    if not tables:
        why = f"they were cut with shard_rows {cut or 'null'}: --set shard_rows={cut or 'null'}"
    raise UsageError(
        f"{work.root}: {listing(work.damaged)} cannot be repaired: {why}. --replace makes a "
        "version with new ones."
    )


def _score(resolved: Resolved, work: Work) -> None:
    """Every run of the recipe; and, where the examples changed, the other runs that are there."""
    if resolved.recipe.scoring is not None:
        work.default_run = resolved.recipe.scoring.run
    for spec in runs.of_recipe(resolved):
        runs.make(spec, resolved.tokenizers, work)
    base, tokens = work.base, work.tables["tokens"]
    if base is not None and tokens.entry.content != base.table("tokens").entry.content:
        for run in base.runs:
            if f"scores/{run}" not in work.made:
                runs.carry_whole(run, work)


def _place(work: Work, placements: dict[str, Placement]) -> None:
    for name, spec in placements.items():
        run = spec.run
        if run and f"scores/{run}" in work.damaged.keys() - work.made.keys():
            work.progress.warn(
                f"placements/{name} stays as it is: scores/{run} is damaged, and the recipe names "
                f"no model for it. `pausedata score {work.root} --run {run} --model …` repairs it."
            )
            continue
        if run and f"scores/{run}" in work.removed:
            work.drop(f"placements/{name}", f"run '{run}' could not be carried over")
            continue
        work.place(name, spec)


def _existing(root: Path) -> Version:
    open_version(root)  # says what is wrong where there is no dataset
    version = current_version(root)
    assert version is not None
    return version


def refuse_overwriting(work: Work, name: str, inputs: dict[str, Any], replace: bool) -> None:
    """UsageError where ``name`` is there, made from other inputs, and may not be replaced."""
    if name not in work.tables or work.is_from(name, inputs) or replace:
        return
    before = work.tables[name].entry.provenance["inputs"]
    raise UsageError(
        f"{name} is there already, made otherwise ({'; '.join(differences(before, inputs))}). "
        "Give --replace to remake it, or choose another name."
    )


def _short(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
