"""The rule of which groups of requests may have pauses: written by the gate, obeyed by processors.

A JSON file: `{"format": "pausedata-eligibility/1", "group_by": "subject", "default": "pause",
"groups": {"algebra": "pause", "sets": "no-pause"}, "made_by": {…}}`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pausedata.core.errors import UsageError
from pausedata.core.invalid import checked

FORMAT = "pausedata-eligibility/1"
Answer = Literal["pause", "no-pause"]


class Eligibility(BaseModel):
    """Which groups may have pauses."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal["pausedata-eligibility/1"] = FORMAT
    group_by: str | None = None  #: the column that the groups were made by
    default: Answer = "pause"  #: for a group that is not named, and for a request without one
    groups: dict[str, Answer] = Field(default_factory=dict)
    made_by: dict[str, Any] = Field(default_factory=dict)  #: whence the rule: free

    def allows(self, group: str | None) -> bool:
        """Whether ``group`` may have pauses."""
        answer = self.default if group is None else self.groups.get(group, self.default)
        return answer == "pause"

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the rule as a file, replacing what is there at once."""
        path = Path(path)
        text = json.dumps(self.model_dump(), ensure_ascii=False, indent=2) + "\n"
        part = path.with_name(path.name + ".part")
        part.write_text(text, encoding="utf-8")
        part.replace(path)


def read_eligibility(path: str | os.PathLike[str]) -> Eligibility:
    """The rule in the file at ``path``; UsageError says what is wrong with it."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"{path}: no such eligibility rule. `pausedata measure --eligibility` writes one."
        ) from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # of the encoding, too
        raise UsageError(f"{path}: not JSON: {error}") from None
    return parse_eligibility(data, str(path))


def parse_eligibility(data: Any, where: str = "eligibility") -> Eligibility:
    """``data`` as a rule; UsageError, beginning with ``where``, says what is wrong with it."""
    if not isinstance(data, dict):
        raise UsageError(f"{where}: an eligibility rule is a JSON object with format and groups.")
    given = data.get("format")
    if given != FORMAT:
        later = isinstance(given, str) and given.startswith("pausedata-eligibility/")
        advice = "A newer pausedata wrote it: update." if later else f"It has to be '{FORMAT}'."
        raise UsageError(f"{where}: format is {given!r}. {advice}")
    return checked(Eligibility, data, where)
