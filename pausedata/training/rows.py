"""Training rows that can be made anew in the middle of a training."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch.utils.data import Dataset

from pausedata import exporters
from pausedata.core.errors import UsageError
from pausedata.exporters.export_rows import ExportRows
from pausedata.exporters.inputs import ExportInputs
from pausedata.models.tokenizer import Tokenizer
from pausedata.store.dataset import Version, open_version


class PlacedRows(Dataset[dict[str, list[int]]]):
    """The rows of a placement's ``tokenized`` export: input_ids, attention_mask, labels.

    They are in a temporary file that is mapped into memory. `use` puts those of another placement
    in their place, under the same numbers.
    """

    def __init__(
        self, dataset: str | Path, placement: str, split: str = "train", **options: Any
    ) -> None:
        """``options`` are those of `tokenized`, but packing and what leaves examples out: rows keep
        their numbers. UsageError for a wrong one, or a name that is not there.
        """
        self.root, self.split = Path(dataset), split
        self._format = exporters.get("tokenized")
        self._options = exporters.parse(self._format, options, "options")
        for name in ("pack", "max_length"):
            if getattr(self._options, name) is not None:
                raise UsageError(f"options: {name} would change the rows' numbers; leave it out.")
        self._folder = Path(tempfile.mkdtemp(prefix="pausedata-rows-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._made = 0
        self.placement = placement
        self.use(placement)

    def use(self, placement: str, version: Version | None = None) -> None:
        """Take the rows of ``placement``, of the current version or another."""
        version = version or open_version(self.root)
        origin = ExportInputs.of(
            *(version.manifest.name, version.manifest.pause, version.tables, placement),
            _no_tokenizer,
            self.split,
        )
        rows = ExportRows(origin, self._format, self._options)
        self._made += 1
        path = self._folder / f"{self._made}.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as file:
            for unit in rows.units(self.split):
                file.write_table(rows.make(unit).table)
        with pa.memory_map(str(path)) as source:
            self._rows = pa.ipc.open_file(source).read_all()
        (self._folder / f"{self._made - 1}.arrow").unlink(missing_ok=True)
        self.placement, self.version = placement, version.number
        self.pause_id = version.manifest.pause.id

    def __len__(self) -> int:
        return self._rows.num_rows

    def __getitem__(self, number: int) -> dict[str, list[int]]:
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        number %= len(self)
        return {
            name: np.asarray(self._rows.column(name)[number].values).tolist()
            for name in self._rows.column_names
        }


def as_dataset(rows: Dataset[dict[str, Any]]) -> Any:
    """``rows`` as a ``datasets.Dataset``, which TRL insists on; it reads them anew at every access.

    ``SFTConfig(remove_unused_columns=False, dataset_kwargs={"skip_prepare_dataset": True})`` goes
    with it.
    """
    import datasets

    def fetch(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        found = [rows[number] for number in batch["number"]]
        return {name: [row[name] for row in found] for name in found[0]}

    numbers = range(len(rows))  # pyright: ignore[reportArgumentType]: ours have a length
    return datasets.Dataset.from_dict({"number": list(numbers)}).with_transform(fetch)


def _no_tokenizer() -> Tokenizer:
    raise UsageError("options: rows that are rendered anew need a tokenizer; export them instead.")
