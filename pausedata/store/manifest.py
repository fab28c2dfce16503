"""The manifest: everything about a version. The source of ``schemas/manifest.schema.json``."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from pausedata.core.names import NAME_PATTERN, Split
from pausedata.store.opening import FORMAT

CARD = "README.md"  # of a version: a view of it, not a part

Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Content = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
# A file inside the version's own folder: no absolute path, no '..', no backslash.
InnerPath = Annotated[str, Field(pattern=r"^\w[\w.-]*(/\w[\w.-]*)*$")]


class Open(BaseModel):
    """Keys that a later release adds are kept, not refused."""

    model_config = ConfigDict(extra="allow", frozen=True)


class FileEntry(Open):
    """A file of the version."""

    path: InnerPath
    bytes: int = Field(ge=0)
    sha256: Hex


class ShardEntry(FileEntry):
    """One Parquet file of a table: rows ``first_row`` to ``first_row + rows`` of its split."""

    split: Split | None = Field(default=None, description="null for vocab, which has no splits")
    rows: int = Field(ge=0)
    first_row: int = Field(ge=0)


class TableEntry(Open):
    """One table: its shards, what its values hash to, and what it was made from."""

    rows: int = Field(ge=0)
    content: Content
    provenance: dict[str, Any] = Field(
        description="`inputs`: all that decides the values; beside it, what is good to know"
    )
    shards: list[ShardEntry]
    files: list[FileEntry] = Field(
        default_factory=list, description="an export's files for the trainer"
    )

    def all_files(self) -> list[FileEntry]:
        """The shards, and the files beside them."""
        return [*self.shards, *self.files]


class PauseEntry(Open):
    """The pause token that exports insert."""

    token: str
    id: int = Field(ge=0)
    id_is_new: bool = Field(description="the tokenizer has no such token yet: id is its length")


class SplitRows(Open):
    """What became of a split's rows: ``into == out + sum(dropped.values())``."""

    into: int = Field(
        validation_alias="in",
        serialization_alias="in",
        ge=0,
        description="examples that the source's rows asked for",
    )
    out: int = Field(ge=0)
    dropped: dict[str, int] = Field(default_factory=dict, description="by reason")
    noted: dict[str, int] = Field(
        default_factory=dict, description="kept, but worth knowing: truncated, boundary_mismatch"
    )

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True)


class Parent(Open):
    """The version that this one was made from."""

    version: int = Field(ge=1)
    sha256: Hex = Field(description="of the parent's manifest.json")


class Manifest(Open):
    """A version of a dataset."""

    format: Literal["pausedata/1"] = FORMAT
    min_reader: int = Field(
        default=1, ge=1, description="the oldest reader that understands this version"
    )
    name: str
    version: int = Field(ge=1)
    parent: Parent | None
    created: str = Field(description="UTC, ISO 8601")
    created_by: str
    command: str
    recipe: dict[str, Any]
    pins: dict[str, str] = Field(description="what null and auto in the recipe became")
    pause: PauseEntry
    rows: dict[Split, SplitRows]
    tables: dict[str, TableEntry]
    files: list[FileEntry] = Field(
        default_factory=list, description="files of the version that belong to no table: none yet"
    )

    @field_validator("tables")
    @classmethod
    def _check_names(cls, tables: dict[str, TableEntry]) -> dict[str, TableEntry]:
        """Runs, placements and exports are named in files, messages and commands."""
        for table in tables:
            _, slash, own = table.partition("/")
            if slash and not re.fullmatch(NAME_PATTERN, own):
                raise ValueError(f"{table!r} cannot name a table")
        return tables

    def loose_files(self) -> list[FileEntry]:
        """The files that belong to no table. The card is none of them: it may be written anew."""
        return [entry for entry in self.files if entry.path != CARD]

    def names(self, kind: str) -> list[str]:
        """The names under ``scores``, ``placements`` or ``exports``, in the manifest's order."""
        return [t.split("/", 1)[1] for t in self.tables if t.startswith(kind + "/")]


class Origin(Open):
    """The commit of a Hub repository that a dataset was pulled from, or pushed to."""

    repo: str
    commit: str
    version: int = Field(ge=1)
    sha256: Hex = Field(description="of that version's manifest.json")


class Pointer(Open):
    """``pausedata.json``: which version readers see."""

    format: str = FORMAT
    current: int = Field(ge=1)
    sha256: Hex = Field(description="of the current version's manifest.json")
    origin: Origin | None = Field(default=None, description="where it was pulled from")
    pushed: dict[str, Origin] = Field(
        default_factory=dict, description="where it was pushed to last, by repository"
    )
    absent: dict[str, list[Content]] = Field(
        default_factory=dict,
        description="tables that were not pulled: the content hashes of those that are not here",
    )

    def seen_at(self, repo: str) -> list[Origin]:
        """The commits known of a repository: the last push to it, and the pull from it."""
        known = [self.pushed.get(repo), self.origin]
        return [origin for origin in known if origin is not None and origin.repo == repo]


def manifest_schema() -> dict[str, Any]:
    """The JSON Schema of manifest.json."""
    schema = Manifest.model_json_schema(by_alias=True)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "pausedata manifest"
    return schema
