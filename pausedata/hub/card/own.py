"""``CARD.md``: what a person writes into the card. Its front matter goes over what is generated."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pausedata.core.errors import UsageError, nearest
from pausedata.hub.card.licenses import LICENSES
from pausedata.store import files

OWN = "CARD.md"
# Where the generated page goes in the person's text; without this mark, after it.
PAGE_MARK = "<!-- pausedata -->"
# Front matter, which may follow blank lines, as the Hub allows.
_FRONT = re.compile(r"\A\s*^---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_OPENED = re.compile(r"\A\s*^---[ \t]*\r?$", re.MULTILINE)


@dataclass(frozen=True)
class PersonsPart:
    """What ``CARD.md`` says: front matter, and text for the page."""

    front: dict[str, Any] = field(default_factory=dict)
    body: str = ""


def read_own(root: Path, license: str | None = None) -> PersonsPart:
    """What ``CARD.md`` of the dataset at ``root`` says; ``license`` takes the place of its own.

    UsageError where its front matter is no YAML mapping, or a licence is none of the Hub's.
    """
    path = root / OWN
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}.") from None
    match = _FRONT.match(text)
    if match is None and (start := _OPENED.match(text)):
        line = text.count("\n", 0, start.end()) + 1
        raise UsageError(
            f"{path}, line {line}: its front matter is not closed: end it with a line `---`. "
            "A rule at the beginning of a page is `***`."
        )
    front: Any = {}
    if match is not None:
        try:
            front = yaml.safe_load(match[1])
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            before = text.count("\n", 0, match.start(1))
            where = f", line {mark.line + before + 1}" if mark is not None else ""
            problem = getattr(error, "problem", None) or "no YAML"
            raise UsageError(f"{path}{where}: its front matter is no YAML: {problem}.") from None
        front = {} if front is None else front
        if not isinstance(front, dict):
            raise UsageError(f"{path}: its front matter is no mapping; write `key: value` lines.")
    for key in front:
        if not isinstance(key, str):
            raise UsageError(f"{path}: the key {key!r} of its front matter is no word: quote it.")
    front = {key: value for key, value in front.items() if value not in (None, [], "")}
    if license is not None:
        front = front | {"license": license}
    for key in ("license", "language", "tags"):
        value = front.get(key, "")
        if not all(isinstance(one, str) for one in (value if isinstance(value, list) else [value])):
            raise UsageError(
                f"{path}: its `{key}` is {value!r}: give a word, or a list of words, in quotes "
                "where YAML reads another thing (`no` is false)."
            )
    _check_license(front.get("license"), "--license" if license is not None else str(path))
    return PersonsPart(front, text[match.end() :] if match else text)


def remember_license(root: Path, license: str) -> None:
    """Put a licence into ``CARD.md``; all else in it stays as it is, byte for byte.

    UsageError where it names another one in a form that is not a single line.
    """
    before = read_own(root)
    read_own(root, license)  # which refuses what the Hub does not know
    if before.front.get("license") == license:
        return
    path = root / OWN
    text = path.read_bytes().decode("utf-8-sig") if path.exists() else ""
    line = f"license: {license}\n"
    match = _FRONT.match(text)
    if match is None:
        new = f"---\n{line}---\n{text}"
    else:
        kept = re.sub(r"^license[ \t]*:.*\r?\n", "", match[1], flags=re.MULTILINE)
        new = text[: match.start(1)] + line + kept + text[match.end(1) :]
    found = _FRONT.match(new)
    try:
        front = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        front = None
    if front != before.front | {"license": license}:
        raise UsageError(f"{path}: names a licence already: change it there, not by --license.")
    with files.replacing(path) as temporary:
        temporary.write_bytes(new.encode())


def _check_license(license: Any, where: str) -> None:
    for one in license if isinstance(license, list) else [license]:
        if one is not None and one not in LICENSES:
            hint = nearest(str(one).lower(), LICENSES)
            raise UsageError(
                f"{where}: '{one}' is no licence that the Hub knows.{hint} For one of its own "
                "write `other`, with license_name in CARD.md."
            )
