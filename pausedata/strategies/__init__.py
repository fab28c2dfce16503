"""Scores to positions: pure functions over a batch of examples, with no I/O.

A strategy is registered with a typed model of its parameters; the command line, the recipe's
schema and its errors all read that one place. `get` finds one, `of` parses its parameters; `base`
says what a strategy gets and gives. A strategy is a file here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from pausedata.core.errors import DataError, PausedataError, listing
from pausedata.core.registry import Registry
from pausedata.strategies import (
    append,
    budget,
    combine,
    every_word,
    excess,
    hardest_sentence,
    highest_entropy,
    lowest_logprob,
    none,
    random,
    regex,
    sampled,
    sentence,
    surprisal_spike,
    threshold,
)
from pausedata.strategies.base import (
    COLUMNS,
    SCORES,
    Batch,
    Batches,
    Choosing,
    Parameters,
    Placed,
    Ranked,
    Strategy,
)
from pausedata.strategies.choose import choose
from pausedata.strategies.places import choose_places

__all__ = [
    "Batch",
    "Choosing",
    "Parameters",
    "Placed",
    "Ranked",
    "Strategy",
    "about",
    "choose",
    "choose_places",
    "describe",
    "drawn_evenly",
    "get",
    "known_before",
    "names",
    "of",
    "origin",
    "own",
    "parse",
    "place",
    "plugins",
    "reads",
    "reads_scores",
    "recorded",
]


def _check(strategy: Strategy) -> None:
    """Raise where a plug-in's strategy could not be used later."""
    if unknown := strategy.needs - COLUMNS:
        raise ValueError(f"needs {listing(unknown)}: a batch has {listing(sorted(COLUMNS))}")
    _all_reads(strategy)


def _all_reads(strategy: Strategy) -> set[str]:
    """What the strategy and its worked examples read, less what their `eligible` rules read."""
    found = set(strategy.needs)
    for values in strategy.worked:
        parameters = parse(strategy, values, f"worked example {values}")
        eligible = getattr(parameters, "eligible", None)
        found |= parameters.reads - (eligible.reads if eligible else frozenset())
        found |= {"reference"} if parameters.other_run else set()
        found |= {"placed"} if parameters.placements else set()
    return found


_registry = Registry(
    "strategy",
    [
        # The paper's, as in its Table 1, and its reference code's; then what else goes by score.
        lowest_logprob.STRATEGY,
        append.STRATEGY,
        random.STRATEGY,
        every_word.STRATEGY,
        none.STRATEGY,
        threshold.STRATEGY,
        regex.STRATEGY,
        sentence.STRATEGY,
        highest_entropy.STRATEGY,
        surprisal_spike.STRATEGY,
        sampled.STRATEGY,
        budget.STRATEGY,
        excess.STRATEGY,
        hardest_sentence.STRATEGY,
        combine.STRATEGY,
    ],
    group="pausedata.strategies",
    accepts=Strategy,
    base=Parameters,
    common=Choosing,
    check=_check,
)
names = _registry.names
own = _registry.own
plugins = _registry.plugins
origin = _registry.origin
get = _registry.get

_INPUTS = {"strategy", "parameters", "run", "tokens", "scores", "reads"}


def parse(strategy: Strategy, values: dict[str, Any], where: str) -> Parameters:
    """``values`` as the strategy's typed parameters; UsageError begins with ``where``."""
    return _registry.parse(strategy, values, where)


def of(name: str, values: dict[str, Any], where: str) -> tuple[Strategy, Parameters]:
    """The strategy ``name`` and ``values`` as its parameters; UsageError begins with ``where``."""
    strategy = get(name, f"{where}.strategy" if where else "")
    return strategy, parse(strategy, values, where)


def about(name: str) -> dict[str, Any]:
    """What the strategy ``name`` says of itself, JSON-able: lists, schema and docs rest on it.

    ``reads``: what it needs of the dataset besides the tokens' spans, with the parameters of its
    worked examples: names of the optional columns of a batch. ``known_before``: yes, no, or that it
    depends on the parameters.
    """
    strategy = get(name)
    said = {key: getattr(strategy, key) for key in ("source", "formula", "notes")}
    declared = strategy.known_before
    known = "depends" if callable(declared) else "yes" if declared else "no"
    reads = sorted(_all_reads(strategy))
    return _registry.describe(name) | said | {"reads": reads, "known_before": known}


def describe() -> list[dict[str, Any]]:
    """What every strategy says of itself."""
    return [about(name) for name in names()]


def recorded(inputs: dict[str, Any]) -> tuple[Strategy, Parameters] | None:
    """The strategy and parameters of a stored placement, from its provenance's ``inputs``.

    None where a later release made it, in a way that this one does not know.
    """
    return _registry.recorded(inputs, _INPUTS, "parameters")


def reads(strategy: Strategy, parameters: Parameters) -> frozenset[str]:
    """Columns of the batch that the strategy reads with these parameters."""
    return strategy.needs | parameters.reads


def reads_scores(strategy: Strategy, parameters: Parameters) -> bool:
    """Whether it needs a scored run."""
    return bool(reads(strategy, parameters) & SCORES)


def known_before(
    strategy: Strategy, parameters: Parameters, other: Callable[[str], bool] = lambda name: False
) -> bool:
    """Whether the prompt and the tokens before a token decide if a pause stands before it.

    ``other`` says it of another placement, by name, which the strategy reads. Where it is so the
    places tell nothing of the tokens that follow.
    """
    eligible = getattr(parameters, "eligible", None)
    if eligible is not None and eligible.reads:  # the token's own text decides
        return False
    declared = strategy.known_before
    known = declared(parameters) if callable(declared) else declared
    return known and all(map(other, parameters.placements))


def drawn_evenly(strategy: Strategy, parameters: Parameters) -> bool:
    """Whether places are drawn among all of a response's, so that they tell its length alone."""
    eligible, gap = (getattr(parameters, name, None) for name in ("eligible", "min_gap"))
    return strategy.drawn_evenly and eligible is None and gap is None


def place(strategy: Strategy, batch: Batch, parameters: Parameters) -> tuple[Placed, int]:
    """Where ``strategy`` puts pauses in ``batch``, and how often it was kept off a character.

    A token that begins inside a character is never given a pause. The second value counts those
    that the strategy would have chosen had they been allowed. DataError where a plug-in's strategy
    fails or gives what is no placement.
    """
    placed = _placed(strategy, batch, parameters)
    inside = np.unique(batch.example[~batch.begins_character])
    if not len(inside):
        return placed, 0
    rest = batch.of(inside)
    wanted = _placed(strategy, rest.allowing_all(), parameters)
    within = wanted.positions < rest.lengths[wanted.example]
    tokens = rest.offsets[wanted.example[within]] + wanted.positions[within]
    return placed, int((~rest.begins_character[tokens]).sum())


def fit(strategy: Strategy, batches: Batches, parameters: Parameters) -> dict[str, Any]:
    """What ``strategy``, which has a ``fit``, works out from all batches of a split."""
    assert strategy.fit is not None
    work = functools.partial(strategy.fit, batches, parameters)
    return _by(strategy, work)


def _placed(strategy: Strategy, batch: Batch, parameters: Parameters) -> Placed:
    placed = _by(strategy, functools.partial(strategy.place, batch, parameters))
    problem = "it gives no Placed"
    if not isinstance(placed, Placed) or (problem := placed.problem(batch)):
        raise DataError(f"{_whose(strategy)} is at fault: {problem}.")
    return placed.as_int64()


def _by(strategy: Strategy, work: Callable[[], Any]) -> Any:
    """What ``work`` returns; where a plug-in's code raises, the error names the plug-in."""
    try:
        return work()
    except PausedataError:
        raise
    except Exception as error:
        if origin(strategy.name) is None:
            raise
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DataError(f"{_whose(strategy)} is at fault: {what}. --debug shows where.") from error


def _whose(strategy: Strategy) -> str:
    made_by = origin(strategy.name)
    return f"strategy '{strategy.name}'" + (
        f" of {made_by['distribution']} {made_by['version']}" if made_by else ""
    )
