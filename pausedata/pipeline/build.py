"""The steps in order: source → examples → tokens → scores → placements → exports → a version.

Read this file first. Every step takes what is there already, in the dataset or in staging, and
makes only what is missing or was made from other inputs; the commit at the end is the only thing
that readers see.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pausedata.core.progress import Progress, Silent
from pausedata.pipeline import runs, stored_runs, targets, unseen_format
from pausedata.pipeline.making import carry_out
from pausedata.pipeline.planner import (
    CORPUS,
    PAUSE,
    Corpus,
    State,
    Step,
    Target,
    changed_corpus,
    decide_corpus,
    differences,
    irreparable,
    recorded,
)
from pausedata.pipeline.recipe import LoadedRecipe, Placement, Recipe
from pausedata.pipeline.resolve import Resolved, resolve
from pausedata.pipeline.runs import RunSpec
from pausedata.pipeline.steps import prepare as prepare_step
from pausedata.pipeline.steps.prepare import Prepared
from pausedata.pipeline.steps.retokenize import retokenize
from pausedata.pipeline.transaction import Outcome, Transaction
from pausedata.store.commit import current_version, prepare_folder
from pausedata.store.dataset import Table, Version
from pausedata.store.manifest import PauseEntry
from pausedata.store.repair import fall_back, mend, put_back
from pausedata.store.staging import when_free


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
        others = targets.recorded_placements(base, but=resolved.recipe.placements)
        check_placements(loaded, base, others)
        state = State.of(base, damaged)
        corpus = corpus_of(resolved, root, base, examples_differ(resolved, base), replace)
        steps = decide_corpus(corpus, state)
        with Transaction(root, base, progress, damaged) as tx:
            tx.asked_tokenizer = lambda: resolved.tokenizer
            prepared = _prepare(steps, corpus, resolved, tx)
            note_corpus(state, base, tx.tables, tx.pause)
            new_tokens = tx.tables["tokens"] if "tokens" in state.changed else None
            if base is not None and new_tokens is not None and "tokens" in damaged:
                _put_back_tokens(resolved, base, tx)  # by which scores find their examples
            specs = runs.of_recipe(resolved, base, damaged, new_tokens)
            every = all_targets(resolved, specs, base, others, tx.pause, new_tokens)
            carry_out(every, state, tx, every=True)
            unseen_format.warn(tx)
            return tx.commit(
                command,
                name=resolved.recipe.name,
                recipe=resolved.recorded_recipe(),
                pins=resolved.pins,
                pause=tx.pause,
                rows=prepared.rows if prepared else None,
            )

    return when_free(make, progress)


def check_placements(
    loaded: LoadedRecipe, base: Version | None, others: Mapping[str, Placement]
) -> None:
    """UsageError where a placement reads what nobody makes. It comes before hours of scoring."""
    recipe = loaded.recipe
    names = dict.fromkeys([*recipe.scoring_runs(), *(base.runs if base else [])])
    tables = [f"scores/{run}" for run in names]
    every = {**others, **recipe.placements}
    kept = stored_runs.kept_runs(base) if base else None
    targets.check_references(every, tables, default_run(recipe, base), loaded.label, kept)


def default_run(recipe: Recipe, base: Version | None) -> str | None:
    """The run that placements read which name none."""
    return recipe.scoring.run if recipe.scoring else base.default_run if base else None


def corpus_of(
    resolved: Resolved,
    root: Path,
    base: Version | None,
    different: list[str],
    replace: bool,
    unless: str = "",
) -> Corpus:
    """What the recipe asks of the first tables; ``different`` is what differs in their inputs."""
    was = base.manifest.recipe.get("shard_rows") if base else None
    source = resolved.recipe.source.hub or "files"
    return Corpus(root, source, different, (was, resolved.recipe.shard_rows), replace, unless)


def all_targets(
    resolved: Resolved,
    specs: Iterable[RunSpec],
    base: Version | None,
    others: Mapping[str, Placement],
    pause: PauseEntry | None,
    new_tokens: Table | None,
) -> list[Target]:
    """All that the recipe names, ``specs`` its runs, and all else, but for the first tables.

    ``new_tokens`` are those that there will be, where they are known and not what they were.
    """
    recipe = resolved.recipe
    scored = [spec.target(resolved.tokenizers) for spec in specs]
    run = default_run(recipe, base)
    named = [targets.of_placement(name, spec, run) for name, spec in recipe.placements.items()]
    named += [targets.of_export(name, spec, pause) for name, spec in recipe.exports.items()]
    return [
        *scored,
        *(stored_runs.stored(base.root, base, scored, new_tokens) if base else []),
        *targets.with_the_rest(named, base, others, pause),
    ]


def examples_differ(resolved: Resolved, base: Version | None) -> list[str]:
    """What differs between the inputs of the examples there are and those of the recipe."""
    if base is None:
        return []
    return differences(recorded(base.manifest.tables["tokens"]), prepare_step.inputs(resolved))


def note_corpus(
    state: State, base: Version | None, tables: Mapping[str, Table], pause: PauseEntry | None
) -> None:
    """Tell ``state`` which of the first tables, and whether the pause, are not what they were."""
    state.damaged -= set(CORPUS)
    state.changed |= changed_corpus(base, tables)
    if base is not None and pause != base.manifest.pause:
        state.changed.add(PAUSE)


def _put_back_tokens(resolved: Resolved, base: Version, tx: Transaction) -> None:
    """Put right those damaged shards of ``tokens`` that the stored examples give as they were."""
    stage = tx.staging.stage("retokenized", recorded(base.manifest.tables["tokens"]))
    found = retokenize(resolved, base, stage.folder)
    put_back(tx.root, {(path, sha256): stage.folder / path for path, sha256 in found.items()})
    tx.staging.drop(stage)
    for path in found:
        tx.progress.say(f"{path}: put back, as it was")


def _prepare(
    steps: list[Step], corpus: Corpus, resolved: Resolved, tx: Transaction
) -> Prepared | None:
    """Examples and tokens as the planner decided; None where those that are there stay.

    UsageError where damaged ones do not come out as they were, and may not be replaced.
    """
    actions = {step.table: step.action for step in steps}
    for name in CORPUS:
        if actions[name] == "keep":
            tx.keep(name)
    if set(actions.values()) == {"keep"}:
        return None
    prepared = prepare_step.prepare(resolved, tx.staging, tx.progress)
    if "remake" not in actions.values() and "repair" in actions.values():
        if not changed_corpus(tx.base, prepared.tables):
            for name in CORPUS:
                if actions[name] == "repair":
                    tx.put(prepared.tables[name])
            return None
        if not corpus.replace:
            why = "now they come out otherwise, by another release of pausedata or of tokenizers"
            raise irreparable(corpus, tx.damaged, why)
        tx.kept.clear()
    for table in prepared.tables.values():
        tx.put(table)
    tx.pause = prepared.pause
    tx.name = resolved.recipe.name
    return prepared
