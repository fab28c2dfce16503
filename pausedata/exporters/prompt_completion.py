"""``prompt-completion``: two texts a row. The loss falls on the pauses too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pausedata.exporters.base import Format, Guide, Section, Text, TextRow, UnmaskedOptions
from pausedata.exporters.reader import Reader
from pausedata.exporters.row_files import RowFiles
from pausedata.store.tables import make_schema

_SCHEMA = make_schema([(1, "prompt", pa.string()), (2, "completion", pa.string())])


class PromptCompletion(UnmaskedOptions):
    """prompt and completion as text, the pauses in the completion."""


def render(row: TextRow, options: PromptCompletion) -> dict[str, str]:
    """The prompt as it was rendered, and the response with its pauses."""
    return {"prompt": row.prompt, "completion": row.response}


def read_back(
    rows: Sequence[Mapping[str, Any]], reader: Reader, options: PromptCompletion
) -> list[list[int]]:
    """As TRL reads them: both texts as one, and EOS after it."""
    return reader.encode(
        [row["prompt"] + row["completion"] + reader.eos for row in rows], special=True
    )


def guide(guide: Guide) -> list[Section]:
    """TRL's arguments."""
    return [
        Section(
            "TRL",
            "python",
            "SFTConfig(\n"
            f"    max_length={guide.longest},  # its default cuts at 1,024\n"
            "    completion_only_loss=True,\n"
            ")",
            "`SFTTrainer` reads the two columns as text and adds EOS itself. The model is one that "
            "`pausedata prepare-model` made.",
        )
    ]


FORMAT = Format(
    name="prompt-completion",
    options=PromptCompletion,
    schema=lambda options: _SCHEMA,
    text=Text(render, read_back, chat=False),
    layout=RowFiles(),
    readers="TRL, OpenAI's older completions",
    loss="The completion, its pauses too; the prompt as the trainer is told.",
    pause_label_masked=False,
    guide=guide,
)
