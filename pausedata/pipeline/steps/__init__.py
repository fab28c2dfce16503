"""The steps of a build. Each reads tables and makes the next, shard by shard."""
