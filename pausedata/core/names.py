"""What names may look like, in recipes, manifests and on the command line."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
SPLIT_PATTERN = r"^\w+(\.\w+)*$"

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Split = Annotated[str, Field(pattern=SPLIT_PATTERN)]
