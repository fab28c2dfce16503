"""What ``prepare-model`` did, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pausedata.models.prepare import PreparedModel

_WAS = {
    "new": "new to the tokenizer",
    "text": "an ordinary token before, now a special one",
    "special": "the tokenizer had it already, and is left as it is",
}


def describe_prepared(prepared: PreparedModel) -> list[str]:
    """Lines for a person, the last of them Python."""
    head = "tied to the head" if prepared.tied else "the head has rows of its own"
    rows = f"{prepared.rows:,} rows"
    if prepared.rows != prepared.rows_before:
        rows += f" ({prepared.rows_before:,} before)"
    else:
        rows += ", as before"
    row = f"set by {prepared.init}" if prepared.init else "left as it was"
    return [
        f"{prepared.token} is id {prepared.id}: {_WAS[prepared.was]}",
        f"embedding: {rows}, {head}; the token's row is {row}",
        f"weights: {prepared.files_rewritten} files rewritten, {prepared.files_copied} copied",
        f"wrote {prepared.out}",
        "",
        f'AutoModelForCausalLM.from_pretrained("{prepared.out}")',
        f'AutoTokenizer.from_pretrained("{prepared.out}")',
    ]
