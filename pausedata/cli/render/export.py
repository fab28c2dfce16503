"""An export in words."""

from __future__ import annotations

from typing import Any

from pausedata.exporters.refused import REASONS


def describe_left_out(split: str, examples: int) -> str:
    """What an export leaves out because it is held out."""
    return (
        f"{split}: {examples:,} examples are held out, and not in it: `measure` takes them "
        f"(--split {split} writes them alone)"
    )


def describe_split(label: str, figures: dict[str, Any]) -> list[str]:
    """The figures of one split: a line, and one for each thing that is not as planned."""
    packed = (
        f" of {figures['examples']:,} examples" if figures["examples"] != figures["rows"] else ""
    )
    lines = [
        f"{label}: {figures['rows']:,} rows{packed}, {figures['tokens']:,} tokens "
        f"({figures['growth']:.1%} more by {figures['pauses']:,} pauses), "
        f"{figures['loss_share']:.1%} bear loss, longest row {figures['longest']:,}"
    ]
    for reason, count in figures["skipped"].items():
        lines.append(f"{label}: {count:,} left out: {REASONS.get(reason, reason)}")
    if figures["truncated"]:
        lines.append(f"{label}: {figures['truncated']:,} cut to max_length")
    if figures["moved"]:
        lines.append(f"{label}: {figures['moved']:,} with pauses moved to the nearest place")
    return lines
