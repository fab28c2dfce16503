"""``hf-disk``: the rows of ``tokenized`` as the folder that ``datasets.load_from_disk`` opens.

The files are written here, not by ``save_to_disk``: its batches follow the dataset's shards, its
JSON is another in each release of ``datasets`` (those before 4 do not read the ``List`` that later
ones write), its fingerprint is random, and it would need a whole split as one dataset first.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa

from pausedata.core.errors import UsageError
from pausedata.exporters import tokenized
from pausedata.exporters.base import Format, Guide, Section, TokenOptions
from pausedata.exporters.guide import is_foreign
from pausedata.exporters.layout import UNREADABLE, FileLayout, Shards, problem_in
from pausedata.exporters.tally import CHANGES
from pausedata.exporters.usage import quoted
from pausedata.store import files
from pausedata.store.shards import regrouped

# Rows of a record batch, and the size at which the next file is begun: both fixed, so that no byte
# depends on the shards. 500 MB is what save_to_disk takes.
BATCH_ROWS = 1_000
FILE_BYTES = 500_000_000
INDEX = "dataset_dict.json"


class HfDisk(TokenOptions):
    """As tokenized, as a folder of Arrow files that datasets.load_from_disk maps into memory."""


class ArrowFolder(FileLayout):
    """A ``DatasetDict`` on disk: a folder for each split, and ``dataset_dict.json``."""

    inside = "hf"

    def outside(self, target: Path, type: str | None, shard_rows: int | None) -> ArrowFolder:
        """The same: its files are of one kind, and cut by size."""
        if type is not None or shard_rows is not None:
            flag = "--type" if type is not None else "--shard-rows"
            raise UsageError(f"{flag}: hf-disk is always a folder of Arrow files; leave it out.")
        return self

    def place(self, target: Path, splits: list[str]) -> tuple[Path, dict[str, str]]:
        """A folder that is new or empty, or holds an earlier export."""
        if target.is_file() or target.name.endswith(
            (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
        ):
            raise UsageError(
                f"{target}: hf-disk writes a folder. Give a folder's name, or --format tokenized "
                "for a file."
            )
        if target.is_dir() and any(target.iterdir()) and not _is_ours(target):
            raise UsageError(
                f"{target}: holds something else than an hf-disk export, which would be lost. "
                "Give another folder, or empty this one."
            )
        return target, {split: split for split in splits}

    @contextmanager
    def opened(self, folder: Path) -> Iterator[Path]:
        """A folder beside it, renamed to ``folder`` at the end."""
        folder = folder.resolve()
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            files.sync_tree(temporary)
            _take_place(temporary, folder)
            files.sync(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def write(self, folder: Path, rows: Mapping[str, Shards], schema: pa.Schema) -> list[str]:
        """Arrow IPC streams, ``state.json`` and ``dataset_info.json`` for each split."""
        paths, bare = [], _bare(schema)
        for split, shards in rows.items():
            shutil.rmtree(folder / split, ignore_errors=True)  # of a step that was killed
            (folder / split).mkdir(parents=True)
            names = _write_streams(folder / split, shards, bare)
            _write_text(folder / split / "dataset_info.json", _info(bare))
            _write_text(folder / split / "state.json", _state(folder / split, split, names))
            paths += [f"{split}/{name}" for name in [*names, "dataset_info.json", "state.json"]]
        _write_text(folder / INDEX, _index(rows))
        return [*paths, INDEX]

    def remove_stale(self, folder: Path, stems: Iterable[str], written: list[str]) -> None:
        """The folder is new."""

    def paths(self, folder: Path, stems: Iterable[str]) -> list[Path]:
        """The folder alone."""
        return [folder]

    def problems(
        self, folder: Path, rows: Mapping[str, Shards], schema: pa.Schema
    ) -> Iterator[str]:
        """The Arrow files hold the rows, and the JSON files say so."""
        bare = _bare(schema)
        for split, shards in rows.items():
            own = folder / split
            yield from problem_in(split, _compare_rows, own, shards, bare)
            yield from problem_in(f"{split}/state.json", _compare_state, own, split)
            yield from problem_in(f"{split}/dataset_info.json", _compare_info, own, bare)
        try:
            listed = (folder / INDEX).read_text("utf-8") == _index(rows)
        except UNREADABLE:
            listed = False
        if not listed:
            yield f"{INDEX}: does not list the splits"

    def usage(self, path: str, split: str) -> list[str]:
        """``load_from_disk``; and what LLaMA-Factory calls it."""
        return [
            "# LLaMA-Factory takes the folder as it is: `tokenized_path` in its configuration",
            "from datasets import load_from_disk",
            "",
            f"rows = load_from_disk({quoted(path)})[{quoted(split)}]",
        ]


def _bare(schema: pa.Schema) -> pa.Schema:
    """The schema without metadata: neither field ids nor features, which are in _info."""
    return pa.schema([(field.name, pa.list_(field.type.value_type)) for field in schema])


def _write_streams(folder: Path, shards: Shards, schema: pa.Schema) -> list[str]:
    """The rows in one Arrow file or several; their names, as ``datasets`` gives them."""
    parts: list[Path] = []
    portions = regrouped((shard.cast(schema) for shard in shards), BATCH_ROWS)
    portion = next(portions, None)
    while portion is not None or not parts:
        parts.append(folder / f"part-{len(parts)}")  # how many there are is known at the end
        with parts[-1].open("wb") as sink, pa.ipc.new_stream(sink, schema) as stream:
            while portion is not None:
                stream.write_table(portion)
                portion = next(portions, None)
                if sink.tell() >= FILE_BYTES:
                    break
    names = [f"data-{k:05d}-of-{len(parts):05d}.arrow" for k in range(len(parts))]
    for part, name in zip(parts, names, strict=True):
        part.rename(folder / name)
    return names


def _read_streams(folder: Path) -> Iterator[pa.Table]:
    for file in json.loads((folder / "state.json").read_text("utf-8"))["_data_files"]:
        with pa.memory_map(str(folder / file["filename"])) as source:
            for batch in pa.ipc.open_stream(source):
                yield pa.Table.from_batches([batch])


def _compare_rows(folder: Path, shards: Shards, schema: pa.Schema) -> str | None:
    expected = regrouped((shard.cast(schema) for shard in shards), BATCH_ROWS)
    for wanted, found in zip_longest(expected, regrouped(_read_streams(folder), BATCH_ROWS)):
        if wanted is None or found is None or not wanted.equals(found):
            return "does not hold the rows of the shards"
    return None


def _compare_state(folder: Path, split: str) -> str | None:
    text = (folder / "state.json").read_text("utf-8")
    names = [file["filename"] for file in json.loads(text)["_data_files"]]
    return None if text == _state(folder, split, names) else "does not fit the Arrow files"


def _compare_info(folder: Path, schema: pa.Schema) -> str | None:
    same = (folder / "dataset_info.json").read_text("utf-8") == _info(schema)
    return None if same else "does not name the columns' types"


def _index(splits: Iterable[str]) -> str:
    return _json({"splits": list(splits)})


def _info(schema: pa.Schema) -> str:
    # `Sequence` is what `datasets` before 4 calls a list; later releases understand both.
    features = {
        field.name: {
            "feature": {"dtype": str(field.type.value_type), "_type": "Value"},
            "_type": "Sequence",
        }
        for field in schema
    }
    blank = {"citation": "", "description": "", "homepage": "", "license": ""}
    return _json(blank | {"features": features})


def _state(folder: Path, split: str, names: list[str]) -> str:
    """The fingerprint, by which `datasets` finds cached results, is a hash of the rows' files."""
    fingerprint = files.digest([files.sha256_of(folder / name) for name in names])
    return _json(
        {
            "_data_files": [{"filename": name} for name in names],
            "_fingerprint": fingerprint.removeprefix("sha256:")[:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": split,
        }
    )


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _write_text(path: Path, text: str) -> None:
    with files.replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _is_ours(folder: Path) -> bool:
    """Whether ``folder`` holds an hf-disk export and nothing else."""
    try:
        splits = json.loads((folder / INDEX).read_text("utf-8"))["splits"]
        metas = [json.loads((folder / f"{s}.meta.json").read_text("utf-8")) for s in splits]
    except UNREADABLE:
        return False
    beside = (".meta.json", CHANGES)
    if is_foreign(folder / "README.md"):
        return False
    known = {INDEX, "README.md", *splits, *(split + end for split in splits for end in beside)}
    made_here = all(meta.get("format") == FORMAT.name for meta in metas)
    return made_here and known >= {path.name for path in folder.iterdir()}


def _take_place(new: Path, folder: Path) -> None:
    """Rename ``new`` to ``folder``. After a kill there may be no folder, but never half of one."""
    if not folder.exists() or not any(folder.iterdir()):
        new.rename(folder)  # over an empty folder, too
        return
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    folder.rename(aside)
    try:
        new.rename(folder)
    except BaseException:
        aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def guide(guide: Guide) -> list[Section]:
    """As tokenized; and LLaMA-Factory's configuration, for a split `train` that is not packed."""
    factory = Section(
        "LLaMA-Factory",
        "yaml",
        "stage: sft\n"
        "do_train: true\n"
        "model_name_or_path: MODEL\n"
        f"tokenized_path: {next(iter(guide.files.values()), 'hf')}\n"
        "dataset: any               # it wants a name, and looks at none\n"
        f'add_special_tokens: "{guide.pause["token"]}"\n'
        "resize_vocab: true",
        "It trains on the split `train`, evaluates on `validation`, and cuts nothing: cutoff_len "
        "does not hold for rows that are tokenised.",
    )
    own = tokenized.trl_and_trainer(guide)
    return own if guide.options.pack or "train" not in guide.files else [*own, factory]


FORMAT = Format(
    name="hf-disk",
    options=HfDisk,
    schema=tokenized.schema,
    rows=tokenized.rows,
    layout=ArrowFolder(),
    readers="LLaMA-Factory, TRL, Hugging Face Trainer, whatever calls datasets.load_from_disk",
    loss=tokenized.FORMAT.loss,
    guide=guide,
)
