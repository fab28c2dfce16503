"""What a format of exports is: options, columns, rows, files, and which tokens bear loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pausedata.exporters.layout import FileLayout
from pausedata.exporters.sequences import Sequences

if TYPE_CHECKING:
    from pausedata.exporters.reader import Reader

IGNORE = -100  # the label that torch's cross entropy leaves out


class Options(BaseModel):
    """Base of every format's options: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def recorded(self) -> dict[str, Any]:
        """The options that provenance keeps: those that are not as by default.

        So an export of an earlier release stays current when a release adds options.
        """
        return self.model_dump(mode="json", exclude_defaults=True)


class Common(Options):
    """Options of all formats of pausedata's own."""

    pause_label: Literal["ignore", "train"] = Field(
        default="ignore", description="whether the model is trained to predict the pauses too"
    )
    max_length: int | None = Field(
        default=None, ge=1, description="the longest row in tokens, pauses included; null: any"
    )
    overlong: Literal["error", "skip", "truncate"] = Field(
        default="error",
        description="examples over max_length: an error, left out and counted, or cut at the end "
        "(without EOS) and counted",
    )
    chat_template: str | None = Field(
        default=None,
        description="put prompts through a chat template: `model` for the tokenizer's own, a file, "
        "or Jinja; a text prompt becomes the user's turn; null: prompts as they were built",
    )
    system: str | None = Field(
        default=None, description="a system prompt to put in front, through the chat template"
    )
    seed: int = Field(
        default=0, ge=0, description="decides which placement an example gets where several mix"
    )


class TokenOptions(Common):
    """Further options of formats of token ids."""

    eos: Literal["keep", "ignore", "drop"] = Field(
        default="keep",
        description="what the build appended to responses (EOS, the end of a turn): kept, kept "
        "without loss, or left out",
    )
    prompt_label: Literal["ignore", "train"] = Field(
        default="ignore", description="whether the prompt bears loss too"
    )
    pack: int | None = Field(
        default=None,
        ge=2,
        description="pack examples into rows of at most so many tokens, best fit, none of them "
        "split; null: one example a row",
    )


class TextOptions(Common):
    """Further options of formats of text, whose rows are read back as their trainer will."""

    overlong: Literal["error", "skip"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="error", description="examples over max_length: an error, or left out and counted"
    )
    on_mismatch: Literal["error", "move", "skip"] = Field(
        default="error",
        description="rows whose text its trainer would turn into other ids: an error, mended by "
        "moving pauses to the nearest place that survives, or left out; counted in any case",
    )

    def trains(self, piece: Piece) -> bool:
        """Whether the model is trained to predict this part of a response."""
        return not piece.is_pause or self.pause_label == "train"


class UnmaskedOptions(TextOptions):
    """Options of formats that cannot keep the loss off pauses."""

    allow_unmasked: bool = Field(
        default=False, description="accept that the model is trained to predict the pauses"
    )

    @model_validator(mode="after")
    def _accepted(self) -> UnmaskedOptions:
        if not self.allow_unmasked and self.pause_label == "ignore":
            raise ValueError(
                "it cannot keep the loss off pauses, and a model trained with it learns to write "
                "them: say so with `allow_unmasked: true` (--allow-unmasked), or choose a format "
                "that masks them (`pausedata formats`)"
            )
        return self


@dataclass(frozen=True)
class Piece:
    """A part of a response in text: between pauses, or the pauses at one place."""

    text: str
    is_pause: bool


@dataclass(frozen=True)
class TextRow:
    """One example as text, with its pauses."""

    id: str
    opening: str  # special tokens before the prompt that are not in its text: BOS
    prompt: str  # as it was rendered, chat template included
    messages: list[dict[str, Any]]  # the prompt as messages; empty: it is plain text
    pieces: tuple[Piece, ...]  # the response
    end: str  # what the build appended: EOS, or the end of the turn; empty: nothing

    @property
    def response(self) -> str:
        """The response with its pauses, as one text."""
        return "".join(piece.text for piece in self.pieces)


@dataclass(frozen=True)
class Text:
    """How a format of text writes a row, and how its trainer reads it."""

    render: Callable[[TextRow, Any], Mapping[str, Any]]  # the row, by column
    # The ids that the trainer makes of rows, with the special tokens that it adds.
    read_back: Callable[[Sequence[Mapping[str, Any]], Reader, Any], list[list[int]]]
    chat: bool  # whether rows are messages, which go through a chat template


@dataclass(frozen=True)
class Section:
    """A part of an export's README: how one trainer is told to read it."""

    trainer: str
    language: str  # python, yaml, bash
    code: str
    note: str = ""


@dataclass(frozen=True)
class Guide:
    """What a format needs to write its sections of a README."""

    options: Any
    pause: Mapping[str, Any]  # token, id, id_is_new
    files: Mapping[str, str]  # split → the file or folder that its trainer reads, relative
    longest: int  # tokens of the longest row

    @property
    def first_file(self) -> str:
        """The file of the first split."""
        return next(iter(self.files.values()), "train.jsonl")


@dataclass(frozen=True)
class Format:
    """A format: the Arrow rows that it makes, and the files that its trainer reads.

    A format of token ids has ``rows``, one of text ``text``.
    """

    name: str
    options: type[Options]
    schema: Callable[[Any], pa.Schema]  # by options
    layout: FileLayout
    readers: str  # the trainers that read it
    loss: str  # what bears loss, in a sentence
    pause_label_masked: bool = True  # as long as pause_label is `ignore`
    rows: Callable[[Sequences, Any], pa.Table] | None = None
    text: Text | None = None
    guide: Callable[[Guide], list[Section]] = field(default=lambda guide: [])

    def masks(self, options: Any) -> bool:
        """Whether no pause bears loss with these options."""
        return self.pause_label_masked and getattr(options, "pause_label", "ignore") == "ignore"
