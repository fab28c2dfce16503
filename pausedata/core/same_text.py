"""When two texts are taken for the same one, and hashes that tell so."""

from __future__ import annotations

import hashlib
import re
import unicodedata

_WORD = re.compile(r"[^\W_]+")


def normalise(text: str) -> str:
    """NFKC, casefolded, words and numbers alone, single spaces between them.

    A text without any word or number stays itself, but for NFKC, case and white space.
    """
    if text.isascii():  # to which NFKC does nothing
        folded = text.lower()
    else:
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(_WORD.findall(folded) or folded.split())


def salted_hash(salt: str, text: str) -> bytes:
    """The sha256 of the normalised ``text`` under ``salt``: other salts know nothing of it."""
    # A lone surrogate, which JSON may hold, has no UTF-8 of its own.
    return hashlib.sha256(f"{salt}\n{normalise(text)}".encode("utf-8", "surrogatepass")).digest()
