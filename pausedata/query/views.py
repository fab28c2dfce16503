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
from pausedata.query.used import used_columns
from pausedata.store.dataset import Table, Version
from pausedata.store.integrity import require_whole
from pausedata.store.tables import schema_of

if TYPE_CHECKING:
    from collections.abc import Iterable

VIEWS = ("examples", "tokens", "pauses", "tokens_nested", "scores", "placements", "vocab")

_TOKENS = {
    "id": "VARCHAR",
    "split": "VARCHAR",
    "run": "VARCHAR",
    "pos": "INTEGER",
    "token_id": "INTEGER",
    "token": "VARCHAR",
    "char_start": "INTEGER",
    "char_end": "INTEGER",
    "logprob": "FLOAT",
    "rank": "INTEGER",
    "entropy": "FLOAT",
}
_PAUSES = {
    "id": "VARCHAR",
    "split": "VARCHAR",
    "placement": "VARCHAR",
    "pos": "INTEGER",
    "count": "SMALLINT",
    "token": "VARCHAR",
    "logprob": "FLOAT",
}
UNUSED = "pausedata: this column was taken for unused: "

_SQL_TYPES = {
    pa.string(): "VARCHAR",
    pa.binary(): "BLOB",
    pa.bool_(): "BOOLEAN",
    pa.int64(): "BIGINT",
    pa.int32(): "INTEGER",
    pa.int16(): "SMALLINT",
    pa.float32(): "FLOAT",
}


def connect(version: Version, sql: str | None = None) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB with the views of ``version``, their columns as the design lists them.

    Where the query is given that will be run, only the views that it reads are there, and columns
    that it does not read are errors (``UNUSED``) where tables need not be opened for them.
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
    columns = columns_of_views()
    used = used_columns(sql, columns) if sql is not None else None
    try:
        for name in columns if used is None else used:
            definition = definition_of(version, name, used[name] if used else set(columns[name]))
            connection.execute(f"CREATE VIEW {name} AS {definition}")
    except duckdb.Error as error:  # DuckDB looks for all files, and into the first of each table
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{reason}\n`pausedata verify` says what else is damaged.") from None
    connection.execute("SET lock_configuration = true")
    return connection


def literal(text: str) -> str:
    """``text`` as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def definition_of(version: Version, view: str, used: set[str]) -> str:
    """The SELECT behind ``view``, of which the columns ``used`` will be read."""
    match view:
        case "examples":
            return _examples(version, used)
        case "tokens":
            return _tokens(version, used)
        case "pauses":
            return _pauses(version)
        case "scores":
            return _stored(version, "scores", "run")
        case "placements":
            return _stored(version, "placements", "placement")
        case _:
            table = {"tokens_nested": "tokens"}.get(view, view)
            return f"SELECT * FROM {_scan(version, table)}"


def columns_of_views() -> dict[str, dict[str, str]]:
    """The columns of every view with their SQL types."""

    def stored(table: str) -> dict[str, str]:
        return {field.name: _sql_type(field.type) for field in schema_of(table)}

    return {
        "examples": stored("examples") | {"n_prompt": "INTEGER", "n_response": "INTEGER"},
        "tokens": _TOKENS,
        "pauses": _PAUSES,
        "tokens_nested": stored("tokens"),
        "scores": _labelled(stored("scores"), "run"),
        "placements": _labelled(stored("placements"), "placement"),
        "vocab": stored("vocab"),
    }


def _labelled(columns: dict[str, str], label: str) -> dict[str, str]:
    rest = {name: kind for name, kind in columns.items() if name != "id"}
    return {"id": columns["id"], label: "VARCHAR", **rest}


def _unused(id: str, kind: str) -> str:
    """A column that nobody reads. If somebody does, that has to be an error, never a wrong null."""
    return f"CAST(error('{UNUSED}' || {id}) AS {kind})"


def _examples(version: Version, used: set[str]) -> str:
    columns = ", ".join(f"e.{name}" for name in schema_of("examples").names)
    sources = [("examples", "e")]
    counts = [_unused("e.id", "INTEGER")] * 2
    if used & {"n_prompt", "n_response"}:
        sources.append(("tokens", "t"))
        counts = [f"CAST(len(t.{ids}) AS INTEGER)" for ids in ("prompt_ids", "response_ids")]
    return (
        f"SELECT {columns}, {counts[0]} AS n_prompt, {counts[1]} AS n_response "
        f"FROM {_joined(version, *sources)}"
    )


def _tokens(version: Version, used: set[str]) -> str:
    """One row for each response token and run; where there is no run, null in a run's columns."""
    token, vocabulary = _unused("x.id", "VARCHAR"), ""
    if "token" in used:
        token = "v.token"
        vocabulary = f"LEFT JOIN {_scan(version, 'vocab')} AS v ON x.token_id = v.token_id"
    columns = ", ".join(f"{token} AS token" if name == "token" else f"x.{name}" for name in _TOKENS)
    parts = [_tokens_of(version, run, used) for run in version.runs or [None]]
    return f"SELECT {columns} FROM ({_union(parts)}) AS x {vocabulary}"


def _tokens_of(version: Version, run: str | None, used: set[str]) -> str:
    columns = {name: _unused("t.id", kind) for name, kind in _TOKENS.items() if name != "token"}
    columns |= {"id": "t.id", "run": _named(run), "token_id": "unnest(t.response_ids)"}
    sources = [("tokens", "t")]
    if "split" in used:
        sources.append(("examples", "e"))
        columns["split"] = "e.split"
    if "pos" in used:
        columns["pos"] = "CAST(unnest(range(len(t.response_ids))) AS INTEGER)"
    for name in used & {"char_start", "char_end"}:
        columns[name] = f"unnest(t.{name})"
    scores = used & {"logprob", "rank", "entropy"}
    if run is not None and scores:
        sources.append((f"scores/{run}", "s"))
    for name in scores:
        # A null list (a run without ranks) is as long as the others here, and null throughout.
        columns[name] = f"NULL::{_TOKENS[name]}" if run is None else f"unnest(s.{name})"
    listed = ", ".join(f"{columns[name]} AS {name}" for name in _TOKENS if name in columns)
    return f"SELECT {listed} FROM {_joined(version, *sources)}"


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
    """The rows of a table, in the manifest's order. DataError where a file is not whole.

    DuckDB (2.0) reads flipped bits without a word: it does not look at the pages' checksums.
    """
    table = version.table(name)
    require_whole(table.folder, table.shards)
    if not table.shards:
        return _nothing(name)
    # DuckDB takes a path that exists as it is, whatever wildcards are in it; but a folder that is
    # called `a=b` would become a column.
    folder = table.folder.absolute()  # once: it is slow work for thousands of paths
    listed = ", ".join(literal(f"{folder}/{shard.path}") for shard in table.shards)
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
