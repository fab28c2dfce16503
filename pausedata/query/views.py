"""The views of design.md over a version's shards: nothing is read until a query asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

    from pausedata.query.scan import RowSource
    from pausedata.query.sources import Vocabulary
    from pausedata.store.dataset import Version

SCANS = "_scans"  # the schema of what views and functions read: SHOW TABLES does not list it

# The columns of every view with their SQL types, as the design lists them.
VIEWS: dict[str, dict[str, str]] = {
    "examples": {
        "id": "VARCHAR", "split": "VARCHAR", "row": "BIGINT", "prompt": "VARCHAR",
        "response": "VARCHAR", "meta": "VARCHAR", "n_prompt": "INTEGER", "n_response": "INTEGER",
    },
    "tokens": {
        "id": "VARCHAR", "split": "VARCHAR", "run": "VARCHAR", "pos": "INTEGER",
        "token_id": "INTEGER", "token": "VARCHAR", "char_start": "INTEGER", "char_end": "INTEGER",
        "logprob": "FLOAT", "rank": "INTEGER", "entropy": "FLOAT",
    },
    "pauses": {
        "id": "VARCHAR", "split": "VARCHAR", "placement": "VARCHAR", "pos": "INTEGER",
        "count": "SMALLINT", "token": "VARCHAR", "logprob": "FLOAT",
    },
    "tokens_nested": {
        "id": "VARCHAR", "prompt_ids": "INTEGER[]", "response_ids": "INTEGER[]",
        "char_start": "INTEGER[]", "char_end": "INTEGER[]", "truncated": "BOOLEAN",
    },
    "scores": {
        "id": "VARCHAR", "run": "VARCHAR", "n_tokens": "INTEGER", "mean_logprob": "FLOAT",
        "min_logprob": "FLOAT", "logprob": "FLOAT[]", "rank": "INTEGER[]", "entropy": "FLOAT[]",
    },
    "placements": {
        "id": "VARCHAR", "placement": "VARCHAR", "position": "INTEGER[]", "count": "SMALLINT[]",
    },
    "gates": {
        "id": "VARCHAR", "gate": "VARCHAR", "group_name": "VARCHAR", "tokens": "INTEGER",
        "pauses": "INTEGER", "after": "INTEGER", "logprob_without": "DOUBLE",
        "logprob_with": "DOUBLE", "logprob_after_without": "DOUBLE",
        "logprob_after_with": "DOUBLE", "seconds_without": "DOUBLE", "seconds_with": "DOUBLE",
    },
    "vocab": {
        "token_id": "INTEGER", "token": "VARCHAR", "bytes": "BLOB", "special": "BOOLEAN",
    },
}  # fmt: skip

# The column of a view that names the table which a row is of.
LABELS = {
    "tokens": "run", "pauses": "placement", "scores": "run", "placements": "placement",
    "gates": "gate",
}  # fmt: skip


def create_views(
    connection: duckdb.DuckDBPyConnection,
    version: Version,
    schema: str,
    vocabulary: Vocabulary,
    scan: Callable[[str, RowSource], str],
    flat: Mapping[str | None, list[Path]] | None = None,
) -> None:
    """Create the views of ``version`` in the schema ``schema``, which is there.

    ``scan`` lets DuckDB read a source under a name, and gives that as it stands in SQL. With
    ``flat``, the files of each run's flat copy, DuckDB reads those for ``tokens``. Raises DataError
    where tables are not sharded alike.
    """
    from pausedata.query.sources import Examples, PauseRows, Stored, Tokens

    runs, placements = version.runs, version.placements
    sources: dict[str, dict[str | None, RowSource]] = {
        "examples": {None: Examples(version)},
        "tokens": {run: Tokens(version, run, vocabulary) for run in runs or [None]},
        "pauses": {
            name: PauseRows(version, name, version.placed_from(name), vocabulary)
            for name in placements
        },
        "tokens_nested": {None: Stored(version, "tokens")},
        "scores": {name: Stored(version, f"scores/{name}") for name in runs},
        "placements": {name: Stored(version, f"placements/{name}") for name in placements},
        "gates": {
            name: Stored(version, f"gates/{name}") for name in version.manifest.names("gates")
        },
        "vocab": {None: Stored(version, "vocab")},
    }
    for view, parts in sources.items():
        selects = []
        for number, (name, source) in enumerate(parts.items()):
            if view == "tokens" and flat is not None and flat[name]:
                rows = read_files(map(str, flat[name]))
            else:
                rows = scan(f"{schema}_{view}_{number}", source)
            # A name is a constant, so that DuckDB reads no shards of the others.
            constant = {LABELS[view]: name} if view in LABELS else {}
            selects.append(select(VIEWS[view], constant, rows))
        body = union(selects) if selects else nothing(VIEWS[view])
        connection.execute(f"CREATE VIEW {identifier(schema)}.{view} AS {body}")


def literal(text: str) -> str:
    """``text`` as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """``name`` as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def select(columns: dict[str, str], constants: Mapping[str, str | None], source: str) -> str:
    """A view's columns from ``source``, but for those that are constants."""

    def column(name: str, kind: str) -> str:
        if name in constants:
            value = constants[name]
            return f"{'NULL' if value is None else literal(value)}::{kind} AS {identifier(name)}"
        return identifier(name)

    listed = ", ".join(column(name, kind) for name, kind in columns.items())
    return f"SELECT {listed} FROM {source}"


def read_files(paths: Iterable[str]) -> str:
    """The rows of Parquet files, one after the other."""
    listed = ", ".join(map(literal, paths))
    return f"read_parquet([{listed}], hive_partitioning = false)"


def nothing(columns: dict[str, str]) -> str:
    """A SELECT of these columns, and of no row."""
    listed = ", ".join(f"NULL::{kind} AS {identifier(name)}" for name, kind in columns.items())
    return f"SELECT {listed} WHERE false"


def union(parts: Iterable[str]) -> str:
    """One SELECT that gives the rows of all."""
    return " UNION ALL ".join(parts)
