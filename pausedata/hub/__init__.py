"""Datasets on the Hugging Face Hub: push, pull, and reading them from there.

A version is a commit, its folder the repository's root, and a tag names it. `push.push`,
`pull.pull`, `locate.located` (the folder behind ``hf://…``), and `card`, the dataset card.
"""
