"""The steps in order: source → examples → tokens → scores → placements → exports → a version.

Read this file first. Every step takes what is there already, in the dataset or in staging, and
makes only what is missing or was made from other inputs; the commit at the end is the only thing
that readers see.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pausedata import runs
from pausedata.errors import UsageError
from pausedata.progress import Progress, Silent
from pausedata.recipe import Export, LoadedRecipe, Placement
from pausedata.resolve import Resolved, resolve
from pausedata.runs import Asked
from pausedata.steps import prepare as prepare_step
from pausedata.steps.prepare import Prepared
from pausedata.store.commit import current_version, prepare_folder
from pausedata.store.dataset import Version, open_version
from pausedata.work import Outcome, Work, recorded_placements


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
    prepare_folder(root)
    base = current_version(root)
    progress.say(f"{loaded.label}: looking up the source, the model and its tokenizer")
    resolved = resolve(loaded, root, base, update=update)
    work = Work(root, base, progress)

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
    base = _existing(root)
    work = Work(root, base, progress or Silent())
    inputs, _ = work.placement_inputs(name, spec)
    refuse_overwriting(work, f"placements/{name}", inputs, replace)
    work.place(name, spec)
    work.remake_exports({})
    return work.commit(command)


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
    base = _existing(root)
    work = Work(root, base, progress or Silent())
    spec, tokenizers = runs.of_command(root, base, name, asked)
    refuse_overwriting(work, spec.table, spec.inputs(work.tables["tokens"]), replace)
    runs.make(spec, tokenizers, work)
    _place(work, recorded_placements(base, made_from=spec.table))
    work.remake_exports({})
    return work.commit(command)


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
    base = _existing(root)
    work = Work(root, base, progress or Silent())
    refuse_overwriting(work, f"exports/{name}", work.export_inputs(name, spec), replace)
    work.export(name, spec)
    return work.commit(command)


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


def _prepare(resolved: Resolved, work: Work, replace: bool) -> Prepared | None:
    """Examples and tokens: kept where their inputs are the same, else made; None where kept."""
    if work.base is not None:
        different = examples_differ(resolved, work.base)
        if not different:
            for name in ("examples", "vocab", "tokens"):
                work.keep(name)
            return None
        if not replace:
            raise UsageError(
                f"{work.root}: the recipe would change the examples that are there:\n"
                + "".join(f"  {line}\n" for line in different)
                + "Give --replace to make a version with the new ones (scores of examples whose "
                "tokens are unchanged are carried over), or another --output."
            )
    prepared = prepare_step.prepare(resolved, work.root, work.progress)
    for table in prepared.tables.values():
        work.put(table)
    work.pause = prepared.pause
    work.name = resolved.recipe.name
    return prepared


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
    if name not in work.tables or work.has(name, inputs) or replace:
        return
    before = work.tables[name].entry.provenance["inputs"]
    raise UsageError(
        f"{name} is there already, made otherwise ({'; '.join(differences(before, inputs))}). "
        "Give --replace to remake it, or choose another name."
    )


def _short(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
