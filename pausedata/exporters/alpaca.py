"""``alpaca``: instruction and output. The loss falls on the pauses too."""

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

_SCHEMA = make_schema(
    [
        (1, "instruction", pa.string()),
        (2, "input", pa.string()),
        (3, "output", pa.string()),
        (4, "system", pa.string()),
        (5, "history", pa.list_(pa.list_(pa.string()))),
    ]
)


class Alpaca(UnmaskedOptions):
    """instruction, output, system and history, the pauses in the output."""


def render(row: TextRow, options: Alpaca) -> dict[str, Any]:
    """The last question is the instruction, the turns before it are the history.

    DataError where the prompt is not questions and replies in turn.
    """
    turns = turns_of(row, "alpaca")
    system = turns.pop(0)["content"] if turns[0]["role"] == "system" else ""
    roles = [turn["role"] for turn in turns]
    if roles != ["user", "assistant"] * (len(roles) // 2) + ["user"]:
        raise DataError(
            f"'{row.id}': alpaca has questions and replies in turn, and this prompt has "
            f"{', '.join(roles)}. sharegpt and messages have any."
        )
    said = [turn["content"] for turn in turns]
    return {
        "instruction": said[-1],
        "input": "",
        "output": row.response,
        "system": system,
        "history": [said[k : k + 2] for k in range(0, len(said) - 1, 2)],
    }


def turns_in(row: Mapping[str, Any]) -> list[Turn]:
    """The conversation that a row is made from."""
    turns = [("system", row["system"])] if row["system"] else []
    for question, reply in [*row["history"], (row["instruction"], row["output"])]:
        turns += [("user", question), ("assistant", reply)]
    return [{"role": role, "content": content} for role, content in turns]


def read_back(
    rows: Sequence[Mapping[str, Any]], reader: Reader, options: Alpaca
) -> list[list[int]]:
    """As LLaMA-Factory reads them: prompt and reply tokenised apart."""
    return read_apart([turns_in(row) for row in rows], reader)


def guide(guide: Guide) -> list[Section]:
    """LLaMA-Factory's files."""
    columns = {
        "prompt": "instruction",
        "query": "input",
        "response": "output",
        "system": "system",
        "history": "history",
    }
    return sections(guide, {"columns": columns})


FORMAT = Format(
    name="alpaca",
    options=Alpaca,
    schema=lambda options: _SCHEMA,
    text=Text(render, read_back, chat=True),
    layout=RowFiles(),
    readers="LLaMA-Factory",
    loss="The output and its end, its pauses too.",
    pause_label_masked=False,
    guide=guide,
)
