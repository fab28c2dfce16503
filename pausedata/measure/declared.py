"""What is declared of the places of a stored placement, and so what they can tell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pausedata import strategies
from pausedata.measure.examples import ExamplePair
from pausedata.measure.leak import leaks, length_leaks
from pausedata.measure.measured import Floats
from pausedata.store.dataset import Version
from pausedata.strategies import Parameters, Strategy


def leaks_of(version: Version, placement: str, pairs: Sequence[ExamplePair]) -> Floats:
    """Nats that the places of each of ``pairs`` tell of its tokens, at most: [examples].

    As much as the strategy's own word lets them, and nothing where they are known before.
    """
    if known_before(version, placement):
        return np.zeros(len(pairs))
    found = _recorded(version, placement)
    if found is not None and strategies.drawn_evenly(*found):
        return length_leaks(pairs)
    return leaks(pairs)


def known_before(version: Version, placement: str) -> bool:
    """Whether the prompt and the tokens before a token decide if a pause stands before it.

    False where nobody says so: of a placement by a plug-in or a later release that is not here, or
    by others that are gone.
    """
    found = _recorded(version, placement)
    return found is not None and strategies.known_before(
        *found, lambda name: known_before(version, name)
    )


def _recorded(version: Version, placement: str) -> tuple[Strategy, Parameters] | None:
    table = version.manifest.tables.get(f"placements/{placement}")
    return strategies.recorded(table.provenance.get("inputs", {})) if table else None
