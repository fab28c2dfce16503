"""The format ``pausedata/1`` on disk: tables, shards, manifest, versions, verify.

docs/format.md is its specification. Nothing here knows of models or of the terminal.
"""
