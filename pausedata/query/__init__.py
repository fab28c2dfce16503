"""SQL over a version: DuckDB views over its shards, and what becomes of a result.

`session.Session` is a connection shut off from all else, `run.run` runs a query in it,
`output.write` writes its rows; `python.connect` is for programs, `choose.choose` finds examples.
"""
