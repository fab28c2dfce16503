"""What ``gc`` would delete and what it deleted, in lines for people."""

from __future__ import annotations

from pausedata.store.gc import Collected, GcPlan


def describe_plan(plan: GcPlan) -> list[str]:
    """What would go and how much that frees, then what stays and why."""
    lines = [f"{plan.root}: to delete" if plan.items else f"{plan.root}: nothing to delete"]
    for item in plan.items:
        lines.append(f"  {item.name}: {size(item.bytes)}, {_age(item.age)} old; {item.what}")
    if plan.items:
        whole = sum(item.bytes for item in plan.items)
        shared = f" ({size(whole - plan.frees)} stay, shared with what stays)"
        lines.append(f"  frees {size(plan.frees)}" + (shared if plan.frees < whole else ""))
    if plan.kept:
        lines.append("kept")
        lines += [f"  {name}: {why}" for name, why in plan.kept.items()]
    return lines


def cautions(plan: GcPlan) -> list[str]:
    """What to consider before saying yes."""
    if not any(item.kind == "version" for item in plan.items):
        return []
    lines = [
        "Other tools (DuckDB, Polars, a trainer …) hold no version: make sure that none of them "
        "reads these."
    ]
    if not plan.sees_holds:
        lines.append(
            "This file system does not say which versions pausedata itself is reading: make sure "
            "of that, too."
        )
    return lines


def describe_collected(result: Collected) -> list[str]:
    """What was deleted, what was kept after all, and what could not be deleted."""
    things = len(result.deleted)
    lines = [f"deleted {things} thing{'' if things == 1 else 's'}, freed {size(result.freed)}"]
    lines += [f"  kept {name}: {why}" for name, why in result.kept.items()]
    lines += [f"  could not delete {name}: {why}" for name, why in result.failed.items()]
    if result.failed:
        lines.append("  Nothing reads what is left of it; mend that and run gc again.")
    return lines


def size(bytes: int) -> str:
    """``1.2 MB``, in powers of ten."""
    amount, unit = float(bytes), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 999.5 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 99.95 else f"{amount:.1f} {unit}"


def _age(seconds: float) -> str:
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        count = int(seconds // length)
        if count:
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return "less than a minute"
