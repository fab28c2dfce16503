"""Two small examples, and what a strategy does with them: for the docs and `pausedata strategies`.

The responses are worded like those of GSM8K. The numbers are made up, such that each strategy has
something to choose.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from pausedata import strategies
from pausedata.core.errors import UsageError
from pausedata.strategies.base import Batch, Placed
from pausedata.strategies.text import ResponseTexts

PAUSE = "[PAUSE]"
EOS = "<eos>"


class Token(NamedTuple):
    """One response token; log-probabilities and entropy in nats."""

    text: str
    logprob: float
    rank: int
    entropy: float
    reference: float  # its log-probability in a second run


QUESTIONS = {
    "ex-1": "A box holds 6 eggs. Ann buys 2 boxes and breaks 5 eggs. How many are left?",
    "ex-2": "What is 2 + 2?",
}
EXAMPLES = {
    "ex-1": [
        Token(" She", -1.25, 2, 2.5, -1.0),
        Token(" buys", -1.5, 3, 2.25, -1.25),
        Token(" 2", -0.75, 1, 1.5, -0.5),
        Token(" *", -0.5, 1, 1.25, -0.375),
        Token(" 6", -0.125, 1, 0.25, -0.125),
        Token(" =", -0.0625, 1, 0.125, -0.0625),
        Token(" <<", -0.25, 1, 0.5, -0.125),
        Token("2", -0.0625, 1, 0.125, -0.0625),
        Token("*", -0.03125, 1, 0.0625, -0.03125),
        Token("6", -0.0625, 1, 0.125, -0.0625),
        Token("=", -0.03125, 1, 0.0625, -0.03125),
        Token("12", -0.375, 1, 0.75, -0.25),
        Token(">>", -0.03125, 1, 0.0625, -0.03125),
        Token("12", -0.125, 1, 0.25, -0.0625),
        Token(" eggs", -0.625, 1, 1.75, -0.5),
        Token(".", -0.375, 1, 1.0, -0.25),
        Token(" That", -3.25, 14, 3.5, -2.75),
        Token(" leaves", -1.0, 2, 2.0, -0.875),
        Token(" 12", -0.875, 1, 1.375, -0.75),
        Token(" -", -0.25, 1, 0.625, -0.25),
        Token(" 5", -2.75, 6, 1.125, -0.75),
        Token(" =", -0.0625, 1, 0.125, -0.0625),
        Token(" <<", -0.125, 1, 0.25, -0.0625),
        Token("12", -0.25, 1, 0.5, -0.125),
        Token("-", -0.0625, 1, 0.125, -0.0625),
        Token("5", -0.5, 1, 0.875, -0.125),
        Token("=", -0.03125, 1, 0.0625, -0.03125),
        Token("7", -2.25, 4, 1.625, -0.5),
        Token(">>", -0.03125, 1, 0.0625, -0.03125),
        Token("7", -0.25, 1, 0.375, -0.125),
        Token(".", -1.5, 2, 1.875, -1.375),
        Token("\n", -0.375, 1, 0.75, -0.25),
        Token("####", -0.125, 1, 0.25, -0.125),
        Token(" 7", -0.5, 1, 0.625, -0.25),
        Token(EOS, -0.0625, 1, 0.125, -0.0625),
    ],
    "ex-2": [
        Token(" 2", -0.5, 1, 1.0, -0.375),
        Token(" +", -0.125, 1, 0.25, -0.125),
        Token(" 2", -0.0625, 1, 0.125, -0.0625),
        Token(" =", -0.0625, 1, 0.125, -0.0625),
        Token(" 4", -0.25, 1, 0.5, -0.125),
        Token(".", -0.75, 1, 1.25, -0.5),
        Token("\n", -0.125, 1, 0.375, -0.125),
        Token("####", -0.0625, 1, 0.125, -0.0625),
        Token(" 4", -0.125, 1, 0.25, -0.0625),
        Token(EOS, -0.0625, 1, 0.125, -0.0625),
    ],
}
# What `combine` may join: name → strategy and parameters.
PLACEMENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "a": ("lowest_logprob", {"positions": 4}),
    "b": ("random", {"positions": 8}),
}


@dataclass(frozen=True)
class Worked:
    """A worked example: where a strategy with ``parameters`` puts pauses.

    ``positions`` and ``texts`` have one entry for each example shown. ``fitted`` is what the
    strategy found over both before it placed.
    """

    parameters: dict[str, Any]
    positions: list[list[int]]
    texts: list[str]
    fitted: dict[str, Any]


def worked(name: str) -> list[Worked]:
    """The worked examples of the strategy ``name``: on the first example, or, with ``fit``, both.

    Raises UsageError where a plug-in fails on them.
    """
    strategy = strategies.get(name)
    found = []
    for values in strategy.worked:
        try:
            found.append(_worked(strategy, values))
        except Exception as error:
            if strategies.origin(name) is None:
                raise
            raise UsageError(
                f"strategy '{name}' fails on its worked example {values}: "
                f"{type(error).__name__}: {error}"
            ) from error
    return found


def _worked(strategy: strategies.Strategy, values: dict[str, Any]) -> Worked:
    parameters = strategies.parse(strategy, values, f"worked example {values}")
    batch = example_batch()
    fitted = strategy.fit(lambda: [batch], parameters) if strategy.fit else {}
    placed, _ = strategies.place(strategy, dataclasses.replace(batch, fitted=fitted), parameters)
    shown = range(len(EXAMPLES) if strategy.fit else 1)
    return Worked(
        values,
        [placed.positions[placed.example == k].tolist() for k in shown],
        [_text(tokens, placed, k) for k, tokens in zip(shown, EXAMPLES.values(), strict=False)],
        fitted,
    )


@cache
def example_batch() -> Batch:
    """Both examples with all that a strategy may read."""
    batch = _plain_batch()
    placed = {}
    for name, (maker, values) in PLACEMENTS.items():
        strategy = strategies.get(maker)
        placed[name], _ = strategies.place(strategy, batch, strategies.parse(strategy, values, ""))
    return dataclasses.replace(batch, placed=placed)


def _plain_batch() -> Batch:
    offsets = np.cumsum([0, *map(len, EXAMPLES.values())])
    tokens = [token for example in EXAMPLES.values() for token in example]
    special = np.array([token.text == EOS for token in tokens])
    lengths = [0 if token.text == EOS else len(token.text) for token in tokens]
    spans = [np.cumsum([0, *lengths[a:b]]) for a, b in pairwise(offsets)]
    responses = ["".join(t.text for t in e if t.text != EOS) for e in EXAMPLES.values()]
    return Batch(
        ids=list(EXAMPLES),
        offsets=offsets,
        begins_character=np.ones(len(tokens), np.bool_),
        logprob=np.array([t.logprob for t in tokens], np.float32),
        rank=np.array([t.rank for t in tokens], np.int64),
        entropy=np.array([t.entropy for t in tokens], np.float32),
        reference=np.array([t.reference for t in tokens], np.float32),
        text=ResponseTexts(
            responses,
            offsets,
            np.concatenate([ends[:-1] for ends in spans]),
            np.concatenate([ends[1:] for ends in spans]),
        ),
        special=special,
    )


def _text(tokens: list[Token], placed: Placed, example: int) -> str:
    """The response with its pauses; more than three at one place are counted."""
    here = placed.example == example
    counts = dict(zip(placed.positions[here].tolist(), placed.counts[here].tolist(), strict=True))
    text = ""
    for position, token in enumerate([*(t.text for t in tokens), ""]):
        count = counts.get(position, 0)
        text += PAUSE * count if count <= 3 else f"{PAUSE}×{count}"
        text += token
    return text
