"""What every room may use: errors, names, options, progress, plug-ins. It knows nothing of pauses.

`errors` (UsageError, DataError, ConflictError), `progress` (Progress, Silent), `registry` and
`plugins` (things by name), `options` and `invalid` (pydantic models, and what is wrong with a
value), `names`, `network` (the Hub's errors), `cache` (where caches are), `stopping` (Ctrl-C),
`prefetch`, `held_out` (which examples are), `same_text` (when two texts are one), `quantiles`,
`system_memory`.
"""
