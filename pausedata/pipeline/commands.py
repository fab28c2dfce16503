"""One table made, remade or removed in a dataset that is there: a new version each time.

`build` makes all that a recipe names; these make what a person asks for by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pausedata.core.errors import UsageError
from pausedata.core.progress import Progress, Silent
from pausedata.pipeline import runs, stored_runs, targets, unseen_format, warming
from pausedata.pipeline.making import carry_out
from pausedata.pipeline.planner import CORPUS, State, Target, decide
from pausedata.pipeline.recipe import Export, Placement
from pausedata.pipeline.score_request import ScoreRequest, of_command
from pausedata.pipeline.steps.tokenizer import tokenizer_of
from pausedata.pipeline.transaction import Outcome, Transaction
from pausedata.store.commit import current_version
from pausedata.store.dataset import KINDS, Version, missing
from pausedata.store.pointer import existing_pointer
from pausedata.store.repair import mend
from pausedata.store.staging import when_free
from pausedata.warmup import Warmed


def place(
    root: Path,
    placements: Mapping[str, Placement],
    *,
    command: str = "place",
    replace: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Add ``placements``, by name, in one new version; with ``replace``, remake what differs.

    All of them are checked before any is made.
    """
    progress = progress or Silent()

    def make() -> Outcome:
        base = existing(root)
        others = targets.recorded_placements(base, but=placements)
        every = {**others, **placements}
        kept = stored_runs.kept_runs(base)
        targets.check_references(every, base.manifest.tables, base.default_run, kept=kept)
        named = [
            targets.of_placement(name, spec, base.default_run) for name, spec in placements.items()
        ]
        with _transaction(base, progress, [target.name for target in named]) as tx:
            return _commit(tx, named, others, command, replace)

    return when_free(make, progress)


def score(
    root: Path,
    name: str,
    asked: ScoreRequest,
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
        base = existing(root)
        spec, tokenizers = of_command(root, base, name, asked)
        with _transaction(base, progress, [spec.table]) as tx:
            named = [spec.found_damaged(tx.damaged).target(tokenizers)]
            others = targets.recorded_placements(base)
            return _commit(tx, named, others, command, replace)

    return when_free(make, progress)


def warm_up(
    root: Path, name: str, asked: ScoreRequest, *, progress: Progress | None = None
) -> tuple[Warmed, list[Path]]:
    """The models that would score the run ``name``, warmed up, and where they are.

    Nothing of the dataset changes.
    """
    base = existing(root)
    spec, tokenizers = of_command(root, base, name, asked)
    progress = progress or Silent()
    who = f"run '{name}'"
    runs.check_tokenizer(who, spec.model, tokenizers, base.tables, progress)
    wanted = spec.inputs(base.table("tokens").entry.content)
    warmed = runs.warm_up(spec, wanted["warmup"]["of"], base.tables, progress)
    return warmed, warming.keep(warmed)


def export(
    root: Path,
    name: str,
    spec: Export,
    *,
    command: str = "export",
    replace: bool = False,
    tokenizer: str | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Add the export ``name`` in a new version; with ``replace``, remake one that differs.

    ``tokenizer`` names the model whose tokenizer reads text back, where the dataset knows none.
    """
    progress = progress or Silent()

    def make() -> Outcome:
        base = existing(root)
        for placement in spec.placements:
            if placement not in base.placements:
                raise UsageError(missing(f"placements/{placement}", base.manifest.tables))
        named = [targets.of_export(name, spec, base.manifest.pause)]
        with _transaction(base, progress, [target.name for target in named]) as tx:
            tables = tx.tables
            tx.asked_tokenizer = lambda: tokenizer_of(root, base, tables, progress, tokenizer)
            others = targets.recorded_placements(base)
            return _commit(tx, named, others, command, replace)

    return when_free(make, progress)


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
    base = existing(root)
    asked = list(dict.fromkeys(names))
    for name in asked:
        base.table(name)
        if name.partition("/")[0] not in KINDS:
            raise UsageError(
                f"'{name}' cannot be removed: a version always has examples, vocab and tokens. "
                "`rm` takes runs (scores/RUN), what is kept of one (kept/RUN), placements/NAME, "
                "exports/NAME and gates/NAME."
            )
    state = State.of(base)
    state.gone = dict.fromkeys(asked, "as asked")
    steps = [step for step in decide(_as_they_stand(base), state) if step.action == "drop"]
    rests_on = {step.table: step.cause for step in steps if step.table not in asked}
    if rests_on and not cascade:
        made = "; ".join(f"'{name}' from '{origin}'" for name, origin in rests_on.items())
        raise UsageError(
            f"other tables were made from what would be removed: {made}. "
            "Name them too, or give --cascade to remove them as well."
        )
    tx = Transaction(root, base, progress or Silent())
    named = recipe_tables(base)
    for name in [*asked, *rests_on]:
        why = f"made from {rests_on[name]}" if name in rests_on else "as asked"
        again = "; the recipe names it: its next `build` makes it again" if name in named else ""
        tx.drop(name, why + again)
    return tx.commit(command)


def _as_they_stand(base: Version) -> list[Target]:
    """All tables of a version, none of which is to be made again."""
    return [
        Target(name, tuple(entry.provenance.get("made_from", [])))
        for name, entry in base.manifest.tables.items()
        if name not in CORPUS
    ]


def recipe_tables(version: Version) -> set[str]:
    """The runs, placements and exports that the recipe of a version names."""
    recipe = version.manifest.recipe
    scoring = recipe.get("scoring")
    runs = [*([scoring["run"]] if scoring else []), *recipe.get("runs", {})]
    return {
        *(f"scores/{run}" for run in runs),
        *(f"{kind}/{name}" for kind in ("placements", "exports") for name in recipe.get(kind, {})),
    }


def _transaction(base: Version, progress: Progress, named: Sequence[str]) -> Transaction:
    """A change of ``base``, in which damage to the tables ``named``, asked for, is put right."""
    return Transaction(base.root, base, progress, mend(base, progress, mended(base, named)))


def mended(base: Version, named: Sequence[str]) -> list[str]:
    """The tables of which a command puts right what is damaged: those that it is asked for, and
    of a run what was kept of it, which is read.
    """
    kept = [name.replace("scores/", "kept/", 1) for name in named if name.startswith("scores/")]
    return [name for name in (*named, *kept) if name in base.manifest.tables]


def _commit(
    tx: Transaction,
    named: Sequence[Target],
    others: Mapping[str, Placement],
    command: str,
    replace: bool,
) -> Outcome:
    """Make what is asked for, by name, and again what rests on it, in one version."""
    assert tx.base is not None
    state = State.of(tx.base, tx.damaged, replace=replace)
    carry_out(command_targets(tx.base, named, others), state, tx)
    unseen_format.warn(tx)
    return tx.commit(command)


def command_targets(
    base: Version, named: Sequence[Target], others: Mapping[str, Placement]
) -> list[Target]:
    """What a command asks for, and all else that is there; ``others``: its placements."""
    scored = [target for target in named if target.kind == "scores"]
    placed = [target for target in named if target.kind != "scores"]
    return [
        *scored,
        *stored_runs.stored(base.root, base, scored, None),
        *targets.with_the_rest(placed, base, others, base.manifest.pause),
    ]


def existing(root: Path) -> Version:
    """The version that a change starts from; UsageError where there is no dataset."""
    existing_pointer(root)  # says what is wrong where there is no dataset
    version = current_version(root)
    assert version is not None
    return version
