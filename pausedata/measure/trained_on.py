"""Whether what is measured was there to train on: exports that have it, and duplicates."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pausedata.analysis.shared_texts import SharedTexts, compare
from pausedata.core import held_out
from pausedata.core.errors import DataError, UsageError, listing
from pausedata.core.held_out import HeldOut, cut_split, is_evaluated
from pausedata.core.progress import Progress
from pausedata.store.choice import epochs_of, names_in
from pausedata.store.dataset import Version, read_version
from pausedata.store.opening import version_folder, version_numbers


@dataclass(frozen=True)
class TrainedOn:
    """What is known of whether a model may have trained on the examples that are measured."""

    exports: list[str] = field(default_factory=list)  # written of them to train on
    duplicates: list[SharedTexts] = field(default_factory=list)  # in a split that is trained on

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def check(
    version: Version,
    placement: str,
    split: str | None,
    seed: int,
    *,
    allowed: bool,
    progress: Progress,
) -> TrainedOn:
    """What is known of the examples of ``version`` that are to be measured, told as warnings.

    UsageError where an export of the placement was written of them to train on, unless that is
    ``allowed``, and for a split that is not there. What was written outside the dataset is recorded
    nowhere.
    """
    where = held_out.choose(version.table("tokens").splits(), split, seed)
    split = where.split
    exports = [] if is_evaluated(split) else exports_of(version, placement, split)
    if exports:
        what = f"{listing([f'exports/{name}' for name in exports])} has the rows of split '{split}'"
        if not allowed:
            raise UsageError(_refusal(version, where, what))
        progress.warn(
            f"{what}, to train on: a model that was trained on it knows by heart what is measured, "
            "with pauses and without."
        )
    elif not is_evaluated(split) and where.seed is None:
        progress.say(
            f"no export of '{placement}' that is in the dataset was written of split '{split}'. "
            "One that was written outside of it is not known here: its examples are held out only "
            "if the model was not trained on them."
        )
    if split == cut_split(version.manifest.tables["tokens"].provenance):
        _tell_earlier(version, placement, progress)
    return TrainedOn(exports, [] if exports else _duplicates(version, split, progress))


def exports_of(version: Version, placement: str, split: str) -> list[str]:
    """The exports of ``version`` that have rows of ``split`` with the pauses of ``placement``."""
    found = []
    for name in version.exports:
        facts = version.manifest.tables[f"exports/{name}"].provenance
        choice = facts.get("inputs", {}).get("placement")
        if not choice or placement not in names_in(choice):
            continue
        labels = {split + added for added, weights in epochs_of(choice) if placement in weights}
        if labels & set(facts.get("splits", {})):
            found.append(name)
    return found


def _refusal(version: Version, where: HeldOut, what: str) -> str:
    """What is wrong, and all that can be done about it."""
    others = [split for split in version.splits if split != where.split and is_evaluated(split)]
    todo = (
        f"Measure on {' or '.join(f'--split {split}' for split in others)}"
        if others
        else "Hold a part out, source.holdout: 0.2 in the recipe, build with --replace, and train "
        "on an export of the rest"
    )
    return (
        f"{what}, to train on: a model that was trained on it knows these examples by heart, with "
        f"pauses and without, so that nothing is to be learnt from them. {todo}; or give "
        "--allow-trained, where the model was trained on other rows."
    )


def _tell_earlier(version: Version, placement: str, progress: Progress) -> None:
    """Warn of earlier versions that held less out, and had exports to train on."""
    now = _share(version)
    for number in sorted(version_numbers(version.root)):
        if number >= version.number:
            break
        try:
            earlier = read_version(version.root, version_folder(version.root, number))
        except (DataError, UsageError):
            continue
        same = _drawn_by(earlier) == _drawn_by(version)
        if same and _share(earlier) >= now:
            continue
        exports = [
            name
            for split in earlier.splits
            if not is_evaluated(split)
            for name in exports_of(earlier, placement, split)
        ]
        if exports:
            held = "less" if same else "other examples"
            held = held if _share(earlier) else "nothing"
            progress.warn(
                f"version {number} held {held} out, and "
                f"exports/{exports[0]} of it has examples that are held out now: measure only "
                "models that were trained on exports of this version."
            )
            return


def _drawn_by(version: Version) -> dict[str, Any]:
    """What decides the texts by whose hash examples are held out."""
    return {key: _inputs(version).get(key) for key in ("prompt", "chat_template")}


def _share(version: Version) -> float:
    return _inputs(version).get("source", {}).get("holdout") or 0.0


def _inputs(version: Version) -> dict[str, Any]:
    """What the tokens were made from."""
    return version.manifest.tables["tokens"].provenance.get("inputs", {})


def _duplicates(version: Version, split: str, progress: Progress) -> list[SharedTexts]:
    """Examples of ``split`` that are in one that is trained on, too."""
    trained = [other for other in version.splits if other != split and not is_evaluated(other)]
    if not trained:
        return []
    examples = version.table("examples")
    if examples.absent:
        progress.say(
            "whether examples are in a split that is trained on, too, is not known: the table "
            "`examples` was not pulled."
        )
        return []
    found = compare(examples, [(split, other) for other in trained], progress)
    for shared in found:
        progress.warn(
            f"{shared.told()}: of a model that was trained on '{shared.other}' "
            "they show what it knows by heart. They are measured all the same."
        )
    return found
