"""``axolotl-segments`` and ``axolotl-chat``: the two formats in which axolotl can mask parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pausedata.exporters.base import Format, Guide, Section, Text, TextOptions, TextRow
from pausedata.exporters.conversation import read_whole, turns_of
from pausedata.exporters.reader import Reader
from pausedata.exporters.row_files import RowFiles
from pausedata.store.tables import make_schema

_SEGMENT = pa.struct([("label", pa.bool_()), ("text", pa.string())])
_SEGMENTS = make_schema([(1, "segments", pa.list_(_SEGMENT))])
_PART = pa.struct([("type", pa.string()), ("text", pa.string()), ("train", pa.bool_())])
_MESSAGE = pa.struct([("role", pa.string()), ("content", pa.list_(_PART))])
_MESSAGES = make_schema([(1, "messages", pa.list_(_MESSAGE))])


class Segments(TextOptions):
    """Prompt, response and pauses as segments of text, each with or without loss."""


class Chat(TextOptions):
    """Messages, the reply in parts, each with or without loss; through the chat template."""


def render_segments(row: TextRow, options: Segments) -> dict[str, Any]:
    """With the special tokens at both ends as text: axolotl adds none."""
    segments = [{"label": False, "text": row.opening + row.prompt}]
    segments += [{"label": options.trains(piece), "text": piece.text} for piece in row.pieces]
    if row.end:
        segments.append({"label": True, "text": row.end})
    return {"segments": [segment for segment in segments if segment["text"]]}


def read_segments(
    rows: Sequence[Mapping[str, Any]], reader: Reader, options: Segments
) -> list[list[int]]:
    """As axolotl reads them: every segment tokenised apart, nothing added."""
    return reader.encode_parts([[segment["text"] for segment in row["segments"]] for row in rows])


def render_chat(row: TextRow, options: Chat) -> dict[str, Any]:
    """Parts of the prompt have no ``train``: their messages are not trained at all."""
    reply = [
        {"type": "text", "text": piece.text, "train": options.trains(piece)} for piece in row.pieces
    ]
    messages = [
        {"role": turn["role"], "content": [{"type": "text", "text": turn["content"]}]}
        for turn in turns_of(row, "axolotl-chat")
    ]
    return {"messages": [*messages, {"role": "assistant", "content": reply}]}


def read_chat(rows: Sequence[Mapping[str, Any]], reader: Reader, options: Chat) -> list[list[int]]:
    """As axolotl reads them: parts joined, the chat template, and one text."""
    conversations = [
        [
            {"role": m["role"], "content": "".join(part["text"] for part in m["content"])}
            for m in row["messages"]
        ]
        for row in rows
    ]
    return read_whole(conversations, reader)


def config(guide: Guide, dataset: str, more: str = "") -> str:
    """axolotl's configuration, with these lines for the dataset and ``more`` for all of it."""
    return (
        "base_model: MODEL\n"
        "datasets:\n"
        f"  - path: {guide.first_file}\n"
        "    ds_type: json\n"
        f"{dataset}"
        f"sequence_len: {guide.longest}       # longer rows would be dropped\n"
        f"{more}"
        "tokens:\n"
        f'  - "{guide.pause["token"]}"\n'
        "mean_resizing_embeddings: true\n"
        "# with LoRA, so that the pause's row is trained:\n"
        f"# peft_trainable_token_indices: [{guide.pause['id']}]"
    )


def guide_segments(guide: Guide) -> list[Section]:
    """axolotl's configuration for segments."""
    return [Section("axolotl", "yaml", config(guide, "    type: input_output\n"))]


def guide_chat(guide: Guide) -> list[Section]:
    """axolotl's configuration for messages."""
    dataset = (
        "    type: chat_template\n"
        "    roles_to_train: []     # the parts say it\n"
        "    train_on_eos: turn\n"
        "chat_template: tokenizer_default\n"
    )
    note = "The end token of the last reply bears loss; the line break behind it does not."
    return [Section("axolotl", "yaml", config(guide, dataset), note)]


SEGMENTS = Format(
    name="axolotl-segments",
    options=Segments,
    schema=lambda options: _SEGMENTS,
    text=Text(render_segments, read_segments, chat=False),
    layout=RowFiles(),
    readers="axolotl (type: input_output)",
    loss="The response and its end; neither the prompt nor the pauses.",
    guide=guide_segments,
)
CHAT = Format(
    name="axolotl-chat",
    options=Chat,
    schema=lambda options: _MESSAGES,
    text=Text(render_chat, read_chat, chat=True),
    layout=RowFiles(),
    readers="axolotl (type: chat_template)",
    loss="The last reply and its end token; neither the prompt nor the pauses.",
    guide=guide_chat,
)
