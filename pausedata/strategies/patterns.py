"""Regular expressions that people write: whether they are some, and match the same everywhere."""

from __future__ import annotations

import platform
import re
import sys
from typing import Any

# CPython 3.11.0 to 3.11.4 (Debian 12 has 3.11.2) match a possessive quantifier over a group
# wrongly, in silence: `(?:\d++,)*+` takes a comma that no number follows (python/cpython#106052).
# Atomic groups, and possessive quantifiers over a single character, are right there.
MISREADS_POSSESSIVE = (3, 11, 0) <= sys.version_info < (3, 11, 5)


def checked_pattern(pattern: str) -> str:
    """``pattern`` if it is a regular expression; else a ValueError that says where it is not.

    Also a ValueError where this release of Python would match it otherwise than a later one.
    """
    try:
        re.compile(pattern)
    except re.error as error:
        at = "" if error.pos is None else f", at character {error.pos}"
        raise ValueError(f"not a regular expression: {error.msg}{at}") from None
    if MISREADS_POSSESSIVE and possessive_groups(pattern):
        raise ValueError(
            "a possessive quantifier over a group, which Python 3.11.0 to 3.11.4 match wrongly, "
            f"and this is {platform.python_version()}: write (?>(?:…)*) for (?:…)*+, which is the "
            "same, or take Python 3.11.5 or newer"
        )
    return pattern


def possessive_groups(pattern: str) -> bool:
    """Whether a possessive quantifier repeats more than a single character somewhere in it."""
    # The standard library's own parser: private, but asked only by releases that no longer change.
    from re import _constants, _parser  # pyright: ignore[reportAttributeAccessIssue]

    single = (_constants.LITERAL, _constants.NOT_LITERAL, _constants.ANY, _constants.IN)

    def found(tree: Any) -> bool:
        if not isinstance(tree, (tuple, list, _parser.SubPattern)):
            return False
        parts = [*tree]
        if parts and parts[0] is _constants.POSSESSIVE_REPEAT:
            _, _, body = parts[1]
            if len(body) > 1 or body[0][0] not in single:
                return True
        return any(map(found, parts))

    return found(_parser.parse(pattern))
