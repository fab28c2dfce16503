"""SQL over a version: DuckDB views over its shards, and what becomes of a result."""
