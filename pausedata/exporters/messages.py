"""``messages``: a conversation a row, as OpenAI's API has it. The loss falls on the pauses too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pausedata.exporters.base import Format, Guide, Section, Text, TextRow, UnmaskedOptions
from pausedata.exporters.conversation import Turn, read_whole, turns_of
from pausedata.exporters.reader import Reader
from pausedata.exporters.row_files import RowFiles
from pausedata.store.tables import make_schema

_TURN = pa.struct([("role", pa.string()), ("content", pa.string())])
_SCHEMA = make_schema([(1, "messages", pa.list_(_TURN))])


class Messages(UnmaskedOptions):
    """role and content of each message, the pauses in the last reply."""


def render(row: TextRow, options: Messages) -> dict[str, list[Turn]]:
    """The prompt's messages, and the reply with its pauses."""
    reply = {"role": "assistant", "content": row.response}
    return {"messages": [*turns_of(row, "messages"), reply]}


def read_back(
    rows: Sequence[Mapping[str, Any]], reader: Reader, options: Messages
) -> list[list[int]]:
    """As mlx-lm, verl and TRL read them: the tokenizer's chat template, and one text."""
    return read_whole([row["messages"] for row in rows], reader)


def guide(guide: Guide) -> list[Section]:
    """mlx-lm's command, and what OpenAI and verl want."""
    token = guide.pause["token"]
    return [
        Section(
            "mlx-lm",
            "bash",
            "pausedata prepare-model MODEL model   # mlx-lm adds no tokens\n"
            "mlx_lm.convert --hf-path model --mlx-path model-mlx\n"
            "mlx_lm.lora --model model-mlx --train --data . --mask-prompt "
            f"--max-seq-length {guide.longest}",
            "The folder needs `train.jsonl` and `valid.jsonl`. `--mask-prompt` keeps the loss to "
            "the last reply, of which the pauses are a part; longer rows would be cut, and the "
            "last batch, if it is not full, is left out.",
        ),
        Section(
            "OpenAI",
            "json",
            '{"messages": [{"role": "user", "content": "…"},\n'
            '              {"role": "assistant", "content": "…"}]}',
            f"The file is uploaded as it is. `{token}` is ordinary text there: several tokens, "
            "that the model learns to write; the counts above do not hold.",
        ),
        Section(
            "verl",
            "bash",
            "python -m verl.trainer.sft_trainer data.train_files=train.parquet "
            f"data.messages_key=messages data.max_length={guide.longest} data.truncation=error "
            "model.path=model",
            "Written with `-o train.parquet`; `model` is what `pausedata prepare-model` made.",
        ),
    ]


FORMAT = Format(
    name="messages",
    options=Messages,
    schema=lambda options: _SCHEMA,
    text=Text(render, read_back, chat=True),
    layout=RowFiles(),
    readers="mlx-lm, OpenAI, verl",
    loss="What the trainer is told, the last reply with `--mask-prompt`; its pauses always too.",
    pause_label_masked=False,
    guide=guide,
)
