"""Which tokens may be chosen: common to all strategies that choose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from pausedata.strategies.patterns import checked_pattern

if TYPE_CHECKING:
    from pausedata.strategies.base import Batch, Bool

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
