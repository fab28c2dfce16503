"""The steps in order: source → examples → tokens → scores → placements → exports → a version.

Read this file first. Every step takes what is there already, in the dataset or in staging, and
makes only what is missing or was made from other inputs; the commit at the end is the only thing
that readers see.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pausedata import scorers
from pausedata.errors import DataError, UsageError
from pausedata.progress import Progress, Silent
from pausedata.recipe import Export, LoadedRecipe, Placement
from pausedata.resolve import Resolved, resolve
from pausedata.scorers import Scorer
from pausedata.steps import prepare as prepare_step
from pausedata.steps import score as score_step
from pausedata.steps.carry import CarriedScores
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
    _refuse_overwriting(work, f"placements/{name}", inputs, replace)
    work.place(name, spec)
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
    _refuse_overwriting(work, f"exports/{name}", work.export_inputs(name, spec), replace)
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
    recipe, base, tokens = resolved.recipe, work.base, work.tables["tokens"]
    scoring = recipe.scoring
    if scoring is not None:
        work.default_run = scoring.run
        for run, model in recipe.scoring_runs().items():
            ref = resolved.runs[run]
            assert resolved.backend is not None
            wanted = score_step.inputs(
                run, ref, model.dtype, resolved.backend, scoring, tokens.entry.content
            )
            if work.has(f"scores/{run}", wanted):
                work.keep(f"scores/{run}")
                continue
            _refuse_later(work, f"scores/{run}", wanted)
            resolved.check_tokenizer(run)
            score_step.check_context(tokens, ref)

            def load(ref: Any = ref, dtype: str = model.dtype) -> Scorer:
                work.progress.say(f"loading {ref.name} ({dtype}, {resolved.backend})")
                return scorers.load_scorer(
                    str(resolved.backend),
                    ref,
                    dtype=dtype,
                    device=scoring.device,
                    batch_tokens=scoring.batch_tokens,
                    engine=scoring.engine,
                )

            carried = _carried(base, run, wanted)
            table = score_step.score(work.root, run, wanted, tokens, load, carried, work.progress)
            work.put(table)
            for warning in score_step.edge_warnings(table, scoring.append_eos):
                work.progress.warn(warning)
    if base is not None and tokens.entry.content != base.table("tokens").entry.content:
        for run in base.runs:
            if f"scores/{run}" not in work.made:
                _carry_whole(work, base, run)


def _carried(base: Version | None, run: str, wanted: dict[str, Any]) -> CarriedScores | None:
    """The base version's scores of ``run``, where only the tokens they rest on differ."""
    if base is None or run not in base.runs:
        return None
    scores = base.table(f"scores/{run}")
    made_from = scores.entry.provenance["inputs"]
    if made_from | {"tokens": None} != wanted | {"tokens": None}:
        return None
    return CarriedScores(base.table("tokens"), scores)


def _carry_whole(work: Work, base: Version, run: str) -> None:
    """Keep a run that the recipe does not name, if every new example was scored in it."""
    name = f"scores/{run}"
    scores, tokens = base.table(name), work.tables["tokens"]
    wanted = scores.entry.provenance["inputs"] | {"tokens": tokens.entry.content}
    carried = _carried(base, run, wanted)
    assert carried is not None
    missing = score_step.count_missing(tokens, carried)
    if missing:
        work.drop(name, f"{missing} examples are new, and the recipe names no model for this run")
        return

    def load() -> Scorer:
        raise DataError(f"{name}: no model is known for this run.")

    work.put(score_step.score(work.root, run, wanted, tokens, load, carried, work.progress))


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


def _refuse_overwriting(work: Work, name: str, inputs: dict[str, Any], replace: bool) -> None:
    if name not in work.tables or work.has(name, inputs) or replace:
        return
    before = work.tables[name].entry.provenance["inputs"]
    raise UsageError(
        f"{name} is there already, made otherwise ({'; '.join(differences(before, inputs))}). "
        "Give --replace to remake it, or choose another name."
    )


def _refuse_later(work: Work, name: str, wanted: dict[str, Any]) -> None:
    """UsageError where a later release made ``name`` from more than this one knows.

    Scoring it again as this release would is dear, and would lose what that one added.
    """
    if name not in work.tables:
        return
    unknown = set(work.tables[name].entry.provenance.get("inputs", {})) - set(wanted)
    if unknown:
        raise UsageError(
            f"{work.root}: {name} was made by a later release of pausedata, from what this one "
            f"does not know ({', '.join(sorted(unknown))}). Upgrade: pip install -U pausedata; or "
            "score under another name."
        )


def _short(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
