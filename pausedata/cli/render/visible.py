"""Text from data, safe to print: no character of it can move the cursor or turn the line about."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

NEWLINE = "⏎"

_TURNS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
# Signs of Arabic, Syriac and Kaithi that are formats by category, but are seen.
_SEEN = set(
    "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
)
_JOINERS = "\u200c\u200d"
# What says in a flag which country's it is: those of England, Scotland and Wales.
_FLAG = re.compile("\U0001f3f4[\U000e0020-\U000e007e]+\U000e007f")


def visible(text: str, newline: str = NEWLINE) -> str:
    """``text`` with control characters as pictures or escapes, and ``newline`` for each newline.

    So are the characters that are not seen, an order of writing or a space of no width. A joiner
    between two letters or emoji stays, and so does what belongs to a flag.
    """
    return "".join(visible_characters(text, newline))


def visible_characters(text: str, newline: str = NEWLINE) -> list[str]:
    """What ``visible`` makes of each character, one for one."""
    shown = [newline if c == "\n" else _shown(c) for c in text]
    if any(joiner in text for joiner in _JOINERS):
        for k, character in enumerate(text):
            beside = text[max(0, k - 1) : k] + text[k + 1 : k + 2]
            if character in _JOINERS and (len(beside) < 2 or any(map(str.isascii, beside))):
                shown[k] = _escaped(character)
    if "\U000e007f" in text:
        for flag in _FLAG.finditer(text):
            shown[flag.start() : flag.end()] = flag[0]
    return shown


@lru_cache(4096)
def _shown(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)  # ␀ ␁ … the pictures that Unicode has for control characters
    if code == 0x7F:
        return "␡"
    # C1 controls, breaks of lines, and the format characters, which reorder text or are not seen.
    category = unicodedata.category(character)
    if category in ("Cc", "Zl", "Zp") or unicodedata.bidirectional(character) in _TURNS:
        return _escaped(character)
    if category == "Cf" and character not in _SEEN and character not in _JOINERS:
        return _escaped(character)
    return character


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
