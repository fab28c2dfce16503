"""The pause in a tokenizer, and what its tokens add to a text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pausedata.core.errors import UsageError
from pausedata.models.tokenizer import Pieces


def find_pause(tokenizer: Any, pause_token: str) -> int:
    """The id of the pause; UsageError where the tokenizer has no such token."""
    found = tokenizer.convert_tokens_to_ids(pause_token)
    if not isinstance(found, int) or tokenizer.convert_ids_to_tokens(found) != pause_token:
        name = getattr(tokenizer, "name_or_path", "") or "MODEL"
        raise UsageError(
            f"the tokenizer has no token '{pause_token}'. `pausedata prepare-model {name} OUT` "
            "adds it to a model; generate with that one, or with what was trained from it."
        )
    return found


def check_rows(pause: int, rows: int, pause_token: str) -> None:
    """UsageError where the pause is not among the ``rows`` tokens that the model has."""
    if pause >= rows:
        raise UsageError(
            f"the model has {rows} tokens, and '{pause_token}' is number {pause} of its tokenizer: "
            "it has no row for the pause. `pausedata prepare-model` adds token and row."
        )


def pieces_of(tokenizer: Any) -> Callable[[int], bytes]:
    """What each token id adds to the text's UTF-8; UsageError for a tokenizer that is not fast."""
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise UsageError(
            f"{type(tokenizer).__name__} is no fast tokenizer of transformers, which pausedata "
            "needs to know the text of each token."
        )
    return Pieces(tokenizer).__getitem__
