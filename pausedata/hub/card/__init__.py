"""The dataset card: YAML by which the Hub and ``datasets`` find the tables, and a page to read.

A commit writes a short one, from the manifest alone; ``card`` and ``push`` write it with figures
and with what a person wrote in ``CARD.md``. It is a view of a version, and no part of it.

It is written here rather than by ``huggingface_hub.DatasetCard``: that one passes over front matter
that is not closed, names no line of an error in it, and writes a person's YAML anew.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from pausedata.core.progress import Progress, Silent
from pausedata.hub.card.header import header
from pausedata.hub.card.own import PersonsPart, read_own
from pausedata.hub.card.page import page
from pausedata.store import files
from pausedata.store.dataset import Version
from pausedata.store.manifest import CARD, Manifest


@dataclass(frozen=True)
class Card:
    """A card, and warnings about what it leaves out."""

    text: str
    warnings: list[str] = field(default_factory=list)


def quick_card(manifest: Manifest) -> str:
    """What a commit writes: no table is read."""
    nothing = PersonsPart()
    return header(manifest, nothing, manifest.tables) + page(manifest, nothing)


def full_card(
    version: Version,
    *,
    repo: str | None = None,
    license: str | None = None,
    tables: Collection[str] | None = None,
    progress: Progress | None = None,
) -> Card:
    """The card with figures, features, and the words of ``CARD.md``.

    ``repo``: the ORG/NAME whose card it is; ``license``: the source's, an id that the Hub knows;
    ``tables``: those that the card names, by default all that are here. Raises UsageError for a
    licence that the Hub does not know, or front matter of ``CARD.md`` that is no YAML.
    """
    from pausedata.analysis.stats import manifest_stats, stats
    from pausedata.hub.card.features import dataset_infos

    listener = progress or Silent()
    own = read_own(version.root, license)
    named = [
        name
        for name, table in version.tables.items()
        if (name in tables if tables is not None else not table.absent)
    ]
    whole = all(not table.absent for name, table in version.tables.items() if _is_counted(name))
    figures = stats(version, None, listener) if whole else manifest_stats(version)
    infos = dataset_infos(version, named)
    text = header(version.manifest, own, named, infos)
    text += page(version.manifest, own, named, figures=figures, repo=repo)
    warnings = []
    if "license" not in own.front:
        warnings.append(
            "the card names no licence: give that of the source with --license ID, or as "
            "`license:` in CARD.md."
        )
    elif own.front["license"] in ("other", ["other"]) and "license_name" not in own.front:
        warnings.append(
            "the licence is `other`: say in CARD.md which it is, as `license_name:`, and put its "
            "text there or behind a `license_link:`."
        )
    for warning in warnings:
        listener.warn(warning)
    return Card(text, warnings)


def write_card(version: Version, card: Card) -> Path:
    """Put a card into the version's folder, in the place of the one that is there."""
    path = version.folder / CARD
    with files.replacing(path) as temporary:
        temporary.write_text(card.text, encoding="utf-8")
        files.make_read_only(temporary)
    return path


def _is_counted(table: str) -> bool:
    """Whether figures are counted from it."""
    return table.split("/")[0] in ("examples", "tokens", "scores", "placements")


__all__ = ["Card", "full_card", "quick_card", "write_card"]
