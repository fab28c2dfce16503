"""What names may look like, in recipes, manifests and on the command line."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
SPLIT_PATTERN = r"^\w+(\.\w+)*$"

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Split = Annotated[str, Field(pattern=SPLIT_PATTERN)]


_ID = re.compile(r"[A-Za-z0-9_]([\w.-]{0,94}\w)?/[A-Za-z0-9_]([\w.-]{0,94}\w)?", re.ASCII)


def is_repo(text: str) -> bool:
    """Whether ``text`` is an id of the Hub's, of a model or a dataset."""
    return bool(_ID.fullmatch(text)) and ".." not in text and "--" not in text
