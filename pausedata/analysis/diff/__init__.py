"""What differs between two versions, two runs or two placements: what ``diff`` shows."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pausedata.analysis.diff.join import Found, Joined, JoinedRows, join
from pausedata.analysis.diff.placements import PlacementsDiff, diff_placements
from pausedata.analysis.diff.runs import RunsDiff, diff_runs
from pausedata.core.errors import UsageError
from pausedata.core.progress import Progress, Silent
from pausedata.store.dataset import KINDS, Version, open_version

__all__ = ["PlacementsDiff", "RunsDiff", "VersionsDiff", "diff", "diff_tables", "diff_versions"]


@dataclass(frozen=True)
class VersionsDiff:
    """Two versions: their examples by id, their tables by content hash, and how far the runs and
    placements that are in both have moved.
    """

    kind: str = field(default="versions", init=False)
    a: int
    b: int
    examples_a: int
    examples_b: int
    added: Found
    removed: Found
    changed: Found  # in both, with other token ids
    moved: Found  # in both, in another split
    tables_added: list[str]
    tables_removed: list[str]
    tables_differ: list[str]
    tables: list[RunsDiff | PlacementsDiff]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def diff(
    root: Path,
    a: str,
    b: str,
    *,
    version: int | None = None,
    most: int = 10,
    progress: Progress | None = None,
) -> VersionsDiff | RunsDiff | PlacementsDiff:
    """Compare ``a`` with ``b``: two numbers of versions, or two tables of one kind in ``version``.

    ``most``: how many of the most-changed examples to name. UsageError where the two cannot be
    compared or are not there, DataError where what is read is damaged.
    """
    progress = progress or Silent()
    numbers = [int(word) if word.isdecimal() and word.isascii() else None for word in (a, b)]
    if numbers[0] is not None and numbers[1] is not None:
        if version is not None:
            raise UsageError("--version says where two tables are; the numbers name versions.")
        versions = [open_version(root, number) for number in numbers]
        return diff_versions(versions[0], versions[1], most, progress)
    opened = open_version(root, version)
    for word, number in zip((a, b), numbers, strict=True):
        if number is not None:
            other = b if word == a else a
            raise UsageError(
                f"'{word}' is a version and '{other}' is not: give two versions, as in 3 4, or two "
                "tables of one kind, as in placements/a placements/b."
            )
        opened.table(word)
    return diff_tables(opened, a, b, most, progress)


def diff_tables(
    version: Version, a: str, b: str, most: int, progress: Progress
) -> RunsDiff | PlacementsDiff:
    """Compare two runs or two placements of one version."""
    kinds = {name.partition("/")[0] for name in (a, b)}
    for kind in kinds:
        if kind == "exports":
            raise UsageError(
                "exports are not compared: their rows are what their placements give. "
                "Compare those: placements/a placements/b."
            )
        if kind == "gates":
            raise UsageError(
                "gates are not compared: `pausedata sql` reads them, in the view gates."
            )
        if kind == "kept":
            raise UsageError(
                "kept scores are of some examples alone: score the run again, and compare scores/…."
            )
        if kind not in KINDS:
            raise UsageError(
                f"there is one table '{kind}' in a version. Compare it between versions, as in "
                "3 4, or two runs or placements of one."
            )
    if len(kinds) > 1:
        raise UsageError(
            f"'{a}' and '{b}' are of different kinds: compare two runs (scores/…) or two "
            "placements (placements/…)."
        )
    rows = version.table("tokens").entry.rows
    pairs = [JoinedRows(k, None, k, None) for k in range(len(version.table("tokens").shards))]
    joined = Joined(rows, rows, pairs, compared=rows)
    return _compare((version, a), (version, b), joined, most, progress)


def diff_versions(a: Version, b: Version, most: int, progress: Progress) -> VersionsDiff:
    """Compare two versions of a dataset."""
    before, now = a.manifest.tables, b.manifest.tables
    joined = join(a, b)
    differ = [name for name in before if name in now and before[name].content != now[name].content]
    moving = [name for name in differ if name.partition("/")[0] in ("scores", "placements")]
    return VersionsDiff(
        a=a.number,
        b=b.number,
        examples_a=joined.examples_a,
        examples_b=joined.examples_b,
        added=joined.added,
        removed=joined.removed,
        changed=joined.changed,
        moved=joined.moved,
        tables_added=[name for name in now if name not in before],
        tables_removed=[name for name in before if name not in now],
        tables_differ=differ,
        tables=[_compare((a, name), (b, name), joined, most, progress) for name in moving],
    )


def _compare(
    a: tuple[Version, str], b: tuple[Version, str], joined: Joined, most: int, progress: Progress
) -> RunsDiff | PlacementsDiff:
    compare = diff_runs if a[1].startswith("scores/") else diff_placements
    return compare(a, b, joined, most, progress)
