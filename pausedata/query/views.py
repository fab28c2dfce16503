"""DuckDB views over a version's shards: nothing is read until a query asks for it.

Tables that hold the same shards are joined by position. DuckDB (1.4 to 2.0) scans every side of a
POSITIONAL JOIN whole and in file order, on one thread, and evaluates filters, limits, samples and
joins above it, never inside; tests/test_query.py holds it to that over several shards and row
groups. Joining shard by shard instead, under a UNION ALL, made DuckDB copy whole lists for each
token: gigabytes, and minutes for a query that takes a second.
"""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from pausedata.errors import DataError
from pausedata.store.dataset import Table, Version
from pausedata.store.tables import schema_of

if TYPE_CHECKING:
    from collections.abc import Iterable

VIEWS = ("examples", "tokens", "pauses", "tokens_nested", "scores", "placements", "vocab")

_SQL_TYPES = {
    pa.string(): "VARCHAR",
    pa.binary(): "BLOB",
    pa.bool_(): "BOOLEAN",
    pa.int64(): "BIGINT",
    pa.int32(): "INTEGER",
    pa.int16(): "SMALLINT",
    pa.float32(): "FLOAT",
}


def connect(version: Version) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB with the views of ``version``, their columns as the design lists them.

    The connection keeps no state on disk but for what a large sort spills to the temporary folder.
    Raises DataError where a shard is missing, or the first one of a table cannot be read.
    """
    connection = duckdb.connect(
        config={
            # A misspelled view must be an error, not a Python variable of that name.
            "python_enable_replacements": "false",
            # A query is no reason to download and run an extension.
            "autoinstall_known_extensions": "false",
            # In memory, DuckDB's own default is `.tmp` in the current folder.
            "temp_directory": tempfile.gettempdir(),
            # DuckDB takes a positional join for empty, and would build hash tables from all
            # tokens to probe them with the vocabulary. Without this step it streams the tokens
            # (which keeps their order, too) and hashes the right side of a join as it is written.
            "disabled_optimizers": "build_side_probe_side",
        }
    )
    definitions = {
        "examples": _examples(version),
        "vocab": f"SELECT * FROM {_scan(version, 'vocab')}",
        "tokens_nested": f"SELECT * FROM {_scan(version, 'tokens')}",
        "scores": _stored(version, "scores", "run"),
        "placements": _stored(version, "placements", "placement"),
        "tokens": _tokens(version),
        "pauses": _pauses(version),
    }
    try:
        for name in VIEWS:
            connection.execute(f"CREATE VIEW {name} AS {definitions[name]}")
    except duckdb.Error as error:  # DuckDB looks for all files, and into the first of each table
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{reason}\n`pausedata verify` says what else is damaged.") from None
    connection.execute("SET lock_configuration = true")
    return connection


def tables_of(version: Version, view: str) -> set[str]:
    """The tables that a view reads."""
    scores = {f"scores/{run}" for run in version.runs}
    placements = {f"placements/{name}" for name in version.placements}
    return {
        "examples": {"examples", "tokens"},
        "tokens": {"examples", "tokens", "vocab"} | scores,
        "pauses": {"examples", "tokens", "vocab"} | scores | placements,
        "tokens_nested": {"tokens"},
        "scores": scores,
        "placements": placements,
        "vocab": {"vocab"},
    }[view]


def literal(text: str) -> str:
    """``text`` as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def _examples(version: Version) -> str:
    columns = ", ".join(f"e.{name}" for name in schema_of("examples").names)
    return (
        f"SELECT {columns}, CAST(len(t.prompt_ids) AS INTEGER) AS n_prompt, "
        "CAST(len(t.response_ids) AS INTEGER) AS n_response "
        f"FROM {_joined(version, ('examples', 'e'), ('tokens', 't'))}"
    )


def _tokens(version: Version) -> str:
    """One row for each response token and run; where there is no run, null in a run's columns."""
    runs = version.runs
    parts = [_tokens_of(version, run) for run in runs] if runs else [_tokens_of(version, None)]
    return (
        "SELECT x.id, x.split, x.run, x.pos, x.token_id, v.token, x.char_start, x.char_end, "
        f"x.logprob, x.rank, x.entropy FROM ({_union(parts)}) AS x "
        f"LEFT JOIN {_scan(version, 'vocab')} AS v ON x.token_id = v.token_id"
    )


def _tokens_of(version: Version, run: str | None) -> str:
    sources = [("tokens", "t"), ("examples", "e")]
    scored = "NULL::FLOAT AS logprob, NULL::INTEGER AS rank, NULL::FLOAT AS entropy"
    if run is not None:
        sources.append((f"scores/{run}", "s"))
        # A null list (a run without ranks) is as long as the others here, and null throughout.
        scored = "unnest(s.logprob) AS logprob, unnest(s.rank) AS rank, "
        scored += "unnest(s.entropy) AS entropy"
    return (
        f"SELECT t.id, e.split, {_named(run)} AS run, "
        "CAST(unnest(range(len(t.response_ids))) AS INTEGER) AS pos, "
        "unnest(t.response_ids) AS token_id, unnest(t.char_start) AS char_start, "
        f"unnest(t.char_end) AS char_end, {scored} FROM {_joined(version, *sources)}"
    )


def _pauses(version: Version) -> str:
    """One row for each position of each placement, with the token that follows the pauses."""
    parts = [_pauses_of(version, name) for name in version.placements] or [
        "SELECT NULL::VARCHAR AS id, NULL::VARCHAR AS split, NULL::VARCHAR AS placement, "
        "NULL::INTEGER AS pos, NULL::SMALLINT AS count, NULL::INTEGER AS token_id, "
        "NULL::FLOAT AS logprob WHERE false"
    ]
    return (
        "SELECT x.id, x.split, x.placement, x.pos, x.count, v.token, x.logprob "
        f"FROM ({_union(parts)}) AS x "
        f"LEFT JOIN {_scan(version, 'vocab')} AS v ON x.token_id = v.token_id"
    )


def _pauses_of(version: Version, placement: str) -> str:
    run = placed_from(version, placement)
    sources = [(f"placements/{placement}", "p"), ("tokens", "t"), ("examples", "e")]
    logprob = "NULL::FLOAT AS logprob"
    # list_select gives null for an index behind the end: for the pause after the last token.
    indices = "list_transform(p.position, lambda i: i + 1)"
    if run is not None:
        sources.append((f"scores/{run}", "s"))
        logprob = f"unnest(list_select(s.logprob, {indices})) AS logprob"
    return (
        f"SELECT p.id, e.split, {literal(placement)} AS placement, unnest(p.position) AS pos, "
        f'unnest(p."count") AS count, unnest(list_select(t.response_ids, {indices})) AS token_id, '
        f"{logprob} FROM {_joined(version, *sources)}"
    )


def placed_from(version: Version, placement: str) -> str | None:
    """The run that ``placement`` was made from; None where it needed none, or it is gone."""
    provenance = version.table(f"placements/{placement}").entry.provenance
    run = provenance.get("inputs", {}).get("run")
    return run if run in version.runs else None


def _stored(version: Version, kind: str, label: str) -> str:
    """All tables of a kind as they are stored, one after another, named in the column ``label``."""
    rest = ", ".join(f'"{name}"' for name in schema_of(kind).names if name != "id")
    names = version.manifest.names(kind)
    if not names:
        return f"SELECT id, NULL::VARCHAR AS {label}, {rest} FROM {_nothing(kind)}"
    return _union(
        f"SELECT id, {literal(name)} AS {label}, {rest} FROM {_scan(version, f'{kind}/{name}')}"
        for name in names
    )


def _joined(version: Version, *sources: tuple[str, str]) -> str:
    """A FROM clause of ``(table, alias)``: by position where shards are the same, else by id."""
    first, own = sources[0]
    layout = _layout(version.table(first))
    # Positional joins first: one that came behind a join on id would rest on that join's order.
    by_position = [s for s in sources[1:] if _layout(version.table(s[0])) == layout]
    by_id = [s for s in sources[1:] if s not in by_position]
    clause = f"{_scan(version, first)} AS {own}"
    for name, alias in by_position:
        clause += f" POSITIONAL JOIN {_scan(version, name)} AS {alias}"
    for name, alias in by_id:
        clause += f" LEFT JOIN {_scan(version, name)} AS {alias} ON {own}.id = {alias}.id"
    return clause


def _layout(table: Table) -> list[tuple[str | None, int, int]]:
    return [(s.split, s.rows, s.first_row) for s in table.shards]


def _scan(version: Version, name: str) -> str:
    """The rows of a table, in the manifest's order."""
    paths = version.table(name).paths()
    if not paths:
        return _nothing(name)
    # DuckDB takes a path that exists as it is, whatever wildcards are in it; but a folder that is
    # called `a=b` would become a column.
    listed = ", ".join(literal(str(path.absolute())) for path in paths)
    return f"read_parquet([{listed}], hive_partitioning = false)"


def _nothing(name: str) -> str:
    """No rows, with the table's columns and types."""
    columns = ", ".join(f'NULL::{_sql_type(f.type)} AS "{f.name}"' for f in schema_of(name))
    return f"(SELECT {columns} WHERE false)"


def _sql_type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"{_sql_type(kind.value_type)}[]"
    return _SQL_TYPES[kind]


def _named(name: str | None) -> str:
    return "NULL::VARCHAR" if name is None else literal(name)


def _union(parts: Iterable[str]) -> str:
    return " UNION ALL ".join(parts)
