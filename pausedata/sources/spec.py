"""What a recipe says of its source and of the prompt that rows are made into."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from pausedata.core.held_out import HOLDOUT
from pausedata.core.names import Split


class RecipePart(BaseModel):
    """A part of a recipe: unknown keys are errors, values are never changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(RecipePart):
    """Where the rows come from: a dataset of the Hub, or files."""

    hub: str | None = Field(
        default=None, description="Hub dataset id, or ./folder laid out like one"
    )
    config: str | None = Field(default=None, description="configuration of the Hub dataset")
    revision: str | None = Field(
        default=None, description="null resolves to a commit, which is pinned"
    )
    files: list[str] | None = Field(
        default=None, description="JSONL, JSON, CSV or Parquet; .gz too"
    )
    split: Split | list[Split] = "train"
    limit: int | None = Field(default=None, ge=1, description="the first N rows of each split")
    holdout: float | None = Field(
        default=None, gt=0, lt=1, description="the share of rows that is not trained on: `holdout`"
    )
    id: str | None = Field(default=None, description="the column that holds an id")
    keep: list[str] | None = Field(
        default=None, description="columns for `meta`; null: those that no template uses"
    )
    max_bad_rows: int = Field(
        default=0, ge=0, description="more unusable rows than this is an error"
    )

    @field_validator("files", mode="before")
    @classmethod
    def _one_file(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_origin(self) -> Source:
        if (self.hub is None) == (not self.files):
            raise ValueError("give either hub or files, not both and not neither")
        if self.files and not isinstance(self.split, str):
            raise ValueError("with files, split is the one name that the rows get, not a list")
        if len(set(self.splits)) != len(self.splits) or not self.splits:
            raise ValueError("split names must be given once each")
        if self.holdout is not None and HOLDOUT in self.splits:
            raise ValueError(
                f"holdout makes a split '{HOLDOUT}', and split names one: leave holdout out "
                "(measure takes your own split by default), or name the split otherwise"
            )
        return self

    @property
    def all_splits(self) -> list[str]:
        """The splits of the dataset: those of the source, and what is held out of the first."""
        return [*self.splits, *([] if self.holdout is None else [HOLDOUT])]

    @property
    def splits(self) -> list[str]:
        """The split names of the source, in the recipe's order."""
        return [self.split] if isinstance(self.split, str) else list(self.split)


class Message(RecipePart):
    """One turn whose content is a Jinja2 template."""

    role: str
    content: str


class ChatPrompt(RecipePart):
    """A prompt made of turns, rendered through the model's chat template."""

    messages: list[Message] = Field(min_length=1)


class ColumnPrompt(RecipePart):
    """A column that holds the whole conversation; its assistant turns are the responses."""

    messages_column: str
    turns: Literal["last", "each"] = "last"


def _prompt_kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "text"
    if isinstance(value, ColumnPrompt) or (isinstance(value, dict) and "messages_column" in value):
        return "messages_column"
    if isinstance(value, ChatPrompt | dict):
        return "messages"
    return None


Prompt = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[ChatPrompt, Tag("messages")]
    | Annotated[ColumnPrompt, Tag("messages_column")],
    Discriminator(_prompt_kind),
]
