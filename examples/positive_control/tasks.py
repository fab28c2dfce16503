"""The tasks: one in which thinking before the answer helps, and one in which nothing can."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

EASY = 0.3  # of the problems have one digit


@dataclass(frozen=True)
class Problem:
    """``6604:7=``: each digit is looked up in table 7, and the answer is whether the sum is odd."""

    digits: tuple[int, ...]
    key: int
    bits: tuple[int, ...]  # what each look-up finds

    @property
    def prompt(self) -> str:
        """The key comes last, so that nothing can be looked up before it."""
        return f"{''.join(map(str, self.digits))}:{self.key}="

    @property
    def answer(self) -> int:
        """1 where an odd number of the look-ups found 1."""
        return sum(self.bits) % 2

    @property
    def response(self) -> str:
        """As GSM8K writes it."""
        return f"{self.answer}\n#### {self.answer}"


def tables() -> list[list[int]]:
    """A bit for each of ten keys and ten digits, drawn once: nothing but memory knows them."""
    draw = random.Random(7)
    return [[draw.randrange(2) for _ in range(10)] for _ in range(10)]


def problems(digits: int, seed: int) -> Iterator[Problem]:
    """Problems of so many digits, three in ten of one, without end."""
    draw, found = random.Random(seed), tables()
    while True:
        count = 1 if draw.random() < EASY else digits
        key = draw.randrange(10)
        some = tuple(draw.randrange(10) for _ in range(count))
        yield Problem(some, key, tuple(found[key][digit] for digit in some))


def coins(seed: int) -> Iterator[tuple[str, str]]:
    """24 bits of which three in ten are ones: there is nothing to think about."""
    draw = random.Random(seed)
    while True:
        bits = "".join("01"[draw.random() < 0.3] for _ in range(24))
        yield f"{draw.randrange(10**6):06d}=", f" {bits}"


def write(
    folder: Path, rows: Callable[[int], Iterator[tuple[str, str]]], train: int, test: int
) -> None:
    """So many rows for training and others for testing; no prompt of the first is in the second."""
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    seen: set[str] = set()
    for split, count, seed in (("train", train, 1), ("test", test, 2)):
        lines = []
        for prompt, response in rows(seed):
            if split == "train":
                seen.add(prompt)
            elif prompt in seen:
                continue
            lines.append(json.dumps({"prompt": prompt, "response": response}) + "\n")
            if len(lines) == count:
                break
        (unfinished / f"{split}.jsonl").write_text("".join(lines), "utf-8")
    unfinished.rename(folder)
