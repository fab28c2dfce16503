"""What a measurement has to decide, and when nothing of that is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from pausedata.measure.examples import ExamplePair
from pausedata.measure.judge import ruled_out
from pausedata.measure.measured import Measured
from pausedata.pipeline.rules import Rules


class Deciding:
    """Whether pauses help: of all examples, and where ``rules`` ask for it of each group."""

    def __init__(self, pairs: Sequence[ExamplePair], rules: Rules) -> None:
        self._rules = rules
        self._count = len(pairs)
        self._units = units_of(pairs)
        # Groups too small to be judged do not keep the measurement going.
        own = {(pair.group, pair.cluster or k) for k, pair in enumerate(pairs)}
        sizes = Counter(group for group, _ in own if group and rules.per_group)
        large = [name for name, count in sizes.items() if count >= rules.min_examples]
        self._groups: list[str | None] = [None, *sorted(large)]

    def is_over(self, measured: Measured) -> bool:
        """Whether help is ruled out for the whole and for each group that is judged."""
        return all(self.ruled_out(measured, name) is not None for name in self._groups)

    def ruled_out(self, measured: Measured, group: str | None) -> int | None:
        """After how many units it was, of all examples (None) or of a group; None: it is not.

        ``measured`` are the first of the pairs. A cluster of which an example is still to come is
        not yet a unit.
        """
        units = self._units
        if units is not None:
            whole = len(measured)
            while 0 < whole < self._count and units[whole] == units[whole - 1]:
                whole -= 1
            measured, units = measured.take(slice(whole)), units[:whole]
        if group is not None:
            mine = np.asarray(measured.group_name == group, dtype=bool)
            measured, units = measured.take(mine), None if units is None else units[mine]
        if units is not None:
            measured = measured.of_units(units)
        return ruled_out(measured, self._rules)


def units_of(pairs: Sequence[ExamplePair]) -> Any:
    """The cluster of each of ``pairs``, [examples]; None where each is a unit by itself."""
    if not pairs or pairs[0].cluster is None:
        return None
    return np.array([pair.cluster for pair in pairs], dtype=object)
