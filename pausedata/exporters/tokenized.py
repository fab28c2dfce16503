"""``tokenized``: ids, mask and labels as Hugging Face trainers read them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from pausedata.exporters.base import Format, Options, Rows
from pausedata.exporters.layout import JsonLines
from pausedata.store.tables import list_array, make_schema

IGNORE = -100  # the label that torch's cross entropy leaves out

SCHEMA = make_schema(
    [
        (1, "input_ids", pa.list_(pa.int32())),
        (2, "attention_mask", pa.list_(pa.int8())),
        (3, "labels", pa.list_(pa.int32())),
    ]
)


class Tokenized(Options):
    """input_ids, attention_mask and unshifted labels; no loss on the prompt and on pauses."""


def rows(sequences: Rows, options: Tokenized) -> pa.Table:
    """One row an example: labels equal input_ids but for -100 on prompt tokens and pauses."""
    labels = np.where(sequences.is_prompt | sequences.is_pause, IGNORE, sequences.input_ids)
    mask = np.ones(len(labels), np.int8)
    columns = [
        list_array(sequences.offsets, sequences.input_ids.astype(np.int32), pa.int32()),
        list_array(sequences.offsets, mask, pa.int8()),
        list_array(sequences.offsets, labels.astype(np.int32), pa.int32()),
    ]
    return pa.Table.from_arrays(
        [column.cast(field.type) for column, field in zip(columns, SCHEMA, strict=True)],
        schema=SCHEMA,
    )


def lines(table: pa.Table) -> Iterator[str]:
    """One JSON object a row, without spaces, keys in the schema's order."""
    for row in table.to_pylist():
        yield json.dumps(row, separators=(",", ":"))


FORMAT = Format(
    name="tokenized",
    options=Tokenized,
    schema=SCHEMA,
    rows=rows,
    layout=JsonLines(lines),
    pause_label_masked=True,
    readers="TRL, Hugging Face Trainer, axolotl, unsloth",
)
