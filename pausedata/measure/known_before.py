"""Whether the places of a stored placement tell anything of the tokens behind them."""

from __future__ import annotations

from pausedata import strategies
from pausedata.store.dataset import Version


def known_before(version: Version, placement: str) -> bool:
    """Whether the prompt and the tokens before a token decide if a pause stands before it.

    False where nobody says so: of a placement by a plug-in or a later release that is not here, or
    by others that are gone.
    """
    table = f"placements/{placement}"
    if table not in version.manifest.tables:
        return False
    found = strategies.recorded(version.table(table).entry.provenance.get("inputs", {}))
    if found is None:
        return False
    return strategies.known_before(*found, lambda name: known_before(version, name))
