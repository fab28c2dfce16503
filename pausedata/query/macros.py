"""The functions that questions about scores and pauses need, as DuckDB macros."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pausedata.query.views import identifier

if TYPE_CHECKING:
    import duckdb

    from pausedata.store.dataset import Version

# name → (parameters, body, what it gives)
FUNCTIONS: dict[str, tuple[str, str, str]] = {
    "ppl": ("logprob", "exp(-avg(logprob))", "perplexity of the tokens: an aggregate"),
    "surprisal": ("logprob", "-logprob / ln(2)", "of a log-probability in nats, in bits"),
}


def create_macros(connection: duckdb.DuckDBPyConnection, version: Version, schema: str) -> None:
    """Create the functions in the schema ``schema``, over its views."""
    for name, (parameters, body, _) in FUNCTIONS.items():
        connection.execute(f"CREATE MACRO {identifier(schema)}.{name}({parameters}) AS {body}")
