"""Rows of a dataset on the Hugging Face Hub, or of a local folder laid out like one."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from pausedata.core.errors import (
    DataError,
    PausedataError,
    UnreachableError,
    UsageError,
    listing,
    nearest,
)
from pausedata.core.network import COMMIT, TOKEN_REFUSED, HubProblem, problem_of, quiet
from pausedata.sources.files import fingerprint
from pausedata.sources.readers import one_line, parquet_rows
from pausedata.sources.records import BadRow, OpenSource, Row, is_local_hub
from pausedata.sources.spec import Source

HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")


class HubSource(OpenSource):
    """A dataset of the Hub at one revision, memory-mapped; or a local folder, streamed."""

    def __init__(self, source: Source, folder: Path, revision: str | None) -> None:
        assert source.hub is not None
        self.hub, self.config, self.limit = source.hub, source.config, source.limit
        self.splits = source.splits
        self.local = _local_folder(self.hub, folder) if is_local_hub(self.hub) else None
        if self.local is None:
            _check_id(self.hub)
        self.label = self.hub if self.local is None else self.local.name
        self.revision = None if self.local else revision
        self._datasets: dict[str, Any] = {}
        self._provenance: dict[str, Any] | None = None
        with _quiet(), self._translate_errors():
            self.builder = self._cached_builder() or self._new_builder()
        known = self._split_names()
        for split in self.splits:
            if known and split not in known:
                raise UsageError(
                    f"source.split: '{self.label}' has no split '{split}'."
                    f"{nearest(split, known)} Splits: {listing(known)}."
                )

    def rows(self, split: str) -> Iterator[Row | BadRow]:
        """The split's rows; those of the Hub come from memory-mapped Arrow files."""
        iterator = iter(self._dataset(split))
        for index in itertools.count() if self.limit is None else range(self.limit):
            with self._translate_errors():
                columns = next(iterator, None)
            if columns is None:
                return
            yield Row(split, index, columns, f"{self.label} {split}[{index}]")

    def provenance(self) -> dict[str, Any]:
        """``{"hub", "config", "revision"}``; for a folder ``{"hub", "config", "files": […]}``.

        The files are those of the recipe's splits, by their path in the folder.
        """
        if self._provenance is None:
            origin: dict[str, Any] = {"hub": self.label, "config": self.builder.config.name}
            if self.local is None:
                origin["revision"] = self.revision
            else:
                files = [path for split in self.splits for path in self._local_files(split)]
                origin["files"] = [fingerprint(p, self._relative(p)) for p in files]
            self._provenance = origin
        return self._provenance

    def count(self, split: str) -> int | None:
        """The split's rows as the card, the cache or Parquet footers say; else None."""
        if self.local is not None:
            files = self._local_files(split)
            if not files or any(path.suffix != ".parquet" for path in files):
                return None
            rows = sum(parquet_rows(path) for path in files)
        elif split in self._datasets:
            rows = len(self._datasets[split])
        elif split in (self.builder.info.splits or {}):
            rows = self.builder.info.splits[split].num_examples
        else:
            return None
        return rows if self.limit is None or rows is None else min(rows, self.limit)

    def left_to_fetch(self) -> tuple[int | None, int | None] | None:
        """How many files and bytes ``rows`` would fetch; None for a number that is not known.

        None where the cache of `datasets` has them all.
        """
        if Path(self.builder.cache_dir).is_dir():
            return None
        files = [
            str(file)
            for split in self._split_names()
            for file in (getattr(self.builder.config, "data_files", None) or {}).get(split, [])
        ]
        names = [file.rpartition("@")[2].partition("/")[2] for file in files]
        try:
            from huggingface_hub import HfApi

            listed = HfApi().get_paths_info(
                self.hub, names, repo_type="dataset", revision=self.revision
            )
            sizes = [size for file in listed if (size := getattr(file, "size", None)) is not None]
        except Exception:  # an estimate: it does without
            sizes = []
        if files and len(sizes) == len(files):
            return len(files), sum(sizes)
        return len(files) or None, self.builder.info.download_size

    def _dataset(self, split: str) -> Any:
        if split not in self._datasets:
            with _quiet(), self._translate_errors():
                if self.local is not None:
                    # The cache of `datasets` knows a local file by its time alone, and would give
                    # the old rows of one that was replaced with the same time: so, no cache.
                    dataset = self.builder.as_streaming_dataset(split=split)
                else:
                    self.builder.download_and_prepare()
                    dataset = self.builder.as_dataset(split=split)
                self._datasets[split] = _undecoded(dataset)
        return self._datasets[split]

    def _new_builder(self) -> Any:
        from datasets import load_dataset_builder
        from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES as formats

        if self.local is not None:
            return load_dataset_builder(str(self.local), self.config)
        if self.hub in formats:  # load_dataset("json") reads whatever the current folder holds
            raise UsageError(
                f"source.hub: '{self.hub}' is a file format. Write ORG/NAME, or use source.files."
            )
        # load_dataset takes a folder of that name in the current one before it asks the Hub.
        shadowed = Path(self.hub).exists()
        name = f"hf://datasets/{self.hub}" if shadowed else self.hub
        builder = load_dataset_builder(name, self.config, revision=self.revision)
        # Without a network it takes what its cache has, of whichever revision.
        wanted, got = self.revision or "", builder.hash
        if COMMIT.fullmatch(wanted) and got != wanted:
            raise UnreachableError(
                f"source.hub: '{self.hub}' is not to be had at revision {wanted[:12]}: the Hub "
                f"does not answer, and the cache holds {str(got)[:12]}. Try with a network."
            )
        return builder

    def _cached_builder(self) -> Any | None:
        """A builder from the cache of `datasets`, for exactly this revision; needs no network."""
        if self.local is not None or not COMMIT.fullmatch(self.revision or ""):
            return None
        try:
            from datasets.packaged_modules.cache.cache import Cache

            found = _cached_folders(self.hub, self.config, str(self.revision))
            if len(found) != 1:
                return None
            return Cache(
                dataset_name=self.hub.rsplit("/", 1)[-1],
                repo_id=self.hub,
                config_name=found[0].parts[-3],
                version=found[0].parts[-2],
                hash=self.revision,
            )
        except Exception:  # internals of `datasets`: where they changed, the Hub is asked
            return None

    def _split_names(self) -> list[str]:
        """The names of the splits; empty where the builder cannot tell before it is prepared."""
        named = getattr(self.builder.config, "data_files", None) or self.builder.info.splits or {}
        return [str(split) for split in named]

    def _local_files(self, split: str) -> list[Path]:
        files = (getattr(self.builder.config, "data_files", None) or {}).get(split, [])
        return [Path(file) for file in files if "://" not in file]

    def _relative(self, path: Path) -> str:
        assert self.local is not None
        inside = path.is_relative_to(self.local)
        return path.relative_to(self.local).as_posix() if inside else path.name

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Raise an error of one clear line for whatever `datasets` raises."""
        try:
            yield
        except (PausedataError, MemoryError):
            raise
        except Exception as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> PausedataError:
        text = str(error)
        listed = re.search(r"(?:Available:|among the available configs:) (\[.*?\])", text)
        if listed:
            names = re.findall(r"'([^']*)'", listed[1])
            if self.config is None:
                return UsageError(
                    f"source.config: '{self.label}' has several: give one of {listing(names)}."
                )
            return UsageError(
                f"source.config: '{self.label}' has no config '{self.config}'."
                f"{nearest(self.config, names)} Configs: {listing(names)}."
            )
        if self.local is None:
            return _hub_error(error, self.hub, self.revision)
        if isinstance(error, FileNotFoundError):  # EmptyDatasetError, DataFilesNotFoundError
            return UsageError(
                f"source.hub: '{self.hub}' has no data that can be read: {one_line(error)}"
            )
        return DataError(f"source.hub: '{self.label}' cannot be read: {_cause(error)}")


def resolve_revision(hub_id: str, revision: str | None) -> str:
    """The commit hash that ``revision`` (null: the main branch) of a Hub dataset stands for.

    A full commit hash is given back as it is, without a network. UsageError where there is no such
    dataset or revision, UnreachableError where the Hub does not answer or asks for a login.
    """
    _check_id(hub_id)
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi

    try:
        sha = HfApi().dataset_info(hub_id, revision=revision).sha
    except Exception as error:
        raise _hub_error(error, hub_id, revision) from error
    if sha is None:
        raise DataError(f"source.hub: the Hub names no commit of '{hub_id}'.")
    return sha


def cached_revision(hub_id: str, config: str | None) -> str | None:
    """The one commit of a Hub dataset that the cache of `datasets` holds; else None."""
    try:
        commits = {path.name for path in _cached_folders(hub_id, config, "*")}
    except Exception:  # internals of `datasets`, as above
        return None
    commits = {name for name in commits if COMMIT.fullmatch(name)}
    return commits.pop() if len(commits) == 1 else None


def _cached_folders(hub_id: str, config: str | None, revision: str) -> list[Path]:
    """Folders in the cache of `datasets` of ``revision``, which may be a pattern."""
    from datasets import config as settings
    from datasets.naming import camelcase_to_snakecase

    *namespace, name = hub_id.split("/")
    folder = "___".join([*namespace, camelcase_to_snakecase(name)])
    root = Path(settings.HF_DATASETS_CACHE).expanduser() / folder
    return [
        path
        for path in root.glob(f"*/*/{revision}")
        if path.is_dir() and config in (None, path.parts[-3])
    ]


def _hub_error(error: Exception, hub_id: str, revision: str | None) -> PausedataError:
    """The error as a user of a recipe needs it told."""
    match problem_of(error):
        case HubProblem.GATED:
            return UnreachableError(
                f"source.hub: '{hub_id}' is gated. Ask for access at "
                f"https://huggingface.co/datasets/{hub_id}, then `hf auth login` or set HF_TOKEN."
            )
        case HubProblem.NO_REVISION:
            return UsageError(f"source.revision: '{hub_id}' has no revision '{revision}'.")
        case HubProblem.TOKEN_REFUSED:
            return UnreachableError(f"source.hub: '{hub_id}': {TOKEN_REFUSED}.")
        case HubProblem.NO_ANSWER | HubProblem.BUSY:
            return UnreachableError(
                f"source.hub: the Hub does not answer for '{hub_id}' ({type(error).__name__}). "
                "Check the network and HF_ENDPOINT, or use source.files or a local folder."
            )
        case HubProblem.NO_REPOSITORY:
            local = f" For a folder, write './{hub_id}'." if Path(hub_id).is_dir() else ""
            return UsageError(
                f"source.hub: no dataset '{hub_id}' on the Hub, or it is private: check the id, or "
                f"`hf auth login` or set HF_TOKEN.{local}"
            )
        case _:
            return DataError(f"source.hub: '{hub_id}' cannot be read: {_cause(error)}")


def _cause(error: BaseException) -> str:
    """The innermost explicit cause: `datasets` wraps errors in one that says nothing."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error)


def _check_id(hub_id: str) -> None:
    if not HUB_ID.fullmatch(hub_id):
        raise UsageError(
            f"source.hub: '{hub_id}' is no dataset id. Write ORG/NAME, or a folder as ./NAME."
        )


def _local_folder(hub: str, folder: Path) -> Path:
    path = (folder / Path(hub).expanduser()).resolve()
    if path.is_dir():
        return path
    siblings = [p.name for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
    raise UsageError(f"source.hub: no folder '{hub}': {path}.{nearest(path.name, siblings)}")


def _undecoded(dataset: Any) -> Any:
    """Images, audio and the like as stored: decoding them is slow and needs other packages."""
    for name, feature in (dataset.features or {}).items():
        if getattr(feature, "decode", False) and type(feature).__name__ != "Json":
            dataset = dataset.cast_column(name, type(feature)(decode=False))
    return dataset


def _quiet() -> AbstractContextManager[None]:
    import datasets.utils
    import huggingface_hub.utils

    return quiet(datasets.utils, huggingface_hub.utils)
