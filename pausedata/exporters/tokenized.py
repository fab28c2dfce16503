"""``tokenized``: ids, mask and labels as Hugging Face trainers read them.

Packed rows have no ``attention_mask``: given one, even of ones, transformers no longer sees by
``position_ids`` where an example ends, and attends across.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from pausedata.exporters.base import Format, TokenOptions
from pausedata.exporters.labels import labels
from pausedata.exporters.layout import JsonLines
from pausedata.exporters.sequences import Sequences
from pausedata.store.tables import list_array, make_schema

_INTEGERS = pa.list_(pa.int32())
_SCHEMA = make_schema(
    [
        (1, "input_ids", _INTEGERS),
        (2, "attention_mask", pa.list_(pa.int8())),
        (3, "labels", _INTEGERS),
    ]
)
_PACKED = make_schema(
    [
        (1, "input_ids", _INTEGERS),
        (3, "labels", _INTEGERS),
        (4, "position_ids", _INTEGERS),  # from 0 in each example
        (5, "seq_lengths", _INTEGERS),  # of the row's examples, as TRL wants them
    ]
)


class Tokenized(TokenOptions):
    """input_ids, attention_mask and unshifted labels; no loss on the prompt and on pauses."""


def schema(options: TokenOptions) -> pa.Schema:
    """The columns; of packed rows ``position_ids`` and ``seq_lengths`` in place of the mask."""
    return _PACKED if options.pack else _SCHEMA


def rows(sequences: Sequences, options: TokenOptions) -> pa.Table:
    """Labels equal input_ids, but for -100 where no loss is wanted."""
    elements: dict[str, np.ndarray] = {
        "input_ids": sequences.input_ids,
        "labels": labels(sequences, options),
    }
    if options.pack:
        elements["position_ids"] = sequences.positions()
    else:
        elements["attention_mask"] = np.ones(len(sequences.input_ids), np.int8)
    lists = {name: (sequences.offsets, values) for name, values in elements.items()}
    if options.pack:
        examples_before = np.searchsorted(sequences.parts, sequences.offsets)
        lists["seq_lengths"] = examples_before, np.diff(sequences.parts)
    return list_table(lists, schema(options))


def list_table(lists: Mapping[str, tuple[np.ndarray, np.ndarray]], schema: pa.Schema) -> pa.Table:
    """Columns of lists, each from its offsets ([rows + 1]) and its elements."""
    arrays = [
        list_array(*lists[field.name], field.type.value_type).cast(field.type) for field in schema
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
