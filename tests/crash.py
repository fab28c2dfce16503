"""A session of commands, ended at one moment: what is there then, and what a second run makes.

Run as a program by test_crash.py. It loads the tiny model once and forks, since a fresh process
takes seconds to import torch. How a session ends:

- ``call``: killed at the Nth call that touches the dataset's folder;
- ``seconds``: killed after a time, by the kernel, wherever it is;
- ``refused``: the Nth call that writes there fails, as on a disk that is full;
- ``full``: the disk is full: a file system in memory of so many kilobytes (where mounting it is
  allowed), which has room again for the second run.
"""

from __future__ import annotations

import errno
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

from pausedata import scorers
from pausedata.analysis.verify import verify, verify_others
from pausedata.core.progress import Silent
from pausedata.models.ref import ModelRef
from pausedata.pipeline import resolve
from pausedata.pipeline.build import build
from pausedata.pipeline.commands import export, place, remove, score
from pausedata.pipeline.recipe import Export, Placement, load_recipe
from pausedata.pipeline.score_request import ScoreRequest
from pausedata.store.dataset import open_version
from pausedata.store.gc import collect, plan_gc
from pausedata.store.pointer import read_pointer

# What Python tells its audit hooks before it does it. Parquet is written by C++, unseen: the
# moments by time fall there.
CALLS = {
    "open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.symlink",
}  # fmt: skip
NEED_ROOM = {"os.rename", "os.link", "os.mkdir", "os.symlink"}
KILOBYTE = 1024


def session(recipe: Path, other_model: Path, root: Path) -> None:
    """Every kind of command, twice over without harm: score, place, export, remove, collect."""
    build(load_recipe(recipe), root)
    place(root, {"more": Placement(strategy="append", tokens=2)}, replace=True)  # type: ignore[call-arg]
    score(root, "epoch-1", ScoreRequest(model=str(other_model)))
    later = Placement(strategy="lowest_logprob", positions=2, run="epoch-1")  # type: ignore[call-arg]
    place(root, {"later": later})
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


def needs_room(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether a call can fail on a full disk."""
    if event != "open":
        return event in NEED_ROOM
    _, mode, flags = arguments
    return bool(set(mode or "") & set("wax+") or (flags or 0) & (os.O_WRONLY | os.O_RDWR))


def count_calls(root: Path, kind: str = "", last: int = 0) -> Callable[[], tuple[int, int]]:
    """Count the calls that touch ``root``, and those of them that need room.

    The call, or the one that needs room, numbered ``last`` kills this process, or fails.
    """
    counted, with_room = 0, 0
    within = str(root)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal counted, with_room
        if event not in CALLS or within not in str(arguments[0]):
            return
        counted += 1
        if kind == "call" and counted == last:
            os.kill(os.getpid(), signal.SIGKILL)
        if needs_room(event, arguments):
            with_room += 1
            if kind == "refused" and with_room == last:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))

    sys.addaudithook(hook)
    return lambda: (counted, with_room)


def size_of(root: Path) -> int:
    """The room that a dataset takes, in kilobytes; a file with several names counts once."""
    found = [p.stat() for p in root.rglob("*") if not p.is_symlink()]
    return sum({stat.st_ino: stat.st_blocks for stat in found}.values()) // 2


def mount(folder: Path, kilobytes: int, *, again: bool = False) -> bool:
    """Whether a file system in memory of that size is at ``folder`` now."""
    options = f"{'remount,' if again else ''}size={kilobytes}k"
    command = f"mount -t tmpfs -o {options} tmpfs {folder} 2>/dev/null"
    return os.waitstatus_to_exitcode(os.system(command)) == 0


def whole(root: Path) -> list[str]:
    """What a reader and ``verify`` find wrong with what is there; nothing where nothing is."""
    if read_pointer(root) is None:
        return []
    version = open_version(root)
    others = verify_others(version, Silent())
    return [*verify(version, Silent()), *(f"{n}: {p}" for n, p in others.items())]


def load_models_once(*ids: str) -> None:
    """Load what every session uses before it is forked: loading it is not what is tested."""
    load = scorers.load_scorer
    resolve.load_tokenizer = functools.cache(resolve.load_tokenizer)
    once = functools.cache(lambda backend, ref, dtype: load(backend, ref, dtype=dtype))
    scorers.load_scorer = lambda backend, ref, *, dtype, **_: once(backend, ref, dtype)
    for id in ids:
        ref = ModelRef.parse(id, None, Path())
        resolve.load_tokenizer(ref)
        once("transformers", ref, "float32")


def choose(seed: int, count: int, undisturbed: dict[str, Any]) -> list[tuple[str, float]]:
    """``count`` kills, a third of them by time, and a fifth as many full disks of either kind."""
    chance = random.Random(seed)
    by_time = count // 3
    calls, with_room = undisturbed["calls"]
    seconds = [("seconds", chance.uniform(0, undisturbed["seconds"])) for _ in range(by_time)]
    killed = chance.sample(range(1, calls + 1), min(calls, count - by_time))
    refused = chance.sample(range(1, with_room + 1), min(with_room, count // 5))
    full = [chance.randint(16, undisturbed["kilobytes"]) for _ in range(count // 5)]
    return [
        *seconds,
        *(("call", number) for number in killed),
        *(("refused", number) for number in refused),
        *(("full", kilobytes) for kilobytes in full),
    ]


def main(folder: Path, recipe: Path, other_model: Path, count: int, seed: int) -> None:
    """Print a JSON line for every moment: what was wrong after it, and after the second run."""
    load_models_once(str(load_recipe(recipe).recipe.model.id), str(other_model))

    def undisturbed(root: Path) -> Any:
        calls = count_calls(root)
        started = time.monotonic()
        session(recipe, other_model, root)
        seconds = time.monotonic() - started
        return {
            "calls": calls(), "seconds": seconds, "kilobytes": size_of(root), "state": state(root),
        }  # fmt: skip

    _, expected = in_child(lambda: undisturbed(folder / "undisturbed"))
    if "error" in expected:
        sys.exit(expected["error"])
    for number, (kind, moment) in enumerate(choose(seed, count, expected)):
        place = folder / f"ended-{number}"
        place.mkdir()
        if kind == "full" and not mount(place, int(moment)):
            continue
        root = place / "data"

        def disturbed(root: Path = root, kind: str = kind, moment: float = moment) -> None:
            count_calls(root, kind, int(moment))
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

        status, said = in_child(disturbed, moment if kind == "seconds" else None)
        if kind == "full":
            mount(place, 64 * KILOBYTE, again=True)
        _, found = in_child(rerun)
        ended = os.WIFSIGNALED(status) or "No space left" in (said or {}).get("error", "")
        print(json.dumps({"kind": kind, "moment": moment, "ended": ended} | found), flush=True)
        if kind == "full":
            os.system(f"umount {place}")
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    paths = [Path(word) for word in sys.argv[1:4]]
    main(paths[0], paths[1], paths[2], int(sys.argv[4]), int(sys.argv[5]))
