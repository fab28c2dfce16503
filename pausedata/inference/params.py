"""What a request may say of its pauses: thresholds, limits, places, and its group."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from pausedata.core.invalid import checked
from pausedata.inference.eligibility import Eligibility, parse_eligibility, read_eligibility


def _is_text(mark: str) -> str:
    if not mark:
        raise ValueError("give a text: every answer has the empty one")
    return mark


Mark = Annotated[str, AfterValidator(_is_text)]
Pair = Annotated[tuple[Mark, Mark], Field(strict=False)]


class PauseParams(BaseModel):
    """When a pause is forced in an answer, and what limits them."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    threshold: float = Field(
        default=0.5,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="a pause is forced where the highest next-token probability is below it",
    )
    entropy_threshold: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="also where the entropy (nats) is above it; null: entropy does not count",
    )
    tokens: int = Field(default=1, ge=1, description="pauses at each place")
    max_pauses: int | None = Field(
        default=None, ge=0, description="most pauses in an answer; null: no limit"
    )
    cooldown: int = Field(
        default=0, ge=0, description="tokens that must come after a pause before the next one"
    )
    never_inside: Annotated[tuple[Pair, ...], Field(strict=False)] = Field(
        default=(("<tool_call>", "</tool_call>"),),
        description="pairs of texts: no pause after the first, up to and with the second",
    )
    never_after: Annotated[tuple[Mark, ...], Field(strict=False)] = Field(
        default=(), description="texts after which the answer gets no more pauses, such as '####'"
    )
    eligibility: Eligibility | None = Field(
        default=None, description="the rule that says which groups may have pauses (file or object)"
    )
    group: str | None = Field(default=None, description="the group that the request belongs to")

    @field_validator("eligibility", mode="before")
    @classmethod
    def _rule(cls, given: Any) -> Any:
        if isinstance(given, str | os.PathLike):
            return read_eligibility(Path(given))
        return parse_eligibility(dict(given)) if isinstance(given, Mapping) else given

    @model_validator(mode="after")
    def _agree(self) -> PauseParams:
        if self.group is not None and self.eligibility is None:
            raise ValueError("a group says nothing without eligibility: name the rule")
        if self.max_pauses and self.max_pauses < self.tokens:
            raise ValueError(
                f"max_pauses {self.max_pauses} is less than tokens {self.tokens}: "
                "no place would get its pauses"
            )
        return self

    @property
    def eligible(self) -> bool:
        """Whether the request's group may have pauses."""
        return self.eligibility is None or self.eligibility.allows(self.group)

    def extra_args(self) -> dict[str, Any]:
        """These for vLLM: ``SamplingParams(extra_args=params.extra_args())``."""
        return {"pauses": self.model_dump(mode="json", include=self.model_fields_set)}


def parse_params(values: Mapping[str, Any], where: str) -> PauseParams:
    """``values`` as parameters; UsageError, beginning with ``where``, says which is wrong."""
    return checked(PauseParams, dict(values), where)
