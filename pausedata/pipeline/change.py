"""One table made, remade or removed in a dataset that is there: a new version each time.

`build` makes all that a recipe names; these make what a person asks for by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pausedata.core.errors import UsageError
from pausedata.core.progress import Progress, Silent
from pausedata.pipeline import runs
from pausedata.pipeline.recipe import Export, Placement
from pausedata.pipeline.references import check_references, dependents, recorded_placements
from pausedata.pipeline.runs import Asked
from pausedata.pipeline.steps.tokenizer import tokenizer_of
from pausedata.pipeline.work import Outcome, Work, differences
from pausedata.store.commit import current_version
from pausedata.store.dataset import KINDS, Version, open_version
from pausedata.store.repair import mend
from pausedata.store.staging import when_free


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
        with _work(root, progress, *(f"placements/{name}" for name in placements)) as work:
            every = recorded_placements(work.base) | dict(placements)
            check_references(every, work.tables, work.default_run)
            for name, spec in placements.items():
                inputs, _ = work.placement_inputs(name, spec)
                refuse_overwriting(work, f"placements/{name}", inputs, replace)
            for name, spec in placements.items():
                work.place(name, spec)
            resting = recorded_placements(work.base, made_from=work.made)
            work.place_all({name: spec for name, spec in resting.items() if name not in placements})
            work.remake_exports({})
            return work.commit(command)

    return when_free(make, progress)


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
            work.place_all(recorded_placements(work.base, made_from=[spec.table]))
            work.remake_exports({})
            return work.commit(command)

    return when_free(make, progress)


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
        table = f"exports/{name}"
        with _work(root, progress, table) as work:
            base, tables = work.base, work.tables
            assert base is not None
            work.asked_tokenizer = lambda: tokenizer_of(root, base, tables, progress, tokenizer)
            refuse_overwriting(work, table, work.export_inputs(name, spec), replace)
            work.export(name, spec)
            return work.commit(command)

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
                "`rm` takes runs (scores/RUN), placements/NAME, exports/NAME and gates/NAME."
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


def recipe_tables(version: Version) -> set[str]:
    """The runs, placements and exports that the recipe of a version names."""
    recipe = version.manifest.recipe
    scoring = recipe.get("scoring")
    runs = [*([scoring["run"]] if scoring else []), *recipe.get("runs", {})]
    return {
        *(f"scores/{run}" for run in runs),
        *(f"{kind}/{name}" for kind in ("placements", "exports") for name in recipe.get(kind, {})),
    }


def refuse_overwriting(work: Work, name: str, inputs: dict[str, Any], replace: bool) -> None:
    """UsageError where ``name`` is there, made from other inputs, and may not be replaced."""
    if name not in work.tables or work.is_from(name, inputs) or replace:
        return
    before = work.tables[name].entry.provenance["inputs"]
    raise UsageError(
        f"{name} is there already, made otherwise ({'; '.join(differences(before, inputs))}). "
        "Give --replace to remake it, or choose another name."
    )


def _work(root: Path, progress: Progress, *tables: str) -> Work:
    """A change to the dataset that is there, by a command that makes ``tables``."""
    base = existing(root)
    damaged = mend(base, progress, [table for table in tables if table in base.tables])
    return Work(root, base, progress, damaged)


def existing(root: Path) -> Version:
    """The version that a change starts from; UsageError where there is no dataset."""
    open_version(root)  # says what is wrong where there is no dataset
    version = current_version(root)
    assert version is not None
    return version
