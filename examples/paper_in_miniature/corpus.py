"""A corpus of arithmetic in several steps, whose answers are written step by step."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

MODULUS = 100  # results stay below it, so that a small model can know them all


def problem(rng: random.Random, steps: int) -> dict[str, str]:
    """A question such as ``7+5*3-4``, worked out from left to right, and its answer."""
    value = rng.randrange(1, 10)
    question, answer = str(value), ""
    for _ in range(steps):
        sign, by = rng.choice("+-*"), rng.randrange(2, 10)
        result = {"+": value + by, "-": value - by, "*": value * by}[sign] % MODULUS
        question += f"{sign}{by}"
        answer += f"{value}{sign}{by}={result} "
        value = result
    return {"question": question, "answer": f"{answer.strip()}\n#### {value}"}


def problems(seed: int, steps: range, without: set[str] | None = None) -> Iterator[dict[str, str]]:
    """Problems without end, each once, none whose question is among ``without``."""
    rng = random.Random(seed)
    seen = set(without or ())
    while True:
        row = problem(rng, rng.choice(steps))
        if row["question"] not in seen:
            seen.add(row["question"])
            yield row


def write(folder: Path, steps: range, rows: dict[str, int]) -> None:
    """``folder/data/SPLIT.jsonl`` with so many rows each, no question twice in any of them."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    source = problems(1, steps)
    for split, count in rows.items():
        lines = [json.dumps(next(source)) for _ in range(count)]
        (folder / "data" / f"{split}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
