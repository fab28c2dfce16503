"""``swift``: ms-swift's messages, in which each part of the reply says whether it bears loss.

The prompt is the text as it was rendered, and is read without a template of ms-swift's own: those
need not be the model's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pausedata.exporters.base import Format, Guide, Section, Text, TextOptions, TextRow
from pausedata.exporters.reader import Reader
from pausedata.exporters.row_files import RowFiles
from pausedata.store.tables import make_schema

_PART = pa.struct([("role", pa.string()), ("content", pa.string()), ("loss", pa.bool_())])
_SCHEMA = make_schema([(1, "messages", pa.list_(_PART))])


class Swift(TextOptions):
    """The prompt, and the reply in parts, those of pauses without loss."""


def render(row: TextRow, options: Swift) -> dict[str, Any]:
    """A part for each stretch of text and for the pauses at each place."""
    parts = [
        {"role": "assistant", "content": piece.text, "loss": options.trains(piece)}
        for piece in row.pieces
    ]
    return {"messages": [{"role": "user", "content": row.prompt, "loss": None}, *parts]}


def read_back(rows: Sequence[Mapping[str, Any]], reader: Reader, options: Swift) -> list[list[int]]:
    """As ms-swift reads them: BOS, every part tokenised apart, and EOS."""
    parts = [[message["content"] for message in row["messages"]] for row in rows]
    return [[*reader.opening_ids, *ids, *reader.eos_ids] for ids in reader.encode_parts(parts)]


def guide(guide: Guide) -> list[Section]:
    """ms-swift's command."""
    return [
        Section(
            "ms-swift",
            "bash",
            f"swift sft --model MODEL --dataset {guide.first_file} \\\n"
            "    --use_chat_template false \\\n"
            f"    --new_special_tokens '{guide.pause['token']}' \\\n"
            f"    --max_length {guide.longest} --truncation_strategy raise \\\n"
            "    --loss_scale default --split_dataset_ratio 0",
            "`--use_chat_template false`, since the prompt stands in the file as the model has it, "
            "chat template included. Longer rows would be dropped without "
            "`--truncation_strategy raise`.",
        )
    ]


FORMAT = Format(
    name="swift",
    options=Swift,
    schema=lambda options: _SCHEMA,
    text=Text(render, read_back, chat=False),
    layout=RowFiles(),
    readers="ms-swift",
    loss="The response and its end; neither the prompt nor the pauses.",
    guide=guide,
)
