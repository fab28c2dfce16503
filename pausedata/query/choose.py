"""Which examples to look at: those that meet a condition in SQL, the hardest, easiest or any."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pausedata.core.errors import UsageError, nearest
from pausedata.query.notes import missing_names
from pausedata.query.run import run as run_query
from pausedata.query.scan import Rows, Scan
from pausedata.query.session import Session
from pausedata.query.side_by_side import beside
from pausedata.query.sources import Examples
from pausedata.query.statements import parse, reading
from pausedata.store.dataset import Version

SORTS = ("hardest", "easiest", "spread", "random")
_FIGURES = ("mean_logprob", "min_logprob")  # of a run, which a condition may name, too
_PLACE = ("pd_shard", "pd_row")
_FROM = "FROM pd_examples AS examples"  # as a condition names them, where it does
# Each ends by what no two examples have in common: the same ones on any machine.
_STORED = "pd_shard, pd_row"
_ORDERS = {
    None: _STORED,
    "hardest": f"mean_logprob, {_STORED}",
    "easiest": f"mean_logprob DESC, {_STORED}",
    "spread": f"mean_logprob, {_STORED}",
    "random": "md5(concat({seed}, ':', id)), id",
}
# What a condition may not have behind it, and what does that instead.
_PARTS = {
    "group_expressions": "GROUP BY",
    "having": "HAVING",
    "qualify": "QUALIFY",
    "sample": "USING SAMPLE",
}


@dataclass(frozen=True)
class ExampleChoice:
    """``places`` are the shards' numbers and the ids of the examples, in the order asked for, and
    ``rows`` the shards' numbers and the examples' indices in them.
    """

    matching: int  # examples that meet the condition, or all
    places: list[tuple[int, str]]
    rows: list[tuple[int, int]]
    notes: list[str]  # names in the condition that are not there


def choose(
    version: Version,
    run: str | None,
    where: str | None = None,
    sort: str | None = None,
    n: int = 1,
    seed: int = 0,
) -> ExampleChoice:
    """The first ``n`` examples that meet ``where``, in the order that ``sort`` says.

    ``where`` is a condition in SQL over the view ``examples`` and, where there is a ``run``, its
    ``mean_logprob`` and ``min_logprob``; it may ask the other views in a subquery, and like `sql`
    it sees nothing but the dataset. ``sort`` is by the run's ``mean_logprob``, or ``random`` by
    ``seed``; None is the order of the dataset. ``spread`` takes ``n`` at even steps from the
    hardest to the easiest (without a run, from the first to the last). Raises UsageError for what
    is wrong with them.
    """
    if sort is not None and sort not in SORTS:
        raise UsageError(f"--sort '{sort}':{nearest(sort, SORTS)} There: {', '.join(SORTS)}.")
    if sort in ("hardest", "easiest") and run is None:
        raise UsageError(
            f"--sort {sort}: version {version.number} has no scoring run to tell. "
            "`pausedata score` makes one; --sort random needs none."
        )
    with closing(Session(version)) as session:
        source = _Examples(version, run)
        scan = Scan(source, os.cpu_count() or 1, session.failures.append)
        session.connection.from_arrow(scan).create_view("pd_examples")
        notes = _check(session, where) if where is not None else []
        # On lines of its own: it may end in a comment.
        condition = "" if where is None else f"WHERE (\n{where}\n)"
        order = _ORDERS[sort if run is not None or sort == "random" else None].format(seed=seed)
        query = (
            "SELECT pd_shard, pd_row, id, count(*) OVER () AS pd_all, "
            f"row_number() OVER (ORDER BY {order}) - 1 AS pd_nth {_FROM} {condition}"
        )
        if sort == "spread":
            step = f"(greatest(pd_all - 1, 1) / {max(n - 1, 1)})"  # at least 1 where some are left
            query = (
                f"SELECT * FROM ({query}) WHERE pd_all <= {n} "
                f"OR pd_nth = round(round(pd_nth / {step}) * {step})"
            )
        query += f" ORDER BY pd_nth LIMIT {n}"
        rows = [row for batch in run_query(session, query).batches() for row in batch]
    return ExampleChoice(
        matching=rows[0][3] if rows else 0,
        places=[(shard, id) for shard, _, id, *_ in rows],
        rows=[(shard, row) for shard, row, *_ in rows],
        notes=notes,
    )


def _check(session: Session, where: str) -> list[str]:
    """UsageError unless ``where`` is a condition that can be asked; notes on names that are not
    there.
    """
    if not where.strip():
        raise UsageError('--where is empty: give a condition, as in --where "n_response > 100".')
    query = f"SELECT id {_FROM} WHERE\n{where}\n"  # so that its lines are DuckDB's but for one
    try:
        statement = reading(parse(query, session.connection))
        if behind := _behind(statement.tree):
            raise UsageError(
                f"--where takes a condition alone, without {behind}: --sort and --n choose among "
                "the examples that meet it. `pausedata sql` takes whole queries."
            )
        run_query(session, statement)  # prepares it: its names and types are looked up
    except UsageError as error:
        raise UsageError(_as_of_condition(str(error))) from None
    return missing_names(statement, session.versions())


def _behind(parts: Any) -> str | None:
    """What stands behind the condition, by DuckDB's parse of the query; None where nothing does."""
    node = parts[0]["node"] if parts else {}
    if node.get("type") != "SELECT_NODE":
        return "a query behind it"
    for modifier in node["modifiers"]:
        kind = str(modifier["type"]).partition("_")[0]  # of LIMIT_MODIFIER, for one
        return "ORDER BY" if kind == "ORDER" else kind
    return next((words for key, words in _PARTS.items() if node.get(key)), None)


def _as_of_condition(said: str) -> str:
    """An error of the query as one of the condition, which begins on the query's second line."""
    said = re.sub(r"^LINE (\d+)", lambda found: f"LINE {int(found[1]) - 1}", said, flags=re.M)
    return said.replace(" --unsafe lifts that.", "").replace(
        "`sql` only reads", "--where only reads"
    )


class _Examples(Examples):
    """The examples with their figures in a run, and where each lies."""

    def __init__(self, version: Version, run: str | None) -> None:
        super().__init__(version)
        self._scores = version.table(f"scores/{run}") if run is not None else None
        figures = _FIGURES if self._scores is not None else ()
        self.schema = pa.schema(
            [
                *Examples.schema,
                *((name, pa.float32()) for name in figures),
                *((name, pa.int64()) for name in _PLACE),
            ]
        )
        self.stored = frozenset(self.schema.names)

    def read(self, number: int, names: Sequence[str], rows: Rows | None) -> dict[str, pa.Array]:
        """Columns of a shard."""
        figures = [name for name in names if name in _FIGURES]
        own = [name for name in names if name not in (*figures, *_PLACE)]
        columns = super().read(number, [*own, *(["id"] if figures else [])], rows)
        if figures:
            assert self._scores is not None
            columns |= beside(self._scores, number, figures, rows, columns["id"])
        count = self._examples.shards[number].rows
        places = np.arange(count, dtype=np.int64) if rows is None else rows
        return columns | {
            "pd_shard": pa.array(np.full(len(places), number, np.int64)),
            "pd_row": pa.array(places),
        }
