"""Damaged shards of ``tokens`` made again from the stored examples.

Where the source has changed since, it does not give them any more; but which scores are of which
examples is told by the ids that were scored.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from pausedata.models.tokens import Tokenized
from pausedata.pipeline.resolve import Resolved
from pausedata.pipeline.steps.prepare import tokens_table
from pausedata.store.dataset import Version
from pausedata.store.files import sha256_of
from pausedata.store.shards import write_shard


def retokenize(resolved: Resolved, version: Version, folder: Path) -> dict[str, str]:
    """Make the damaged shards of the version's ``tokens`` again, in ``folder``.

    Returns the sha256 of each that came out to the last bit as it was, by its path. Others do not:
    their examples are damaged as well, or they were made by another tokenizer, other rules, or a
    release of pyarrow that writes other bytes.
    """
    tokens, examples = version.table("tokens"), version.table("examples")
    lost, unreadable = tokens.damaged(), examples.damaged()
    found: dict[str, str] = {}
    for shard, own in zip(tokens.shards, examples.shards, strict=True):
        if shard.path not in lost or own.path in unreadable or examples.absent:
            continue
        rows = _tokens_of(resolved, examples.read(own, ["id", "prompt", "response"]))
        if rows is not None:
            write_shard(folder / shard.path, rows)
            if sha256_of(folder / shard.path) == shard.sha256:
                found[shard.path] = shard.sha256
    return found


def _tokens_of(resolved: Resolved, examples: pa.Table) -> pa.Table | None:
    """Rows of ``tokens``; None where one of the examples would be turned down now."""
    ids, prompts, responses = (column.to_pylist() for column in examples.columns)
    encoded = resolved.token_builder().encode(prompts, responses)
    kept = [tokens for tokens in encoded if isinstance(tokens, Tokenized)]
    return tokens_table(list(zip(ids, kept, strict=True))) if len(kept) == len(ids) else None
