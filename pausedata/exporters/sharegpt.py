"""``sharegpt``: a conversation a row, from and value. The loss falls on the pauses too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pausedata.core.errors import DataError
from pausedata.exporters.base import Format, Guide, Section, Text, TextRow, UnmaskedOptions
from pausedata.exporters.conversation import Turn, read_apart, turns_of
from pausedata.exporters.llama_factory import sections
from pausedata.exporters.reader import Reader
from pausedata.exporters.row_files import RowFiles
from pausedata.store.tables import make_schema

_TURN = pa.struct([("from", pa.string()), ("value", pa.string())])
_SCHEMA = make_schema([(1, "conversations", pa.list_(_TURN))])
_FROM = {"system": "system", "user": "human", "assistant": "gpt"}
_ROLE = {name: role for role, name in _FROM.items()}


class ShareGpt(UnmaskedOptions):
    """from and value of each message, the pauses in the last reply."""


def render(row: TextRow, options: ShareGpt) -> dict[str, Any]:
    """The prompt's messages, and the reply. DataError for roles that the format has no name for."""
    turns = [*turns_of(row, "sharegpt"), {"role": "assistant", "content": row.response}]
    for turn in turns:
        if turn["role"] not in _FROM:
            raise DataError(
                f"'{row.id}': sharegpt has no name for the role '{turn['role']}' that pausedata "
                "knows. `messages` writes any role."
            )
    named = [{"from": _FROM[turn["role"]], "value": turn["content"]} for turn in turns]
    return {"conversations": named}


def turns_in(row: Mapping[str, Any]) -> list[Turn]:
    """The conversation of a row."""
    return [{"role": _ROLE[t["from"]], "content": t["value"]} for t in row["conversations"]]


def read_back(
    rows: Sequence[Mapping[str, Any]], reader: Reader, options: ShareGpt
) -> list[list[int]]:
    """As LLaMA-Factory reads them: prompt and reply tokenised apart."""
    return read_apart([turns_in(row) for row in rows], reader)


def guide(guide: Guide) -> list[Section]:
    """LLaMA-Factory's files."""
    tags = {
        "role_tag": "from",
        "content_tag": "value",
        "user_tag": "human",
        "assistant_tag": "gpt",
        "system_tag": "system",
    }
    entry = {
        "formatting": "sharegpt",
        "columns": {"messages": "conversations"},
        "tags": tags,
    }
    return sections(guide, entry)


FORMAT = Format(
    name="sharegpt",
    options=ShareGpt,
    schema=lambda options: _SCHEMA,
    text=Text(render, read_back, chat=True),
    layout=RowFiles(),
    readers="LLaMA-Factory",
    loss="The last reply and its end, its pauses too.",
    pause_label_masked=False,
    guide=guide,
)
