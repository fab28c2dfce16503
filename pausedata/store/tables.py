"""The columns of every table, with stable field ids and what ``datasets`` wants to know of them."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from pausedata.core.errors import DataError

# Field ids are for ever: a column keeps its number, and a number is never given again.
_EXAMPLES = [
    (1, "id", pa.string()),
    (2, "split", pa.string()),
    (3, "row", pa.int64()),
    (4, "prompt", pa.string()),
    (5, "response", pa.string()),
    (6, "meta", pa.string()),
]
_VOCAB = [
    (1, "token_id", pa.int32()),
    (2, "token", pa.string()),
    (3, "bytes", pa.binary()),
    (4, "special", pa.bool_()),
]
_TOKENS = [
    (1, "id", pa.string()),
    (2, "prompt_ids", pa.list_(pa.int32())),
    (3, "response_ids", pa.list_(pa.int32())),
    (4, "char_start", pa.list_(pa.int32())),
    (5, "char_end", pa.list_(pa.int32())),
    (6, "truncated", pa.bool_()),
]
_SCORES = [
    (1, "id", pa.string()),
    (2, "n_tokens", pa.int32()),
    (3, "mean_logprob", pa.float32()),
    (4, "min_logprob", pa.float32()),
    (5, "logprob", pa.list_(pa.float32())),
    (6, "rank", pa.list_(pa.int32())),
    (7, "entropy", pa.list_(pa.float32())),
]
_PLACEMENTS = [
    (1, "id", pa.string()),
    (2, "position", pa.list_(pa.int32())),
    (3, "count", pa.list_(pa.int16())),
]
_GATES = [
    (1, "id", pa.string()),
    (2, "group_name", pa.string()),
    (3, "tokens", pa.int32()),
    (4, "pauses", pa.int32()),
    (5, "after", pa.int32()),
    (6, "logprob_without", pa.float64()),
    (7, "logprob_with", pa.float64()),
    (8, "logprob_after_without", pa.float64()),
    (9, "logprob_after_with", pa.float64()),
    (10, "seconds_without", pa.float64()),
    (11, "seconds_with", pa.float64()),
]


def schema_of(table: str) -> pa.Schema:
    """The Arrow schema of ``examples``, ``tokens``, ``vocab``, or of a ``KIND/…`` but exports."""
    return _SCHEMAS[table.split("/")[0]]


def examples_with_messages() -> pa.Schema:
    """The schema of ``examples`` whose prompts are made of messages, which it keeps as JSON."""
    return make_schema([*_EXAMPLES, (7, "messages", pa.string())])


def is_known(table: str) -> bool:
    """Whether ``schema_of`` knows the table's kind: a later release may have added others."""
    return table.split("/")[0] in _SCHEMAS


def make_schema(columns: list[tuple[int, str, pa.DataType]]) -> pa.Schema:
    """A schema whose fields carry their ids, and whose metadata carries ``datasets`` features."""
    fields = [_field(name, kind, number) for number, name, kind in columns]
    features = {name: _feature(kind) for _, name, kind in columns}
    info = json.dumps({"info": {"features": features}}, sort_keys=True)
    return pa.schema(fields, metadata={"huggingface": info})


def _field(name: str, kind: pa.DataType, number: int) -> pa.Field:
    """A field with its id. Parquet gives ids to what is inside it too: a thousand more for each
    list, and in a struct 100 more for each field of it.
    """
    if pa.types.is_list(kind):
        kind = pa.list_(_field("element", kind.value_type, 1000 + number))
    elif pa.types.is_struct(kind):
        parts = [kind.field(k) for k in range(kind.num_fields)]
        kind = pa.struct(
            [_field(part.name, part.type, number + 100 * k) for k, part in enumerate(parts, 1)]
        )
    return pa.field(name, kind, metadata={"PARQUET:field_id": str(number)})


def list_parts(table: pa.Table, column: str) -> tuple[Any, Any]:
    """A list column as NumPy: (offsets int64 [rows + 1] from 0, values [offsets[-1]])."""
    import numpy as np

    array = table.column(column).combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], array.type)
    if array.null_count:
        raise DataError(f"column '{column}' holds nulls where lists are expected")
    offsets = array.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    values = array.values.slice(offsets[0], offsets[-1] - offsets[0])
    return offsets - offsets[0], values.to_numpy(zero_copy_only=False)


def list_array(offsets: Any, values: Any, kind: pa.DataType) -> pa.ListArray:
    """The inverse of ``list_parts``; ``kind`` is the type of the items."""
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()),
        pa.array(values, kind),
        type=pa.list_(pa.field("element", kind)),
    )


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {kind.field(k).name: _feature(kind.field(k).type) for k in range(kind.num_fields)}
    return {"dtype": str(kind), "_type": "Value"}


_SCHEMAS = {
    "examples": make_schema(_EXAMPLES),
    "vocab": make_schema(_VOCAB),
    "tokens": make_schema(_TOKENS),
    "scores": make_schema(_SCORES),
    "kept": make_schema(_SCORES),  # of some of the examples
    "placements": make_schema(_PLACEMENTS),
    "gates": make_schema(_GATES),
}
