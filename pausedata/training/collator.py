"""A data collator that places pauses in every batch, by the model as it is at that step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset

from pausedata import strategies
from pausedata.core.errors import UsageError, listing
from pausedata.exporters import insert_pauses
from pausedata.exporters.base import IGNORE, TokenOptions
from pausedata.exporters.labels import labels
from pausedata.models.tokens import begins_character
from pausedata.store.dataset import open_version
from pausedata.store.tables import list_array
from pausedata.strategies.base import Batch
from pausedata.training.eval_mode import eval_mode_preserving_rng


class UnplacedRows(Dataset[dict[str, Any]]):
    """The examples of a dataset's split as `PlacingCollator` takes them: without pauses.

    Each has ``id``, ``prompt_ids``, ``response_ids``, and ``begins_character`` (for each response
    token whether it begins a character, and so may have a pause before it).
    """

    def __init__(self, dataset: str | Path, split: str = "train") -> None:
        """UsageError where there is no such split."""
        version = open_version(Path(dataset))
        if split not in version.splits:
            raise UsageError(f"no split '{split}'. There: {listing(version.splits)}.")
        self.pause_id = version.manifest.pause.id
        columns = ["id", "prompt_ids", "response_ids", "char_start", "char_end"]
        tokens = version.table("tokens")
        shards = [shard for shard in tokens.shards if shard.split == split]
        self._rows = pa.concat_tables([tokens.read(shard, columns) for shard in shards])

    def __len__(self) -> int:
        return self._rows.num_rows

    def __getitem__(self, number: int) -> dict[str, Any]:
        row = {name: self._rows.column(name)[number].as_py() for name in self._rows.column_names}
        start, end = (np.array(row.pop(name), np.int32) for name in ("char_start", "char_end"))
        return row | {"begins_character": begins_character(start, end).tolist()}


class PlacingCollator:
    """Places by a forward pass of the current model, inserts the pauses, masks, and pads.

    As the paper's reference code at every step, but by the paper's rule. The trainer must not drop
    the rows' columns (``remove_unused_columns=False``), nor use dataloader workers: the model is in
    this process.
    """

    def __init__(
        self,
        model: Any,
        rows: UnplacedRows,
        *,
        strategy: str = "lowest_logprob",
        pad_token_id: int = 0,
        pause_label: str = "ignore",
        **parameters: Any,
    ) -> None:
        """``model`` is the one that is trained, or a function that gives it.

        ``parameters`` are the strategy's, such as ``positions=5``. UsageError for a strategy that
        needs more than the log-probabilities of one batch.
        """
        self._strategy, self._parameters = strategies.of(strategy, parameters, "PlacingCollator")
        reads = strategies.reads(self._strategy, self._parameters)
        if self._strategy.fit is not None or reads - {"logprob"}:
            needs = ", ".join(sorted(reads - {"logprob"})) or "the whole split"
            raise UsageError(
                f"PlacingCollator: '{strategy}' needs {needs}, and a batch has log-probabilities "
                "alone. RefreshPlacement takes any strategy."
            )
        self._model: Callable[[], Any] = model if not hasattr(model, "forward") else lambda: model
        self._pause_id, self._pad = rows.pause_id, pad_token_id
        self._options = TokenOptions(pause_label=pause_label)  # pyright: ignore[reportArgumentType]
        self.last: pa.Table | None = None  # the placement of the last batch: id, position, count

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """input_ids, attention_mask and labels: [examples, longest]."""
        if torch.utils.data.get_worker_info() is not None:
            raise UsageError("PlacingCollator: set dataloader_num_workers=0, it asks the model.")
        if features and "response_ids" not in features[0]:
            raise UsageError(
                "PlacingCollator takes the rows of UnplacedRows: set remove_unused_columns=False."
            )
        offsets = np.concatenate([[0], np.cumsum([len(f["response_ids"]) for f in features])])
        batch = Batch(
            ids=[str(f["id"]) for f in features],
            offsets=offsets,
            begins_character=np.concatenate([f["begins_character"] for f in features]).astype(bool),
            logprob=self._logprobs(features),
        )
        placed, _ = strategies.place(self._strategy, batch, self._parameters)
        places = placed.offsets(len(features))
        self.last = pa.table(
            {
                "id": batch.ids,
                "position": list_array(places, placed.positions, pa.int32()),
                "count": list_array(places, placed.counts, pa.int16()),
            }
        )
        tokens = pa.table(
            {name: [f[name] for f in features] for name in ("prompt_ids", "response_ids")}
        )
        sequences = insert_pauses(tokens, self.last, self._pause_id)
        columns = {"input_ids": sequences.input_ids, "labels": labels(sequences, self._options)}
        rows = {name: np.split(c, sequences.offsets[1:-1]) for name, c in columns.items()}
        return {
            "input_ids": _padded(rows["input_ids"], self._pad),
            "attention_mask": _padded([np.ones_like(row) for row in rows["input_ids"]], 0),
            "labels": _padded(rows["labels"], IGNORE),
        }

    def _logprobs(self, features: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """log p of each response token, given what is before it, without any pause: [tokens]."""
        model = self._model()
        whole = [np.array([*f["prompt_ids"], *f["response_ids"]]) for f in features]
        ids = _padded(whole, self._pad).to(model.device)
        found = []
        with eval_mode_preserving_rng(model):
            # Padding is on the right, where no token sees it.
            logits = model(input_ids=ids, use_cache=False).logits
            for k, feature in enumerate(features):
                first, last = len(feature["prompt_ids"]), len(whole[k])
                scores = logits[k, first - 1 : last - 1].float().log_softmax(-1)
                found.append(scores.gather(-1, ids[k, first:last, None])[:, 0].cpu().numpy())
        return np.concatenate(found).astype(np.float32)


def _padded(rows: Sequence[np.ndarray], value: int) -> torch.Tensor:
    """Rows of several lengths as one tensor, padded on the right."""
    tensors = [torch.from_numpy(np.asarray(row, np.int64)) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)
