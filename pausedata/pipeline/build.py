"""The steps in order: source → examples → tokens → scores → placements → exports → a version.

Read this file first. Every step takes what is there already, in the dataset or in staging, and
makes only what is missing or was made from other inputs; the commit at the end is the only thing
that readers see.
"""

from __future__ import annotations

from pathlib import Path

from pausedata.core.errors import UsageError, listing
from pausedata.core.progress import Progress, Silent
from pausedata.pipeline import runs
from pausedata.pipeline.recipe import LoadedRecipe, Recipe
from pausedata.pipeline.references import check_references, recorded_placements
from pausedata.pipeline.resolve import Resolved, resolve
from pausedata.pipeline.steps import prepare as prepare_step
from pausedata.pipeline.steps.prepare import Prepared
from pausedata.pipeline.work import Outcome, Work, differences
from pausedata.store.commit import current_version, prepare_folder
from pausedata.store.dataset import Version
from pausedata.store.repair import fall_back, mend
from pausedata.store.staging import when_free

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
        fall_back(root, progress)
        base = current_version(root)
        damaged = mend(base, progress) if base else {}
        progress.say(f"{loaded.label}: looking up the source, the model and its tokenizer")
        resolved = resolve(loaded, root, base, update=update)
        placements = recorded_placements(base) | resolved.recipe.placements
        check_references(placements, *known_runs(resolved.recipe, base), loaded.label)
        with Work(root, base, progress, damaged) as work:
            work.asked_tokenizer = lambda: resolved.tokenizer
            prepared = _prepare(resolved, work, replace)
            _score(resolved, work)
            work.place_all(placements)
            work.remake_exports(resolved.recipe.exports)
            return work.commit(
                command,
                name=resolved.recipe.name,
                recipe=resolved.recorded_recipe(),
                pins=resolved.pins,
                pause=work.pause,
                rows=prepared.rows if prepared else None,
            )

    return when_free(make, progress)


def known_runs(recipe: Recipe, base: Version | None) -> tuple[list[str], str | None]:
    """The runs that there will be, as tables, and the one that placements read by default."""
    there = [name for name in base.tables if name.startswith("scores/")] if base else []
    asked = [f"scores/{run}" for run in recipe.scoring_runs()]
    default = recipe.scoring.run if recipe.scoring else base.default_run if base else None
    return [*dict.fromkeys([*asked, *there])], default


def examples_differ(resolved: Resolved, base: Version) -> list[str]:
    """What differs between the inputs of the examples there are and those of the recipe."""
    made_from = base.table("tokens").entry.provenance["inputs"]
    return differences(made_from, prepare_step.inputs(resolved))


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
