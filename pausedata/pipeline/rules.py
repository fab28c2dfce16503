"""The rules of a gate, as a recipe states them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Rules(BaseModel):
    """What pauses have to bring, and what they may cost, to be worth it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    min_gain: float = Field(
        default=0.0,
        allow_inf_nan=False,
        description="nats for each real token: pauses have to bring more than this",
    )
    min_accuracy_gain: float | None = Field(
        default=None,
        allow_inf_nan=False,
        description="share of answers: pauses have to make more right than this (measure "
        "--generate); decides where the gain cannot",
    )
    max_token_overhead: float | None = Field(
        default=None, ge=0, allow_inf_nan=False, description="pauses for each real token, at most"
    )
    max_latency_overhead: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="further time for each example, as a share of the time without, at most",
    )
    confidence: float = Field(
        default=0.95, ge=0.5, lt=1, description="how sure a verdict has to be"
    )
    per_group: bool = Field(
        default=False, description="judge every group by itself too: measure --group-by COLUMN"
    )
    min_examples: int = Field(
        default=100,
        ge=2,
        description="fewer measured examples, or clusters of them, are not enough to judge; the "
        "stated confidence holds from 100 on",
    )
