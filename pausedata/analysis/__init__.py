"""What a dataset says of itself: its figures, its history, what differs, whether all is whole.

`stats` (stats, manifest_stats), `history.history`, `diff.diff`, `verify.verify`, and `provenance`,
where tables come from. All of it reads; nothing here changes a dataset.
"""
