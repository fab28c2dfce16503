"""Text from data, safe to print: no character of it can move the cursor or turn the line about."""

from __future__ import annotations

import unicodedata

NEWLINE = "⏎"


def visible(text: str, newline: str = NEWLINE) -> str:
    """``text`` with control characters as pictures or escapes, and ``newline`` for each newline."""
    return "".join(newline if c == "\n" else _shown(c) for c in text)


def _shown(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)  # ␀ ␁ … the pictures that Unicode has for control characters
    if code == 0x7F:
        return "␡"
    # C1 controls, and the format characters that reorder text; a joiner inside an emoji stays.
    if unicodedata.category(character) == "Cc" or unicodedata.bidirectional(character) in _TURNS:
        return f"\\u{code:04x}"
    return character


_TURNS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
