"""What a command made, for people and for programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pausedata import exporters
from pausedata.cli.render.gc import size
from pausedata.cli.render.next_steps import next_commands
from pausedata.core.held_out import cut_split
from pausedata.pipeline.transaction import Outcome


def describe(outcome: Outcome, width: int | None = None) -> list[str]:
    """A table of what was made, and where; what was kept, and counted; and what to try next.

    Where a line of the table would be wider than ``width``, the place has a line of its own.
    """
    root, manifest = outcome.root, outcome.version.manifest
    repaired = [f"  repaired {name}: it came out as it was" for name in outcome.repaired]
    repaired += [f"  {name} is still damaged" for name in outcome.damaged]
    if not outcome.committed and repaired:
        again = "" if outcome.damaged else ", and is whole again"
        return [f"{root}: version {manifest.version} was damaged{again}", *repaired]
    if not outcome.committed:
        return [f"{root}: up to date (version {manifest.version}); nothing to do."]
    lines = [f"{root}: version {manifest.version}", *repaired]
    lines += _table(outcome, width)
    lines += [f"  kept     {name}" for name in outcome.kept]
    lines += [f"  dropped  {name}: {why}" for name, why in outcome.removed.items()]
    held = cut_split(manifest.tables["tokens"].provenance)
    for split, rows in manifest.rows.items():
        counted = {**rows.dropped, **{k: v for k, v in rows.noted.items() if v}}
        details = "".join(f", {count:,} {reason}" for reason, count in counted.items())
        lines.append(f"  {split}: {rows.into:,} rows in, {rows.out:,} out{details}")
        if split == held:
            lines[-1] += ": held out for `measure`, in no export that does not name it"
    if outcome.marked:
        numbers = ", ".join(str(number) for number in outcome.marked)
        lines.append(f"  damaged and not to be repaired, marked as such: version {numbers}")
    if outcome.copied:
        lines.append(f"  {describe_copied(outcome.copied)}")
    commands = next_commands(root, outcome.version, outcome.made)
    return lines + [f"  try: {command}" for command in commands]


def _table(outcome: Outcome, width: int | None) -> list[str]:
    """What was made, its figures, and where it is."""
    rows = [(name, _facts(outcome, name), str(_place(outcome, name))) for name in outcome.made]
    names, facts = (max((len(row[k]) for row in rows), default=0) for k in (0, 1))
    one = [f"  made     {name:{names}}  {what:{facts}}  {where}" for name, what, where in rows]
    if width is None or max(map(len, one), default=0) <= width:
        return one
    return [
        line
        for name, what, where in rows
        for line in (f"  made     {name:{names}}  {what}", f"           {where}")
    ]


def _place(outcome: Outcome, name: str) -> Path:
    """Where a table is: its folder; of an export the first of its trainer's files."""
    folder = outcome.root / "versions" / outcome.version.folder.name
    if name == "vocab":
        return folder / "vocab.parquet"
    if not name.startswith("exports/"):
        return folder / name
    facts = outcome.version.table(name).entry.provenance
    layout = exporters.get(facts["inputs"]["format"]).layout
    return layout.paths(folder / name / layout.inside, facts["splits"])[0]


def describe_copied(bytes: int) -> str:
    """How much space a version takes where its files could not be shared with its parent's."""
    return f"no hard links here: the version took copies of {size(bytes)}"


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """What a command made, as JSON."""
    manifest = outcome.version.manifest
    return {
        "dataset": str(outcome.root),
        "version": manifest.version,
        "committed": outcome.committed,
        "made": outcome.made,
        "kept": outcome.kept,
        "repaired": outcome.repaired,
        "damaged": outcome.damaged,
        "marked": outcome.marked,
        "removed": outcome.removed,
        "rows": {s: r.model_dump(mode="json", by_alias=True) for s, r in manifest.rows.items()},
        "copied_bytes": outcome.copied,
    }


def _facts(outcome: Outcome, name: str) -> str:
    entry = outcome.version.table(name).entry
    facts = entry.provenance
    if name.startswith("scores/"):
        carried = facts.get("carried_examples")
        kept = f" ({carried:,} carried over)" if carried else ""
        return f"{entry.rows:,} examples{kept}, mean log-probability {facts['mean_logprob']:.3f}"
    if name.startswith("placements/"):
        kept_off = facts["kept_off_characters"]
        inside = f", {kept_off:,} kept off the inside of a character" if kept_off else ""
        return f"{facts['pauses']:,} pauses at {facts['places']:,} places{inside}"
    if name.startswith("exports/"):
        tokens = sum(tally["tokens"] for tally in facts["splits"].values())
        return f"{entry.rows:,} rows, {tokens:,} tokens" + _not_as_planned(facts)
    return f"{entry.rows:,} rows"


def _not_as_planned(facts: dict[str, Any]) -> str:
    """An export's examples that were left out, cut or changed; empty where there are none."""
    splits = facts["splits"]
    skipped = sum(sum(tally.get("skipped", {}).values()) for tally in splits.values())
    counts = {"skipped": skipped} | {
        what: sum(tally.get(what, 0) for tally in splits.values())
        for what in ("truncated", "moved")
    }
    counts["held out"] = sum(facts.get("left_out", {}).values())
    return "".join(f", {count:,} {what}" for what, count in counts.items() if count)
