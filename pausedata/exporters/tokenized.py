"""``tokenized``: ids, mask and labels as Hugging Face trainers read them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pausedata.exporters.base import Format, TokenOptions
from pausedata.exporters.labels import labels
from pausedata.exporters.layout import JsonLines
from pausedata.exporters.sequences import Sequences
from pausedata.store.tables import list_array, make_schema

_COLUMNS = [
    (1, "input_ids", pa.list_(pa.int32())),
    (2, "attention_mask", pa.list_(pa.int8())),
    (3, "labels", pa.list_(pa.int32())),
]
_SCHEMA = make_schema(_COLUMNS)
_PACKED = make_schema([*_COLUMNS, (4, "position_ids", pa.list_(pa.int32()))])


class Tokenized(TokenOptions):
    """input_ids, attention_mask and unshifted labels; no loss on the prompt and on pauses."""


def schema(options: TokenOptions) -> pa.Schema:
    """The columns; packed rows have ``position_ids`` too."""
    return _PACKED if options.pack else _SCHEMA


def rows(sequences: Sequences, options: TokenOptions) -> pa.Table:
    """Labels equal input_ids, but for -100 where no loss is wanted."""
    columns = {
        "input_ids": sequences.input_ids,
        "attention_mask": np.ones(len(sequences.input_ids), np.int8),
        "labels": labels(sequences, options),
    }
    if options.pack:
        columns["position_ids"] = sequences.positions()
    return list_table(sequences.offsets, columns, schema(options))


def list_table(offsets: np.ndarray, columns: dict[str, np.ndarray], schema: pa.Schema) -> pa.Table:
    """Columns of elements as lists, a row from each of ``offsets`` to the next."""
    arrays = [
        list_array(offsets, columns[field.name], field.type.value_type).cast(field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


FORMAT = Format(
    name="tokenized",
    options=Tokenized,
    schema=schema,
    rows=rows,
    layout=JsonLines(),
    readers="TRL, Hugging Face Trainer, axolotl, unsloth",
    loss="The response and its end; neither the prompt nor the pauses.",
)
