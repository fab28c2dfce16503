"""What the scripts that make a page of docs/ share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path


def write_or_check(target: Path, render: Callable[[], str], description: str, made_of: str) -> int:
    """Write ``target``; with --check nothing, and 1 where it is not what would be written."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if it differs")
    check = parser.parse_args().check
    text = render()
    if not check:
        target.write_text(text, encoding="utf-8")
        return 0
    if target.is_file() and target.read_text(encoding="utf-8") == text:
        return 0
    print(f"docs/{target.name} is not what {made_of}: run `make docs`", file=sys.stderr)
    return 1
