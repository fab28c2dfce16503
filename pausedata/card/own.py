"""``CARD.md``: what a person writes into the card. Its front matter goes over what is generated."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pausedata.card.licenses import LICENSES
from pausedata.errors import UsageError, nearest

OWN = "CARD.md"
# Where the page goes among the person's words; without it, after them.
HERE = "<!-- pausedata -->"
_FRONT = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Own:
    """The front matter and the words."""

    front: dict[str, Any] = field(default_factory=dict)
    body: str = ""


def read_own(root: Path, license: str | None = None) -> Own:
    """What ``CARD.md`` of the dataset at ``root`` says, if it is there; ``license`` goes over it.

    UsageError where its front matter is no YAML mapping, or a licence is none of the Hub's.
    """
    path = root / OWN
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}.") from None
    match = _FRONT.match(text)
    front: Any = {}
    if match is not None:
        try:
            front = yaml.safe_load(match[1])
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f", line {mark.line + 2}" if mark is not None else ""
            problem = getattr(error, "problem", None) or "no YAML"
            raise UsageError(f"{path}{where}: its front matter is no YAML: {problem}.") from None
        front = {} if front is None else front
        if not isinstance(front, dict):
            raise UsageError(f"{path}: its front matter is no mapping; write `key: value` lines.")
    if license is not None:
        front = front | {"license": license}
    _check_license(front.get("license"), "--license" if license is not None else str(path))
    return Own(front, text[match.end() :] if match else text)


def remember_license(root: Path, license: str) -> None:
    """Put a licence into ``CARD.md``, the rest of which stays as it is."""
    read_own(root, license)  # which refuses what the Hub does not know
    path = root / OWN
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    line = f"license: {license}\n"
    match = _FRONT.match(text)
    if match is None:
        new = f"---\n{line}---\n{text}"
    else:
        kept = re.sub(r"^license[ \t]*:.*\r?\n", "", match[1], flags=re.MULTILINE)
        new = text[: match.start(1)] + line + kept + text[match.end(1) :]
    if new != text:
        path.write_text(new, encoding="utf-8")


def _check_license(license: Any, where: str) -> None:
    for one in license if isinstance(license, list) else [license]:
        if one is not None and one not in LICENSES:
            raise UsageError(
                f"{where}: '{one}' is no licence that the Hub knows.{nearest(str(one), LICENSES)} "
                "For one of its own write `other`, with license_name in CARD.md."
            )
