"""Which views and columns a query reads, so that views need not open the shards of the rest.

DuckDB prunes columns of a Parquet file, but neither sides of a positional join nor lists that are
unnested. Of those it would open thousands of shards to count the rows of one table. So the query is
first planned over empty tables that look like the views. Only the step that drops unused columns
is on: every other one may use that the tables are empty.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import duckdb

Columns = dict[str, dict[str, str]]  # view → column → SQL type


def used_columns(sql: str, views: Columns) -> dict[str, set[str]] | None:
    """The views that ``sql`` reads, each with its columns that do; None where that is unknown."""
    try:
        if [s.type for s in duckdb.extract_statements(sql)] != [duckdb.StatementType.SELECT]:
            return None  # a PIVOT's columns depend on rows
        with duckdb.connect(
            config={
                "python_enable_replacements": "false",
                "autoinstall_known_extensions": "false",
            }
        ) as connection:
            connection.execute("SET explain_output = 'all'")
            for name, columns in views.items():
                listed = ", ".join(f'"{column}" {kind}' for column, kind in columns.items())
                connection.execute(f'CREATE TABLE "{name}" ({listed})')
            optimizers = connection.execute("SELECT name FROM duckdb_optimizers()").fetchall()
            off = ",".join(name for (name,) in optimizers if name != "unused_columns")
            connection.execute(f"SET disabled_optimizers = '{off}'")
            plans = dict(connection.execute(f"EXPLAIN (FORMAT json) {sql}").fetchall())
            return _columns(plans, views)
    except (duckdb.Error, ValueError, KeyError, TypeError):
        return None  # whatever is wrong shows when the query runs


def _columns(plans: dict[str, str], views: Columns) -> dict[str, set[str]] | None:
    used: dict[str, set[str]] = {}
    scans = list(_scans(json.loads(plans["physical_plan"]), views))
    for name, info, bare in scans:
        columns = info["Projections"]
        columns = {columns} if isinstance(columns, str) else set(columns)
        # No column is what a count has; elsewhere DuckDB 1.4 says so of a scan that has all.
        if columns == {""}:
            columns = set() if bare else set(views[name])
        if not columns <= set(views[name]):
            return None
        used.setdefault(name, set()).update(columns)
    # A scan that the physical plan does not show would be one whose columns are unknown.
    stated = _scans(json.loads(plans["logical_opt"]), views)
    same = Counter(name for name, *_ in scans) == Counter(name for name, *_ in stated)
    return used if used and same else None


def _scans(
    plan: list[Any], views: Columns, bare: bool = True
) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """All scans of ``views``: the view, what DuckDB tells, and whether only aggregates use it."""
    for node in plan:
        name = node["extra_info"].get("Table", "").rpartition(".")[2]
        if name in views:
            yield name, node["extra_info"], bare
        simple = node["name"].strip() in ("UNGROUPED_AGGREGATE", "PROJECTION")
        yield from _scans(node["children"], views, bare and simple)
