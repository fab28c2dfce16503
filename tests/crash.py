"""A session of commands, killed at one moment: what is there then, and what a second run makes.

Run as a program by test_crash.py. It loads the tiny model once and forks, since a fresh process
takes seconds to import torch. A moment is a number of calls that touch the dataset's folder, of
which the last is not made any more, or a time after which the kernel is told to kill.
"""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pausedata import models, scorers
from pausedata.build import build
from pausedata.change import export, place, remove, score
from pausedata.progress import Silent
from pausedata.recipe import Export, Placement, load_recipe
from pausedata.runs import Asked
from pausedata.store.dataset import open_version, read_pointer
from pausedata.store.gc import collect, plan_gc
from pausedata.verify import verify, verify_others

# What Python tells its audit hooks before it does it. Parquet is written by C++, unseen: the
# moments by time fall there.
CALLS = {
    "open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.symlink",
}  # fmt: skip


def session(recipe: Path, other_model: Path, root: Path) -> None:
    """Every kind of command, twice over without harm: score, place, export, remove, collect."""
    build(load_recipe(recipe), root)
    place(root, "more", Placement(strategy="append", tokens=2), replace=True)  # type: ignore[call-arg]
    score(root, "epoch-1", Asked(model=str(other_model)))
    later = Placement(strategy="lowest_logprob", positions=2, run="epoch-1")  # type: ignore[call-arg]
    place(root, "later", later)
    export(root, "later-tokenized", Export(placement="later", format="tokenized"))
    remove(root, ["placements/more"])
    collect(plan_gc(root, older_than=0))


def state(root: Path) -> dict[str, str]:
    """The content hash of every table in the current version."""
    return {name: entry.content for name, entry in open_version(root).manifest.tables.items()}


def in_child(act: Callable[[], Any], limit: float | None = None) -> tuple[int, Any]:
    """Run ``act`` in a fork: its wait status and result. It is killed after ``limit`` seconds."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            said = json.dumps(act())
        except BaseException:
            said = json.dumps({"error": traceback.format_exc()})
        os.write(writing, said.encode()[-60_000:])
        os._exit(0)
    os.close(writing)
    if limit is not None:
        time.sleep(limit)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    return status, json.loads(said) if said else None


def count_calls(root: Path, last: int | None) -> Callable[[], int]:
    """Count the calls that touch ``root``; the one numbered ``last`` ends this process instead."""
    counted = 0
    within = str(root)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal counted
        if event in CALLS and within in str(arguments[0]):
            counted += 1
            if counted == last:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return lambda: counted


def whole(root: Path) -> list[str]:
    """What a reader and ``verify`` find wrong with what is there; nothing where nothing is."""
    if read_pointer(root) is None:
        return []
    version = open_version(root)
    others = verify_others(version, Silent())
    return [*verify(version, Silent()), *(f"{n}: {p}" for n, p in others.items())]


def main(folder: Path, recipe: Path, other_model: Path, count: int, seed: int) -> None:
    """Print a JSON line for every moment: what was wrong after it, and after the second run."""
    models.load_tokenizer = functools.cache(models.load_tokenizer)
    load_scorer = functools.cache(
        lambda backend, ref, dtype: scorers_load(backend, ref, dtype=dtype, device="cpu")
    )
    scorers_load = scorers.load_scorer
    scorers.load_scorer = lambda backend, ref, *, dtype, **_: load_scorer(backend, ref, dtype)
    for model in (load_recipe(recipe).recipe.model.id, str(other_model)):
        ref = models.ModelRef.parse(model, None, Path())
        models.load_tokenizer(ref)
        load_scorer("transformers", ref, "float32")

    def undisturbed(root: Path) -> Any:
        calls = count_calls(root, None)
        started = time.monotonic()
        session(recipe, other_model, root)
        return {"calls": calls(), "seconds": time.monotonic() - started, "state": state(root)}

    plain = folder / "undisturbed"
    _, expected = in_child(lambda: undisturbed(plain))
    if "error" in expected:
        sys.exit(expected["error"])
    chance = random.Random(seed)
    by_time = count // 3
    moments: list[tuple[str, float]] = [
        ("seconds", chance.uniform(0, expected["seconds"])) for _ in range(by_time)
    ]
    calls = range(1, expected["calls"] + 1)
    moments += [("call", n) for n in chance.sample(calls, min(len(calls), count - by_time))]
    for number, (kind, moment) in enumerate(moments):
        root = folder / f"killed-{number}"

        def disturbed(root: Path = root, kind: str = kind, moment: float = moment) -> None:
            count_calls(root, int(moment) if kind == "call" else None)
            session(recipe, other_model, root)

        def rerun(root: Path = root) -> Any:
            problems = whole(root)
            session(recipe, other_model, root)
            left = sorted(p.name for p in (root / "staging").iterdir())
            return {
                "after": problems,
                "same": state(root) == expected["state"],
                "finally": whole(root),
                "staging": left,
            }

        status, _ = in_child(disturbed, moment if kind == "seconds" else None)
        _, found = in_child(rerun)
        said = {"kind": kind, "moment": moment, "killed": os.WIFSIGNALED(status)} | found
        print(json.dumps(said), flush=True)
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    paths = [Path(word) for word in sys.argv[1:4]]
    main(paths[0], paths[1], paths[2], int(sys.argv[4]), int(sys.argv[5]))
