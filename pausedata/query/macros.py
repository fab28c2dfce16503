"""The functions that questions about scores and pauses need, as DuckDB macros."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from pausedata.query.views import identifier, literal, union

if TYPE_CHECKING:
    import duckdb

    from pausedata.query.scan import RowSource
    from pausedata.query.sources import Vocabulary
    from pausedata.store.dataset import Version


class Function(NamedTuple):
    """A function: its parameters as they are written, its SQL, and what it gives.

    In ``body``, names in braces stand for what each dataset has of its own.
    """

    parameters: str
    body: str
    gives: str


# DuckDB puts a macro's arguments, as they are written, where its parameters stand. A column of the
# query must not become one of the same name in here: so all names in here begin with `pd_`. What is
# asked for stands in a SELECT of its own, so that `random()` gives one value, and so that DuckDB
# looks for the few rows asked for among all that are read, not for all among the few. It does not
# see that a constant there is one: the WHERE tells it, and of its rows alone the rest is read.
_CONTEXT = """(
    SELECT CASE WHEN pd_at BETWEEN 1 AND len(pd_start) AND pd_near >= 0 THEN
        substr(pd_response, pd_start[pd_from] + 1, pd_start[pd_at] - pd_start[pd_from])
        || '⟦' || CASE WHEN pd_end[pd_at] > pd_start[pd_at]
            THEN substr(pd_response, pd_start[pd_at] + 1, pd_end[pd_at] - pd_start[pd_at])
            ELSE coalesce(pd_added[len(pd_added) - len(pd_start) + pd_at], '') END || '⟧'
        || substr(pd_response, pd_end[pd_at] + 1, pd_end[pd_to] - pd_end[pd_at]) END
    FROM (
        SELECT *, greatest(pd_at - pd_near, 1) AS pd_from,
            least(pd_at + pd_near, len(pd_start)) AS pd_to
        FROM (SELECT id AS pd_asked, pos::BIGINT + 1 AS pd_at, n::BIGINT AS pd_near)
        JOIN {spans} ON pd_id = pd_asked
        WHERE pd_id = id
    )
)"""
_TOKEN_AT = """(
    SELECT pd_token
    FROM (SELECT id AS pd_asked, pos::BIGINT + 1 AS pd_at)
    JOIN {spans} ON pd_id = pd_asked
    JOIN (SELECT token_id AS pd_token_id, token AS pd_token FROM {schema}.vocab)
        ON pd_token_id = CASE WHEN pd_at > 0 THEN pd_ids[pd_at] END
    WHERE pd_id = id
)"""
_PAUSE_TEXT = """(
    SELECT coalesce(array_to_string(list_transform(
        pd_cut, lambda pd_until, pd_nth:
            substr(pd_response, pd_from[pd_nth] + 1, pd_until - pd_from[pd_nth])
            || repeat({pause}, pd_count[pd_nth])
    ), ''), '') || substr(pd_response, pd_from[-1] + 1)
    FROM (
        SELECT *, list_concat([0], pd_cut) AS pd_from
        FROM (SELECT example AS pd_asked, placement AS pd_of)
        JOIN ({cuts}) ON pd_id = pd_asked AND pd_placement = pd_of
        WHERE pd_id = example AND pd_placement = placement
    )
)"""
_NO_CUTS = """
    SELECT NULL::VARCHAR AS pd_id, NULL::VARCHAR AS pd_response, NULL::INTEGER[] AS pd_cut,
        NULL::INTEGER[] AS pd_count, NULL::VARCHAR AS pd_placement
    WHERE false
"""

FUNCTIONS: dict[str, Function] = {
    "ppl": Function(
        "logprob",
        "exp(-avg(logprob))",
        "perplexity of the tokens, an aggregate; no FILTER or DISTINCT",
    ),
    "surprisal": Function("logprob", "(0 - logprob) / ln(2)", "a log-probability in bits"),
    "context": Function(
        "id, pos, n", _CONTEXT, "the token at pos as ⟦token⟧, between the n tokens before and after"
    ),
    "token_at": Function("id, pos", _TOKEN_AT, "the text of the token at pos"),
    "pause_text": Function(
        "example, placement", _PAUSE_TEXT, "the response of the example, with its pauses"
    ),
}


def create_macros(
    connection: duckdb.DuckDBPyConnection,
    version: Version,
    schema: str,
    vocabulary: Vocabulary,
    scan: Callable[[str, RowSource], str],
) -> None:
    """Create the functions in the schema ``schema``, over the dataset that its views show.

    ``scan`` gives the SQL name of a source, as for ``create_views``.
    """
    from pausedata.query.spans import Cuts, Spans

    cuts = []
    for number, name in enumerate(version.placements):
        table = scan(f"{schema}_cuts_{number}", Cuts(version, name))
        cuts.append(f"SELECT *, {literal(name)} AS pd_placement FROM {table}")
    of_dataset = {
        "schema": identifier(schema),
        "pause": literal(version.manifest.pause.token),
        "spans": scan(f"{schema}_spans", Spans(version, vocabulary)),
        "cuts": union(cuts) if cuts else _NO_CUTS,
    }
    for name, function in FUNCTIONS.items():
        body = function.body.format(**of_dataset)
        signature = f"{identifier(schema)}.{name}({function.parameters})"
        connection.execute(f"CREATE MACRO {signature} AS {body}")
