"""``shifted``: labels that stand where they are predicted, for trainers that shift nothing."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from pausedata.exporters.base import IGNORE, Format, Guide, Section, TokenOptions
from pausedata.exporters.labels import bears_loss, labels
from pausedata.exporters.row_files import RowFiles
from pausedata.exporters.sequences import Flags, Sequences
from pausedata.exporters.tokenized import SCHEMA, list_table
from pausedata.store.tables import make_schema

_INTEGERS = pa.list_(pa.int32())
_PACKED = make_schema(
    [(1, "input_ids", _INTEGERS), (3, "labels", _INTEGERS), (4, "position_ids", _INTEGERS)]
)
_MASK = make_schema([(5, "tokens", _INTEGERS), (6, "mask", pa.list_(pa.bool_()))])


class Shifted(TokenOptions):
    """input_ids without the last token, and the label that each predicts; or tokens and a mask."""

    columns: Literal["labels", "mask"] = Field(
        default="labels",
        description="`labels`: input_ids, attention_mask and shifted labels (NeMo AutoModel); "
        "`mask`: tokens, unshifted, and mask, true where no loss is wanted (torchtune)",
    )

    @model_validator(mode="after")
    def _not_packed(self) -> Shifted:
        if self.pack and self.columns == "mask":
            raise ValueError(
                "`columns: mask` has no positions to pack with; torchtune packs itself"
            )
        return self


def schema(options: Shifted) -> pa.Schema:
    """The columns, by ``columns`` and ``pack``."""
    if options.columns == "mask":
        return _MASK
    return _PACKED if options.pack else SCHEMA


def rows(sequences: Sequences, options: Shifted) -> pa.Table:
    """Token k has the label of token k + 1: a row's last token is no input, its first no label."""
    if options.columns == "mask":
        loss = bears_loss(sequences, options)
        lists = {
            "tokens": (sequences.offsets, sequences.input_ids),
            "mask": (sequences.offsets, ~loss),
        }
        return list_table(lists, _MASK)
    first, last = _ends(sequences)
    offsets = sequences.offsets - np.concatenate([[0], np.cumsum(sequences.lengths > 0)])
    elements: dict[str, np.ndarray] = {
        "input_ids": sequences.input_ids[~last],
        "labels": labels(sequences, options)[~first],
    }
    if options.pack:
        elements["position_ids"] = sequences.positions()[~last]
    else:
        elements["attention_mask"] = np.ones(len(elements["input_ids"]), np.int8)
    lists = {name: (offsets, values) for name, values in elements.items()}
    return list_table(lists, schema(options))


def _ends(sequences: Sequences) -> tuple[Flags, Flags]:
    """Whether each element is its row's first, and its last."""
    first = np.zeros(len(sequences.input_ids), bool)
    last = first.copy()
    some = sequences.lengths > 0
    first[sequences.offsets[:-1][some]] = True
    last[sequences.offsets[1:][some] - 1] = True
    return first, last


def guide(guide: Guide) -> list[Section]:
    """The trainer that these columns are for."""
    if guide.options.columns == "mask":
        return [
            Section(
                "torchtune",
                "yaml",
                "dataset:\n"
                "  _component_: my_data.paused\n"
                f"max_seq_len: {guide.longest}\n"
                "resize_token_embeddings: true",
                "torchtune is no longer maintained. `my_data.py` in the folder you start it from: "
                "`def paused(tokenizer): return SFTDataset(source='json', "
                f"data_files='{guide.first_file}', split='train', "
                "message_transform=lambda row: row, model_transform=lambda row: "
                "{'tokens': row['tokens'], 'mask': row['mask']})`, of `torchtune.datasets`.",
            )
        ]
    return [
        Section(
            "NeMo AutoModel",
            "yaml",
            "dataset:\n"
            "  _target_: datasets.load_dataset\n"
            "  path: json\n"
            f"  data_files: {guide.first_file}\n"
            "  split: train\n"
            "dataloader:\n"
            "  collate_fn: nemo_automodel.components.datasets.utils.default_collater\n"
            "packed_sequence:\n"
            "  packed_sequence_size: 0\n"
            "model:\n"
            "  pretrained_model_name_or_path: model",
            "`model` is what `pausedata prepare-model` made: AutoModel adds no tokens. The labels "
            f"are shifted already; it shifts none. {IGNORE} bears no loss. Rows have up to "
            f"{guide.longest} tokens, and none may be cut.",
        )
    ]


FORMAT = Format(
    name="shifted",
    options=Shifted,
    schema=schema,
    rows=rows,
    layout=RowFiles(),
    readers="NeMo AutoModel, torchtune, trainers that shift no labels",
    loss="The response and its end; neither the prompt nor the pauses.",
    guide=guide,
)
