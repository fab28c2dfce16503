"""What a strategy is given and what it gives back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pausedata.core.options import NO_LIMIT
from pausedata.strategies.patterns import checked_pattern
from pausedata.strategies.text import ResponseTexts

Int = np.ndarray[Any, np.dtype[np.int64]]
Bool = np.ndarray[Any, np.dtype[np.bool_]]
Float = np.ndarray[Any, np.dtype[np.float32]]

MOST_PAUSES = 32_767  # at one position: `count` is int16
SCORES = frozenset({"logprob", "rank", "entropy"})  # what a run stores for each token
COLUMNS = SCORES | {"text", "special"}  # of a batch, that are there only where they are read
MOST_TOKENS = NO_LIMIT  # of a response: positions are int32


Kind = Literal["special", "eos", "whitespace", "punctuation", "first"]


class Eligible(BaseModel):
    """Tokens that may be chosen. Without any key it is every one, as in the paper."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    without: list[Kind] = Field(
        default_factory=list,
        description="left out: special tokens, the EOS that was added, tokens of whitespace or "
        "of punctuation (Unicode P*, with whitespace or without) alone, the first token",
    )
    inside: str | None = Field(
        default=None,
        description="a regular expression: tokens that share no character with a match of it in "
        "the response are left out",
    )

    @field_validator("inside")
    @classmethod
    def _is_pattern(cls, pattern: str | None) -> str | None:
        return pattern if pattern is None else checked_pattern(pattern)

    @property
    def reads(self) -> frozenset[str]:
        """Columns of the batch that decide it."""
        by_text = self.inside is not None or {"eos", "whitespace", "punctuation"} & {*self.without}
        return frozenset(
            {*(["text"] if by_text else []), *(["special"] if "special" in self.without else [])}
        )

    def tokens(self, batch: Batch) -> Bool:
        """Which tokens these rules let through: [tokens]."""
        allowed: Any = np.ones(len(batch.begins_character), np.bool_)
        for kind in self.without:
            if kind == "first":
                allowed &= batch.position > 0
            elif kind == "special":
                assert batch.special is not None
                allowed &= ~batch.special
            else:
                assert batch.text is not None
                allowed &= ~getattr(batch.text, f"is_{kind}")
        if self.inside is not None:
            assert batch.text is not None
            allowed &= batch.text.inside(self.inside)
        return allowed


class Parameters(BaseModel):
    """Base of every strategy's parameters: unknown keys and wrong types are errors.

    A parameter that is left at null is not recorded, so that a later release can add some
    without making the placements of an earlier one look as if they were made otherwise.
    """

    # Strict: YAML's `yes` is no count of 1.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def recorded(self) -> dict[str, Any]:
        """What a placement's provenance says of them, JSON-able."""
        return _recorded(self)

    @property
    def reads(self) -> frozenset[str]:
        """What these parameters make the strategy read, beyond its own ``needs``."""
        return frozenset()

    @property
    def asks(self) -> bool:
        """Whether they ask for any pause: M, or the pauses at each place, may be 0."""
        amounts = ("tokens", "positions", "fraction", "max_positions")
        return all(getattr(self, name, None) != 0 for name in amounts)

    @property
    def other_run(self) -> str | None:
        """A second run, whose log-probabilities the strategy reads as ``Batch.reference``."""
        return None

    @property
    def placements(self) -> tuple[str, ...]:
        """Other placements that the strategy reads."""
        return ()


def _recorded(model: BaseModel) -> dict[str, Any]:
    values = model.model_dump(mode="json")
    for name, field_info in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            values[name] = _recorded(value)
        elif value is None and field_info.default is None:
            del values[name]
    return values


class Choosing(Parameters):
    """Base of the parameters of what chooses among tokens: the options common to all of these."""

    tokens: int = Field(
        default=1, ge=0, le=MOST_PAUSES, description="pauses at each place; 0: no place"
    )
    eligible: Eligible | None = Field(
        default=None, description="which tokens may be chosen; null: every one"
    )
    min_gap: int | None = Field(
        default=None,
        ge=1,
        le=MOST_TOKENS,
        description="tokens from one place to the next, at least",
    )
    max_positions: int | None = Field(
        default=None, ge=0, le=MOST_TOKENS, description="places in one response, at most"
    )
    seed: int | None = Field(
        default=None,
        description="decides, with each example's id, what is drawn at random; what draws "
        "nothing does not read it",
    )

    @property
    def reads(self) -> frozenset[str]:
        """What the eligible tokens are told by."""
        return self.eligible.reads if self.eligible else frozenset()


class Ranked(Choosing):
    """Base of the parameters of what takes the M best tokens of each response."""

    positions: int | None = Field(
        default=None,
        ge=0,
        le=MOST_TOKENS,
        description="M: how many tokens of each response get pauses",
    )
    fraction: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="instead of positions: M as a share of the response's tokens, halves rounded "
        "up",
    )

    @model_validator(mode="after")
    def _one_measure(self) -> Ranked:
        if (self.positions is None) == (self.fraction is None):
            raise ValueError("give either positions or fraction")
        return self

    def most(self, batch: Batch) -> Int:
        """M of each response: ``positions``, or ``fraction`` of its tokens, halves rounded up."""
        if self.positions is not None:
            # No more than there can be, so that any number that is asked for fits the type.
            return np.full(
                len(batch.lengths), min(self.positions, int(batch.lengths.max(initial=0)))
            )
        # As the decimal that was written: 0.1 of 30 is 3, whatever 0.1 is in binary.
        share = Fraction(str(self.fraction))
        lengths, which = np.unique(batch.lengths, return_inverse=True)
        most = [int(share * int(n) + Fraction(1, 2)) for n in lengths]
        return np.array(most, np.int64)[which]


@dataclass(frozen=True)
class Batch:
    """Response tokens of several examples, one after another.

    Example ``i`` has the tokens ``offsets[i]`` to ``offsets[i + 1]``. What a strategy does not
    need, and its parameters do not read, may be None.
    """

    ids: Sequence[str]  # [examples]
    offsets: Int  # [examples + 1], from 0
    begins_character: Bool  # [tokens]
    logprob: Float | None = None  # [tokens], nats
    rank: Int | None = None  # [tokens]
    entropy: Float | None = None  # [tokens], nats
    reference: Float | None = None  # [tokens], nats: the log-probabilities of a second run
    text: ResponseTexts | None = None  # responses, and the tokens' spans in them
    special: Bool | None = None  # [tokens]: whether it is a special token of the vocabulary
    placed: Mapping[str, Placed] = field(default_factory=dict)  # other placements, by name
    fitted: Mapping[str, Any] = field(default_factory=dict)  # what the strategy's `fit` gave

    @cached_property
    def lengths(self) -> Int:
        """Response tokens of each example: [examples]."""
        return np.diff(self.offsets)

    @cached_property
    def example(self) -> Int:
        """Which example each token belongs to: [tokens]."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @cached_property
    def position(self) -> Int:
        """Each token's index in its own response: [tokens]."""
        return np.arange(self.offsets[-1]) - self.offsets[self.example]

    def eligible(self, parameters: Choosing) -> Bool:
        """Which tokens may have a pause before them: [tokens]."""
        if parameters.eligible is None:
            return self.begins_character
        return self.begins_character & parameters.eligible.tokens(self)

    def of(self, examples: Int) -> Batch:
        """The batch of these examples alone (indices, ascending)."""
        lengths = self.lengths[examples]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        starts = np.repeat(self.offsets[examples] - offsets[:-1], lengths)
        tokens = starts + np.arange(offsets[-1])
        per_token = {
            name: None if values is None else values[tokens]
            for name in ("begins_character", "logprob", "rank", "entropy", "reference", "special")
            for values in [getattr(self, name)]
        }
        return dataclasses.replace(
            self,
            ids=[self.ids[k] for k in examples],
            offsets=offsets,
            text=self.text.of(examples, tokens) if self.text else None,
            placed={name: placed.of(examples) for name, placed in self.placed.items()},
            **per_token,
        )

    def allowing_all(self) -> Batch:
        """The same batch with every token allowed, also those inside a character."""
        return dataclasses.replace(self, begins_character=np.ones_like(self.begins_character))


@dataclass(frozen=True)
class Placed:
    """Pauses: ``counts[k]`` of them before token ``positions[k]`` of example ``example[k]``.

    All three are [pauses' places], in order of example and, within it, of position.
    """

    example: Int
    positions: Int
    counts: Int

    def offsets(self, examples: int) -> Int:
        """Where each example's places begin: [examples + 1]."""
        return np.concatenate([[0], np.cumsum(np.bincount(self.example, minlength=examples))])

    def of(self, examples: Int) -> Placed:
        """The places of these examples alone (indices, ascending), numbered from 0."""
        kept = np.isin(self.example, examples)
        return Placed(
            np.searchsorted(examples, self.example[kept]), self.positions[kept], self.counts[kept]
        )

    def as_int64(self) -> Placed:
        """These places as int64, the type that all that follows works with.

        A plug-in may give another: int8 overflows, and uint64 with int64 gives floating point.
        """
        columns = (self.example, self.positions, self.counts)
        return Placed(*(column.astype(np.int64, copy=False) for column in columns))

    def problem(self, batch: Batch) -> str | None:
        """What keeps these from being a placement of ``batch``; None: nothing."""
        example, positions, counts = self.example, self.positions, self.counts
        if not len(example) == len(positions) == len(counts):
            return f"{len(example)} examples, {len(positions)} positions and {len(counts)} counts"
        if not len(example):
            return None
        if any(not np.issubdtype(a.dtype, np.integer) for a in (example, positions, counts)):
            return "examples, positions or counts that are no whole numbers"
        whole = self.as_int64()
        example, positions, counts = whole.example, whole.positions, whole.counts
        if example.min() < 0 or example.max() >= len(batch.ids):
            return f"an example that is none of the {len(batch.ids)} of its batch"
        lengths = batch.lengths[example]
        same = example[1:] == example[:-1]
        later = np.where(same, positions[1:] > positions[:-1], example[1:] > example[:-1])
        token = np.clip(batch.offsets[example] + positions, 0, batch.offsets[-1])
        inside = ~np.append(batch.begins_character, True)[token] & (positions < lengths)
        wrong = {
            "which is not in the response": (positions < 0) | (positions > lengths),
            "which does not come after the one before it": np.append(False, ~later),
            f"with a count that is not from 1 to {MOST_PAUSES}": np.clip(counts, 1, MOST_PAUSES)
            != counts,
            "which is inside a character": inside,
        }
        for what, where in wrong.items():
            if where.any():
                at = int(where.argmax())
                return f"position {positions[at]} of example '{batch.ids[example[at]]}', {what}"
        return None


# All batches of a split, as often as they are asked for.
Batches = Callable[[], Iterable[Batch]]


@dataclass(frozen=True)
class Strategy:
    """A way to place pauses.

    ``place`` is a pure function of a batch and the parameters: where pauses go in an example may
    depend on nothing but that example and what ``fit`` found. ``needs`` are the batch's columns
    that it reads: ``logprob``, ``rank``, ``entropy``, ``text``. ``fit`` sees all batches of a
    split before any is placed; what it gives is recorded, and handed on as ``Batch.fitted``.
    ``known_before``, true or a function of the parameters: whether the prompt and the tokens before
    a token say, by themselves, that a pause stands before it. Where they do not, a pause tells
    something of what follows, and a model that was trained with such pauses listens.
    ``drawn_evenly``: the places are drawn at random among a response's, all as likely, so that they
    tell of it how long it is, and nothing else.
    ``source``, ``formula``, ``worked`` (parameters of worked examples) and ``notes`` (whatever else
    there is to say, in Markdown) are for the docs and `pausedata strategies`.
    """

    name: str
    options: type[Parameters]
    place: Callable[[Batch, Any], Placed]
    needs: frozenset[str] = frozenset()
    fit: Callable[[Batches, Any], dict[str, Any]] | None = None
    known_before: bool | Callable[[Any], bool] = False
    drawn_evenly: bool = False
    source: str = ""
    formula: str = ""
    worked: tuple[dict[str, Any], ...] = ()
    notes: str = ""
