"""Pauses before or after what a regular expression finds in the response."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from pausedata.strategies.base import Batch, Choosing, Placed, Strategy
from pausedata.strategies.patterns import checked_pattern
from pausedata.strategies.places import choose_places
from pausedata.strategies.presets import PRESETS, Name, Where
from pausedata.strategies.sentences import holding, sentences


class Regex(Choosing):
    """Before or after each match of a pattern in the response."""

    pattern: str | None = Field(
        default=None,
        description="a regular expression, in the syntax of Python's `re`; nothing bounds how long "
        "it may search",
    )
    preset: Name | None = Field(
        default=None, description="instead of pattern: one that has a name in the reference code"
    )
    where: Where | None = Field(
        default=None,
        description="before or after each match; null: as the preset says, before for a pattern",
    )

    @field_validator("pattern")
    @classmethod
    def _is_pattern(cls, pattern: str | None) -> str | None:
        return pattern if pattern is None else checked_pattern(pattern)

    @model_validator(mode="after")
    def _one_pattern(self) -> Regex:
        if (self.pattern is None) == (self.preset is None):
            raise ValueError("give either pattern or preset")
        return self


def place(batch: Batch, parameters: Regex) -> Placed:
    """The position before the token in which each match begins, or after that in which it ends."""
    text = batch.text
    assert text is not None
    preset = PRESETS[parameters.preset] if parameters.preset else None
    where = parameters.where or (preset.where if preset else "before")
    example, start, end = text.matches(preset.pattern if preset else parameters.pattern or "")
    if preset and preset.whole_sentence:
        found = sentences(text)
        kept = holding(text, found, text.base[example] + start)
        example, start, end = found.example[kept], found.start[kept], found.end[kept]
    after = where == "after"
    position = text.after(example, end) if after else text.before(example, start)
    return choose_places(batch, parameters, example, position, after=after)


STRATEGY = Strategy(
    "regex",
    Regex,
    place,
    frozenset({"text"}),
    source="the paper's reference code, whose names the presets have",
    formula="Before the token that contains the first character of a match, or after the token "
    "that contains its last: a match that begins or ends inside a token is not split. An empty "
    "match counts; matches that share a place give one. Each response is searched alone, a "
    "truncated one as far as its tokens go.",
    worked=(
        {"pattern": r"\n"},
        {"pattern": r"\d+", "where": "after"},
        *({"preset": name} for name in PRESETS),
    ),
    notes="\n".join(
        [
            "Python 3.11.0 to 3.11.4 match a possessive quantifier over a group wrongly: there a "
            "pattern with one is refused, and `(?>(?:…)*)`, which is the same as `(?:…)*+`, is "
            "taken.",
            "",
            "| preset | where | what it matches | |",
            "|---|---|---|---|",
            *(
                f"| `{name}` | {preset.where} | {preset.explanation} | `{preset.example}` |"
                for name, preset in PRESETS.items()
            ),
        ]
    ),
)
