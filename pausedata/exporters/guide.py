"""The README beside an export: what it holds, what bears loss, and how trainers load it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pausedata.exporters.base import Format, Guide, Section
from pausedata.exporters.tally import Tally
from pausedata.exporters.usage import how_to_use
from pausedata.store.choice import describe_choice

if TYPE_CHECKING:
    from pausedata.exporters.inputs import ExportInputs

MARK = "<!-- written by pausedata export -->"


def readme(
    format: Format,
    options: Any,
    origin: ExportInputs,
    tallies: Mapping[str, Tally],
    paths: Sequence[Path],
    folder: Path,
    version: int,
    left_out: Mapping[str, int] | None = None,
) -> str:
    """The README of an export.

    ``paths``: what trainers read, one for each split or one for all. The README names them
    relative to ``folder``, in which it stands: no machine path is in it. ``left_out``: how many
    examples are not in it because they are held out, by split.
    """
    relative = [path.relative_to(folder).as_posix() for path in paths]
    files = dict(zip(tallies, relative * len(tallies), strict=False))
    pause = origin.pause.model_dump(mode="json")
    longest = max((tally.longest for tally in tallies.values()), default=0)
    guide = Guide(options, pause, files, longest)
    lines = [
        MARK,
        f"# {origin.dataset}: `{format.name}`",
        "",
        f"Version {version}, placement {describe_choice(origin.choice)}; for {format.readers}.",
        "",
        "| split | file | rows | tokens | pauses | bear loss | longest row |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for label, tally in tallies.items():
        shown = tally.shown()
        lines.append(
            f"| {label} | `{files[label]}` | {tally.rows:,} | {tally.tokens:,} | {tally.pauses:,} "
            f"| {shown['loss_share']:.1%} | {tally.longest:,} |"
        )
    lines.append("")
    for split, examples in (left_out or {}).items():
        lines += [
            f"**Held out.** The {examples:,} examples of split `{split}` are not in it: "
            "`pausedata measure` takes them, and can tell something only of a model that has not "
            f"trained on them. `pausedata export … --split {split}` writes them.",
            "",
        ]
    if any(origin.is_held_out(label) for label in tallies):
        lines += [
            "**Not to train on.** These examples are held out: `pausedata measure` takes them, and "
            "tells nothing of a model that has seen them.",
            "",
        ]
    lines += [f"**Loss.** {format.loss}", ""]
    if not format.masks(options):
        lines += [_unmasked(format, options), ""]
    lines += [
        f"**The token.** `{pause['token']}` is id {pause['id']}"
        + (
            ", new to the tokenizer: `pausedata prepare-model MODEL OUT` makes a model and "
            "tokenizer that have it, or the trainer is told to add it, as below."
            if pause["id_is_new"]
            else ", the tokenizer's own."
        ),
        "",
        f"**Length.** No row may be cut: give the trainer {longest:,} tokens or more.",
        "",
    ]
    first = next(iter(files), "")
    own = Section("Python", "python", how_to_use(format, pause, files.get(first, ""), first))
    for section in [own, *format.guide(guide)]:
        lines += [f"## {section.trainer}", ""]
        lines += [section.note, ""] if section.note else []
        lines += [f"```{section.language}", section.code.rstrip("\n"), "```", ""]
    return "\n".join(lines)


def _unmasked(format: Format, options: Any) -> str:
    if format.pause_label_masked:
        return "**The pauses are trained too**, as `pause_label: train` says."
    return (
        "**The pauses are trained too.** This format has no way to keep the loss off them: the "
        "model learns to write the pause as it learns any word."
    )


def readme_name(folder: Path, stems: Sequence[str], whole: bool) -> str:
    """What the README is called in ``folder``, where there may be one that is not an export's.

    ``whole``: the folder was given, not a file in it.
    """
    names = ["README.md"] if whole else []
    more = (f"{stems[0]}.README-{number}.md" for number in count(2))
    return next(
        name
        for name in chain(names, [f"{stems[0]}.README.md"], more)
        if not is_foreign(folder / name)
    )


def is_foreign(path: Path) -> bool:
    """Whether ``path`` holds something else than an export's README."""
    if not path.exists():
        return False
    return not (path.is_file() and path.read_text("utf-8", "replace").startswith(MARK))
