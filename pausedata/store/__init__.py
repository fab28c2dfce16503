"""The format ``pausedata/1`` on disk: tables, shards, manifest, versions.

docs/format.md is its specification. `dataset` (open_version, Version, Table), `aligned` (runs
and placements read beside the tokens), `staging` (where a killed step's shards wait), `commit`,
`repair`, `gc`; `manifest`, `tables` and `shards` are its parts. Nothing here
knows of models, of strategies or of the terminal.
"""
