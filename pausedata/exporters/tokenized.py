"""``tokenized``: ids, mask and labels as Hugging Face trainers read them.

Packed rows have no ``attention_mask``: given one, even all ones, transformers does not read from
``position_ids`` where an example ends, and attends across examples.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from pausedata.exporters import axolotl
from pausedata.exporters.base import Format, Guide, Section, TokenOptions
from pausedata.exporters.labels import labels
from pausedata.exporters.row_files import RowFiles
from pausedata.exporters.sequences import Sequences
from pausedata.store.tables import list_array, make_schema

_INTEGERS = pa.list_(pa.int32())
SCHEMA = make_schema(
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


class TokenizedFormat(TokenOptions):
    """input_ids, attention_mask and unshifted labels; no loss on the prompt and on pauses."""


def schema(options: TokenOptions) -> pa.Schema:
    """The columns; of packed rows ``position_ids`` and ``seq_lengths`` in place of the mask."""
    return _PACKED if options.pack else SCHEMA


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


def guide(guide: Guide) -> list[Section]:
    """TRL, the Trainer, PEFT, and for rows that are not packed axolotl."""
    return [*trl_and_trainer(guide), *([] if guide.options.pack else [_axolotl(guide)])]


def trl_and_trainer(guide: Guide) -> list[Section]:
    """The keys of TRL, the Trainer and PEFT that go with these rows, packed or not."""
    packed = bool(guide.options.pack)
    trl = "SFTConfig(\n    max_length=None,  # its default cuts at 1,024\n"
    if packed:
        trl += "    padding_free=True,  # else examples in a row see each other\n"
    trl += ")"
    trainer = (
        "Trainer(…, data_collator=default_data_collator)  # per_device_train_batch_size=1"
        if packed
        else "Trainer(…, data_collator=DataCollatorForSeq2Seq(tokenizer))"
    )
    return [
        Section(
            "TRL, unsloth",
            "python",
            trl,
            "`SFTTrainer` takes the rows as they are, with their labels. With unsloth, "
            f'`add_new_tokens(model, tokenizer, ["{guide.pause["token"]}"])` before '
            "`get_peft_model`.",
        ),
        Section(
            "Hugging Face Trainer",
            "python",
            trainer,
            "`DataCollatorForLanguageModeling` would make labels of its own, in which prompt and "
            "pauses bear loss."
            + (
                " One row is a batch: its `position_ids` separate the examples as long as there is "
                "no `attention_mask`."
                if packed
                else ""
            ),
        ),
        Section(
            "PEFT",
            "python",
            f"LoraConfig(…, trainable_token_indices=[{guide.pause['id']}])",
            "Else the pause's row of the embedding stays what it is at first.",
        ),
    ]


def _axolotl(guide: Guide) -> Section:
    return Section(
        "axolotl",
        "yaml",
        axolotl.config(
            guide,
            "    type:                # empty: the rows are tokenised\n",
            "sample_packing: true     # or false: the rows arrive as they are\n",
        ),
    )


FORMAT = Format(
    name="tokenized",
    options=TokenizedFormat,
    schema=schema,
    rows=rows,
    layout=RowFiles(),
    readers="TRL, Hugging Face Trainer, axolotl, unsloth",
    loss="The response and its end; neither the prompt nor the pauses.",
    guide=guide,
)
