"""The pause token in a model's tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pausedata.core.errors import UsageError, first_line
from pausedata.models.cache import load_tokenizer
from pausedata.models.ref import ModelRef, quiet
from pausedata.models.tokenizer import Tokenizer, with_special_token


@dataclass(frozen=True)
class PauseToken:
    """The token, and what the tokenizer made of it before."""

    text: str
    id: int  # as in the exports of datasets that were made with this tokenizer
    was: str  # new: not there; text: an ordinary token of the vocabulary; special: there already


def find_token(tokenizer: Tokenizer, text: str) -> PauseToken:
    """The id that the token has, or gets."""
    id, is_new = tokenizer.pause_id(text)
    if is_new:
        return PauseToken(text, id, "new")
    added = tokenizer.hf.added_tokens_decoder.get(id)
    special = added is not None and added.special
    return PauseToken(text, id, "special" if special else "text")


def save_tokenizer(ref: ModelRef, token: PauseToken, folder: Path) -> None:
    """Write the tokenizer with ``token`` as a special one to ``folder``.

    UsageError where it cannot be saved so that it comes back with the same ids.
    """
    original = load_tokenizer(ref)
    before = Tokenizer(original).hash(token.text)
    hf = with_special_token(original, token.text)
    with quiet():
        hf.save_pretrained(str(folder))
    try:
        saved = Tokenizer(load_tokenizer(ModelRef("folder", ref.name, folder)))
    except UsageError as error:
        raise UsageError(
            f"{ref.name}: its tokenizer cannot be saved: {first_line(error)}"
        ) from None
    if saved.pause_id(token.text) != (token.id, False) or saved.hash(token.text) != before:
        raise UsageError(
            f"{ref.name}: its tokenizer does not come back from disk as it was. Please report it."
        )


def token_id_of(tokenizer: Tokenizer, text: str) -> int:
    """The id of ``text``, which must be one token of the vocabulary (`--init copy:TEXT`)."""
    own = tokenizer.backend.token_to_id(text)
    if own is not None:
        return own
    ids = tokenizer.backend.encode(text, add_special_tokens=False).ids
    if len(ids) == 1:
        return ids[0]
    names = tokenizer.hf.convert_ids_to_tokens(ids)
    raise UsageError(f"--init copy:{text}: that is {len(ids)} tokens here: {names}. Name one.")
